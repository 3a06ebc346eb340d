"""The training step on ready clips: what each of its optimisations gains, alone on top of those before it and last."""

import json
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if not __package__:  # started by path: look in the checkout, not in tools/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

# Threads that wait must sleep (docs/decisions/0004-threads-that-wait-sleep.md). Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import click
import torch

from pipeline.clip import ClipSpec
from tools.bench.machine import machine, machine_lines, table
from tools.bench.measure import BenchError, Spread
from tools.bench.options import pick_device
from tools.bench.report import markdown
from tools.terminal import Failed, progress
from train.models import MODELS, ModelConfig, build_model
from train.optim import OptimConfig, build_optimizer
from train.ranks import Ranks
from train.step import WARMUP_STEPS, StepOptions, TrainStep

NUM_CLASSES = 101
NUM_BATCHES = 3  # in turn, so that no step finds the clips of the last one in a cache
LR = 1e-3
STEPS_BEFORE = {"cpu": 1, "cuda": WARMUP_STEPS + 2}  # of a turn: a graph is recorded, memory and clocks settle
MAX_COMPILED = 64  # ways; torch.compile would silently give up on the ninth
CLOSE_TIMEOUT_S = 10.0
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


@dataclass(frozen=True)
class Way:
    """How to execute a step."""

    options: StepOptions
    bfloat16: bool = False
    fused: bool = False  # the optimizer: one kernel for all weights


@dataclass(frozen=True)
class Workload:
    """What a step computes."""

    model: ModelConfig
    clip: ClipSpec
    batch_size: int
    device: str

    def __str__(self) -> str:
        size = self.clip.crop_size
        return (
            f"{self.model.name}, width {self.model.width}, {self.batch_size} clips of "
            f"{self.clip.num_frames}×{size}×{size}, on {self.device}"
        )


@dataclass(frozen=True)
class Turn:
    """One turn of a way.

    Attributes:
        peak_bytes: The most GPU memory that torch's tensors took, recording included; None on a CPU.
    """

    ms_per_step: float
    peak_bytes: int | None


@dataclass
class Lane:
    """A way and what came of it: turns, a round each, or the reason that there are none."""

    turns: list[Turn] = field(default_factory=list)
    failed: str = ""

    @property
    def ms_per_step(self) -> Spread:
        return Spread.of([turn.ms_per_step for turn in self.turns])


PLAIN = Way(StepOptions(channels_last=False))

Change = Callable[[Way], Way]


def option(**values: Any) -> Change:
    """The change of some StepOptions."""
    return lambda way: replace(way, options=replace(way.options, **values))


def ladder(kind: str) -> dict[str, Change]:
    """What each rung adds to the one below, for "cpu" or "cuda"."""
    layout = {"channels_last": option(channels_last=True)}
    fused: dict[str, Change] = {"fused optimizer": lambda way: replace(way, fused=True)}
    compiled = {"torch.compile": option(compile=True)}
    folded = {
        f"space to depth, {channels} channels": option(space_to_depth=True, folded_channels=channels)
        for channels in ((16, 12) if kind == "cpu" else (12, 16))
    }
    if kind == "cpu":
        return layout | fused | folded | compiled
    bfloat16: dict[str, Change] = {"bfloat16": lambda way: replace(way, bfloat16=True)}
    last = {"CUDA graph": option(cuda_graph=True), "high priority": option(high_priority=True)}
    return bfloat16 | layout | fused | {"cuDNN benchmark": option(cudnn_benchmark=True)} | compiled | folded | last


def removals(kind: str) -> dict[str, Change]:
    """What takes each of them away again."""
    found: dict[str, Change] = {
        "channels_last": option(channels_last=False),
        "fused optimizer": lambda way: replace(way, fused=False),
        "torch.compile": option(compile=False),
        "space to depth": option(space_to_depth=False),
    }
    if kind == "cpu":
        return found
    return found | {
        "bfloat16": lambda way: replace(way, bfloat16=False),
        "cuDNN benchmark": option(cudnn_benchmark=False),
        "CUDA graph": option(cuda_graph=False),
        "high priority": option(high_priority=False),
    }


def ways_of(kind: str, *, leave_out: Sequence[str] = ()) -> tuple[dict[str, Way], dict[str, Way]]:
    """The ladder from plain float32 to everything, and everything without one thing; by name.

    Args:
        leave_out: Names of `removals` that are not tried at all.
    """
    rungs = {"float32": PLAIN}
    way = PLAIN
    for name, change in ladder(kind).items():
        if not name.startswith(tuple(leave_out)):
            way = rungs[name] = change(way)
    return rungs, {f"without {name}": change(way) for name, change in removals(kind).items() if name not in leave_out}


class Steps:
    """All ways of a workload in this process; those that are not measured hold weights but no activations."""

    def __init__(self, workload: Workload) -> None:
        self.workload, self.device = workload, torch.device(workload.device)
        self.batches = list(random_batches(workload))
        self.steps: dict[Way, TrainStep] = {}

    def turn(self, way: Way, num_steps: int) -> Turn:
        """Measure a way; the first time it is built, compiled and warmed up before."""
        on_gpu = self.device.type == "cuda"
        if way not in self.steps:
            self.steps[way] = self._build(way)
        step = self.steps[way]
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        with step.on_stream():
            self._run(step, STEPS_BEFORE[self.device.type])
            self._wait()
            started = time.perf_counter()
            self._run(step, num_steps)
            self._wait()
            seconds = time.perf_counter() - started
        peak_bytes = torch.cuda.max_memory_allocated(self.device) if on_gpu else None
        self.rest(step)
        return Turn(1000 * seconds / num_steps, peak_bytes)

    def rest(self, step: TrainStep) -> None:
        """Give memory back."""
        step.forget_graph()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def drop(self, way: Way) -> None:
        """Forget a way that failed."""
        step = self.steps.pop(way, None)
        if step is not None:
            self.rest(step)

    def _build(self, way: Way) -> TrainStep:
        if way.options.compile:
            from torch._dynamo import config as dynamo  # slow

            dynamo.recompile_limit = MAX_COMPILED
        torch.manual_seed(0)
        model = build_model(self.workload.model, num_classes=NUM_CLASSES).to(self.device)
        optimizer = build_optimizer(model, OptimConfig(lr=LR), fused=way.fused)
        ranks = Ranks(device=self.device)
        return TrainStep(model, optimizer, ranks=ranks, options=way.options, bfloat16=way.bfloat16)

    def _run(self, step: TrainStep, num_steps: int) -> None:
        for i in range(num_steps):
            step(*self.batches[i % NUM_BATCHES], num_real_global=self.workload.batch_size, lr=LR)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def random_batches(workload: Workload) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Clips, labels and weights as the loader gives them: channels-last, float16 on a GPU, float32 on a CPU."""
    device, clip = torch.device(workload.device), workload.clip
    generator = torch.Generator(device).manual_seed(0)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    shape = (workload.batch_size, clip.num_frames, clip.crop_size, clip.crop_size, 3)
    for _ in range(NUM_BATCHES):
        pixels = torch.randint(256, shape, generator=generator, device=device, dtype=torch.uint8)
        clips = pixels.to(dtype).sub_(128).permute(0, 4, 1, 2, 3)  # [N, 3, T, H, W]
        labels = torch.randint(NUM_CLASSES, (workload.batch_size,), generator=generator, device=device)
        yield clips, labels, torch.ones(workload.batch_size, device=device)


def serve(connection: Connection, workload: Workload) -> None:
    """A process: a turn on request, until told to stop or left alone."""
    try:
        steps = Steps(workload)
        while (request := connection.recv()) is not None:
            way, num_steps = request
            answer: Turn | BenchError
            try:
                answer = steps.turn(way, num_steps)
            except (RuntimeError, ValueError) as error:  # out of memory, no compiler, …
                answer = BenchError(" ".join(str(error).split())[:200])
            if isinstance(answer, BenchError):
                steps.drop(way)  # out here, for a traceback holds memory too
            connection.send(answer)
    except (EOFError, KeyboardInterrupt):
        return  # the parent is gone, or going


class StepProcess:
    """A process that takes turns. cuDNN's choice of algorithms lives as long as one, so each setting has its own."""

    def __init__(self, workload: Workload) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, workload), daemon=True)
        self._process.start()
        theirs.close()

    def turn(self, way: Way, num_steps: int) -> Turn:
        """One turn.

        Raises:
            BenchError: The way failed, or the process died.
        """
        try:
            self._connection.send((way, num_steps))
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise BenchError(f"its process ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, BenchError):
            raise answer
        return answer

    def close(self) -> None:
        """End the process; kills it when it does not listen."""
        with suppress(OSError):  # it may be gone already
            self._connection.send(None)
        self._connection.close()
        self._process.join(CLOSE_TIMEOUT_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


@contextmanager
def step_process(workload: Workload) -> Iterator[StepProcess]:
    process = StepProcess(workload)
    try:
        yield process
    finally:
        process.close()


def measure(
    workload: Workload, ways: Sequence[Way], *, num_steps: int, repeats: int, tell: Callable[[int, int, str], None]
) -> dict[Way, Lane]:
    """Let the ways take turns, one a round; a way that fails is not tried again."""
    lanes = {way: Lane() for way in ways}
    with ExitStack() as stack:
        processes = {
            tuned: stack.enter_context(step_process(workload))
            for tuned in sorted({way.options.cudnn_benchmark for way in lanes})
        }
        for repeat in range(repeats):
            for number, (way, lane) in enumerate(list(lanes.items())[:: 1 if repeat % 2 == 0 else -1]):
                if not lane.failed:
                    try:
                        lane.turns.append(processes[way.options.cudnn_benchmark].turn(way, num_steps))
                    except BenchError as error:
                        lane.failed = str(error)
                last = lane.failed or f"{lane.turns[-1].ms_per_step:.1f} ms"
                tell(repeat * len(lanes) + number + 1, repeats * len(lanes), last)
    return lanes


def quotient(lane: Lane, other: Lane) -> Spread | None:
    """How many times the speed of `other`, round by round; None if one of them failed."""
    if lane.failed or other.failed:
        return None
    return Spread.of([b.ms_per_step / a.ms_per_step for a, b in zip(lane.turns, other.turns, strict=True)])


def times(spread: Spread | None) -> str:
    """
    >>> times(Spread(1.234, 1.2, 1.3))
    '1.23 [1.20..1.30]'
    """
    return "–" if spread is None else f"{spread.median:.2f} [{spread.min:.2f}..{spread.max:.2f}]"


HEADER = ["ms a step", "clips/s", "gain, times", "GPU memory, GB"]


def row(name: str, lane: Lane, gain: Spread | None, *, batch_size: int) -> list[str]:
    """A way's line of a table."""
    if lane.failed:
        return [name, "failed", "–", "–", "–"]
    ms = lane.ms_per_step
    peaks = [turn.peak_bytes for turn in lane.turns if turn.peak_bytes is not None]
    return [
        name,
        f"{ms.median:.1f} [{ms.min:.1f}..{ms.max:.1f}]",
        f"{1000 * batch_size / ms.median:,.1f}",
        times(gain),
        f"{max(peaks) / 1e9:.1f}" if peaks else "–",
    ]


@dataclass(frozen=True)
class Found:
    """Everything measured.

    Attributes:
        rungs, without: The ladder, and everything without one thing: name -> way.
    """

    workload: Workload
    rungs: dict[str, Way]
    without: dict[str, Way]
    lanes: dict[Way, Lane]

    @property
    def full(self) -> Lane:
        """With everything on."""
        return self.lanes[list(self.rungs.values())[-1]]

    @property
    def gains(self) -> dict[str, Spread | None]:
        """How many times faster a rung is than the one below it."""
        lanes = {name: self.lanes[way] for name, way in self.rungs.items()}
        below = list(lanes.values())
        return {name: quotient(lane, below[i]) for i, (name, lane) in enumerate(list(lanes.items())[1:])}

    @property
    def losses(self) -> dict[str, Spread | None]:
        """How many times faster everything is than everything without one thing."""
        return {name: quotient(self.full, self.lanes[way]) for name, way in self.without.items()}

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """Headers and rows: the ladder, and everything without one thing."""
        size = self.workload.batch_size
        gains = {"float32": None, **self.gains}
        rungs = [row(name, self.lanes[way], gains[name], batch_size=size) for name, way in self.rungs.items()]
        without = [row(name, self.lanes[way], self.losses[name], batch_size=size) for name, way in self.without.items()]
        return [
            (["each adds to those above", *HEADER], rungs),
            (["everything", *HEADER[:2], "gain of having it, times", HEADER[3]], without),
        ]

    def sentences(self) -> list[str]:
        """What it comes to, what gains nothing that can be told from noise, and why something has no number."""
        plain, lines = self.lanes[PLAIN], []
        total = quotient(self.full, plain)
        if total is not None:
            rate = 1000 * self.workload.batch_size / self.full.ms_per_step.median
            lines.append(f"everything: {rate:,.1f} clips/s, {times(total)} times plain float32")
        unclear = [name.removeprefix("without ") for name, gain in self.losses.items() if gain and gain.min <= 1]
        if unclear:
            lines.append(f"no gain beyond noise when taken away from everything: {', '.join(unclear)}")
        names = {way: name for name, way in (self.without | self.rungs).items()}
        lines += [f"{names[way]} failed: {lane.failed}" for way, lane in self.lanes.items() if lane.failed]
        return lines

    def summary(self) -> dict[str, Any]:
        """For JSON; milliseconds and bytes."""

        def lane_of(way: Way, gain: Spread | None) -> dict[str, Any]:
            lane = self.lanes[way]
            return {
                "way": asdict(way),
                "failed": lane.failed or None,
                "ms_per_step": None if lane.failed else asdict(lane.ms_per_step),
                "clips_per_s": None if lane.failed else 1000 * self.workload.batch_size / lane.ms_per_step.median,
                "gain": gain and asdict(gain),
                "turns": [asdict(turn) for turn in lane.turns],
            }

        return {
            "ladder": {name: lane_of(way, self.gains.get(name)) for name, way in self.rungs.items()},
            "everything": {name: lane_of(way, self.losses[name]) for name, way in self.without.items()},
        }


@click.command(context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option("--model", type=click.Choice(list(MODELS)), help="Network.  [default: res3d10 on cpu, res3d18 on cuda]")
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
@click.option("--quiet", is_flag=True, help="No progress.")
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
    try:
        with progress("taking turns", quiet=quiet) as tell:
            lanes = measure(workload, ways, num_steps=chosen["steps"], repeats=repeats, tell=tell)
    except KeyboardInterrupt:
        raise Failed("interrupted") from None
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


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
