"""Training steps on random clips, executed in different ways that take turns."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from pipeline.clip import ClipSpec
from pipeline.loader import MEAN
from tools.bench.ladder import Way
from tools.bench.lanes import LR, random_inputs
from tools.bench.measure import BenchError, Spread
from tools.bench.process import Child
from train.models import ModelConfig, build_model
from train.optim import OptimConfig, build_optimizer
from train.ranks import Ranks
from train.step import WARMUP_STEPS, TrainStep

NUM_CLASSES = 101
STEPS_BEFORE = {"cpu": 1, "cuda": WARMUP_STEPS + 2}  # of a turn: a graph is recorded, memory and clocks settle
MAX_COMPILED = 64  # ways; torch.compile would silently give up on the ninth


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


class Steps:
    """All ways of a workload in this process; those that are not measured hold weights but no activations."""

    def __init__(self, workload: Workload) -> None:
        self.workload, self.device = workload, torch.device(workload.device)
        self.batches = random_batches(workload)
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
            step(*self.batches[i % len(self.batches)], num_real_global=self.workload.batch_size, lr=LR)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def random_batches(workload: Workload) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Clips, labels and weights as the loader gives them: channels-last, float16 on a GPU, float32 on a CPU."""
    clip = workload.clip
    shape = (workload.batch_size, 3, clip.num_frames, clip.crop_size, clip.crop_size)
    device = torch.device(workload.device)
    inputs = random_inputs(shape, num_classes=NUM_CLASSES, mean=MEAN, device=device, seed=0)
    return [(batch.clips, batch.labels, batch.weights) for batch in inputs]


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
    except EOFError:
        return  # the parent is gone


class StepProcess(Child):
    """A process that takes turns. cuDNN's choice of algorithms lives as long as one, so each setting has its own."""

    def __init__(self, workload: Workload) -> None:
        super().__init__("", serve, workload, daemon=True)

    def turn(self, way: Way, num_steps: int) -> Turn:
        """One turn.

        Raises:
            BenchError: The way failed, or the process died.
        """
        return self.ask((way, num_steps))


def measure(
    workload: Workload, ways: Sequence[Way], *, num_steps: int, repeats: int, tell: Callable[[int, int, str], None]
) -> dict[Way, Lane]:
    """Let the ways take turns, one a round; a way that fails is not tried again."""
    lanes = {way: Lane() for way in ways}
    with ExitStack() as stack:
        processes = {
            tuned: stack.enter_context(StepProcess(workload))
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
