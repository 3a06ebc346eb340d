#!/usr/bin/env python3
"""What is exact and what is fast on this GPU: a page, all numbers as JSON, and the settings for --fast."""

import os
import sys
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # docs/decisions/0004-threads-that-wait-sleep.md
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # as the trainer (train/main.py)

import click

from res3d_video.train.terminal import JSON_FILE, QUIET, Command, Number

EPILOG = """\b
Examples:
  python tools/check_gpu.py --json gpu.json                     # about 25 minutes; makes its own shards
  python tools/check_gpu.py --data shards/ucf101 --minutes 40
  python tools/check_gpu.py --stages A,B                        # exactness only, no speed
  python tools/check_gpu.py --device cpu --minutes 3            # what a CPU can do, with small sizes

\b
Stages: A versions; B exactness; C options of the training step; D the loader alone;
E saturation: the speed of the step on the loader's clips, divided by that on ready clips; F a profile; G the trainer
end to end. Each stage is a process with a deadline. If one fails, its error is shown and the next one runs.
Options that are exact, and faster in every round, are saved for train/main.py --fast and bench_loader.py --fast.
"""
LETTERS = "ABCDEFG"


def stage_names(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """The letters of a list like "A,B"."""
    names = tuple(dict.fromkeys(value.upper().split(",")))
    if not set(names) <= set(LETTERS):
        raise click.BadParameter(f"stages must be some of {','.join(LETTERS)}, got {value!r}")
    return names


@click.command(cls=Command, context_settings={"show_default": True}, epilog=EPILOG)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Shards to measure speed on.  [default: small ones, made first]",
)
@click.option("--minutes", default=25.0, type=Number(0, 1e4, min_open=True), help="Time for all stages together.")
@click.option("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:N.")
@click.option("--stages", default="A,B,C,D,E,F,G", callback=stage_names, help="Run only these.")
@JSON_FILE
@click.option("--stage", nargs=3, type=(str, click.Path(path_type=Path), float), hidden=True)  # of the process of one
@QUIET
def main(*, stage: tuple[str, Path, float] | None, **options: Any) -> None:
    """Check what is exact and what is fast on this GPU, in about 25 minutes, and save the settings for --fast."""
    from res3d_video.tools.bench.check import check, run_stage  # torch is slow to import: --help does not wait for it

    if stage is not None:
        run_stage(*stage, data=options["data"], device=options["device"])
    else:
        check([sys.executable, str(Path(__file__).resolve())], **options)


if __name__ == "__main__":
    main()
