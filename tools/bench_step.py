"""The training step on ready clips: what each of its optimisations gains, alone on top of those before it and last."""

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

if not __package__:  # started by path: look in the checkout, not in tools/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

# Threads that wait must sleep (docs/decisions/0004-threads-that-wait-sleep.md). Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import click
import torch

from pipeline.clip import ClipSpec
from tools.bench.gains import Found
from tools.bench.ladder import PLAIN, removals, ways_of
from tools.bench.machine import machine, machine_lines, markdown, table, write
from tools.bench.options import pick_device
from tools.bench.steps import Workload, measure
from tools.terminal import QUIET, Failed, progress
from train.command import Command
from train.models import MODELS, ModelConfig

DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"model": "res3d10", "width": 16, "batch_size": 16, "crop_size": 56, "steps": 3},
    "cuda": {"model": "res3d18", "width": 64, "batch_size": 64, "crop_size": 112, "steps": 20},
}

EPILOG = """\b
Examples:
  python tools/bench_step.py
  python tools/bench_step.py --batch-size 256 --frames 8 --json step.json --markdown step.md
  python tools/bench_step.py --leave-out torch.compile --repeats 9
  python tools/bench_step.py --device cpu --model res3d18 --width 64 --batch-size 4 --crop-size 112 --repeats 9
\b
The first table is a ladder: every line has all that the lines above have, and one thing more. The second takes one
thing away from the whole. Ways take turns, forward and backward, so that a machine that slows down slows them all;
a gain is the median over the rounds of a round's quotient, with the lowest and highest. Clips are random pixels as
the loader delivers them. A step is everything from ready clips to changed weights; it ends when the device is done.
float32 on a GPU is what torch does by default: convolutions in TF32.
"""


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option(
    "--model",
    type=click.Choice(list(MODELS)),
    metavar="NAME",
    help="Network.  [default: res3d10 on cpu, res3d18 on cuda]",
)
@click.option("--width", type=click.IntRange(1), help="Channels of its first stage.  [default: 16 on cpu, 64 on cuda]")
@click.option("--batch-size", type=click.IntRange(1), help="Clips of a step.  [default: 16 on cpu, 64 on cuda]")
@click.option("--frames", type=click.IntRange(1), default=8, help="Frames of a clip.")
@click.option("--crop-size", type=click.IntRange(1), help="Pixels.  [default: 56 on cpu, 112 on cuda]")
@click.option("--steps", type=click.IntRange(1), help="Of a turn.  [default: 3 on cpu, 20 on cuda]")
@click.option("--leave-out", multiple=True, type=click.Choice(list(removals("cuda"))), help="Do not try this; repeat.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Rounds of turns.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here.")
@click.option("--markdown", "markdown_path", type=click.Path(dir_okay=False, path_type=Path), help="Write a page here.")
@QUIET
def main(
    *,
    frames: int,
    leave_out: tuple[str, ...],
    repeats: int,
    device: str,
    json_path: Path | None,
    markdown_path: Path | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Measure what each optimisation of the training step gains."""
    where = pick_device(device)
    chosen = DEFAULTS[where.type] | {name: value for name, value in given.items() if value is not None}
    try:
        workload = Workload(
            model=ModelConfig(chosen["model"], width=chosen["width"]),
            clip=ClipSpec(frames, 1, chosen["crop_size"]),
            batch_size=chosen["batch_size"],
            device=str(where),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    rungs, without = ways_of(where.type, leave_out=leave_out)
    ways = list(dict.fromkeys([*rungs.values(), *without.values()]))
    with progress("taking turns", unit="turns", quiet=quiet) as tell:
        lanes = measure(workload, ways, num_steps=chosen["steps"], repeats=repeats, tell=tell)
    if all(lane.failed for lane in lanes.values()):
        raise Failed(lanes[PLAIN].failed)
    found = Found(workload, rungs, without, lanes)
    facts = machine("torch", "triton")
    if where.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(where)
        facts["versions"]["CUDA"] = torch.version.cuda
    heading = f"{workload}; turns of {chosen['steps']} steps, {repeats} rounds"
    lines = [heading, *machine_lines(facts)]
    for header, rows in found.tables():
        lines += ["", *table(header, rows)]
    click.echo("\n".join([*lines, "", *found.sentences()]))
    about = {
        "command": shlex.join(["bench_step.py", *sys.argv[1:]]),
        "machine": facts,
        "workload": asdict(workload),
        "num_steps": chosen["steps"],
    }
    try:
        if json_path is not None:
            write(json_path, json.dumps(about | found.summary(), indent=1))
        if markdown_path is not None:
            page = [f"{heading}. {'; '.join(machine_lines(facts))}."]
            for header, rows in found.tables():
                page += ["", *markdown(header, rows)]
            write(markdown_path, "\n".join([*page, "", *found.sentences()]))
    except OSError as error:
        raise Failed(str(error)) from None


if __name__ == "__main__":
    main()
