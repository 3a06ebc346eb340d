"""One run of the benchmark: open the loader and the step, let the lanes take turns, then soak."""

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import MEAN, ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.tools.bench.gpu import GpuMeter, gpu_uuid
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC, Lanes, producer_ms
from res3d_video.tools.bench.machine import drop, markdown, resident_share, write
from res3d_video.tools.bench.measure import BenchError, Order, ProcessTree, turns_of
from res3d_video.tools.bench.results import Result
from res3d_video.tools.bench.soak import WINDOW_S, Use, Window, soak
from res3d_video.train.config import OptimConfig
from res3d_video.train.models import ModelConfig, build_model
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepOptions, TrainStep, build_optimizer
from res3d_video.train.terminal import progress

FIRST_STEPS = {"cpu": 2, "cuda": 12}  # compiling, choosing algorithms and capturing happen in them
PROFILED_STEPS = {"cpu": 3, "cuda": 20}
STAYS_CACHED = 0.1  # of the shards; with more in memory after dropping, no disk is measured


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        samples: int64 [n], rows of the index.
        step: How the training step is executed; None measures the loader alone.
        seconds, batches: Of a turn; one of them.
        cold: Read from disk: the shards leave the page cache before each turn that reads them.
        soak_minutes: 0 for none.
        profile_dir: For traces and a table of kernels; None for none.
        soak_window_s: Of the soak's windows.
        start_multiple: Clips begin at multiples of so many stored frames; the GOP's size snaps them to keyframes.
    """

    data: Path
    samples: np.ndarray
    clip: ClipSpec
    batch_size: int
    model: ModelConfig
    loader: LoaderSettings
    step: StepOptions | None
    device: torch.device
    num_cpus: int
    repeats: int
    seconds: float | None
    batches: int | None
    seed: int
    cold: bool = False
    soak_minutes: float = 0.0
    soak_window_s: float = WINDOW_S
    profile_dir: Path | None = None
    start_multiple: int = 1

    def plan(self, index: ShardIndex) -> TrainPlan:
        """Random starts, crops and flips, without end."""
        return TrainPlan(
            index,
            self.samples,
            self.clip,
            global_batch_size=self.batch_size,
            seed=self.seed,
            start_multiple=self.start_multiple,
        )


def run(settings: Settings, index: ShardIndex, *, quiet: bool) -> Result:
    """Measure.

    Raises:
        BenchError: The shards do not leave the page cache, or a package is missing.
        ValueError: A setting does not fit the data, or the step cannot be executed so.
    """
    device, on_gpu = settings.device, settings.device.type == "cuda"
    tars = [path for tar in index.tars if (path := settings.data / tar).is_file()]  # remote ones may be on their way
    meter = GpuMeter(gpu_uuid(device)) if on_gpu else None
    result = Result(
        settings.clip,
        settings.batch_size,
        on_gpu,
        settings.num_cpus,
        settings.loader.num_threads * settings.loader.pipelines(codec=index.codec, on_gpu=on_gpu),
        resident=resident_share(tars),
    )
    lanes = open_lanes(settings, index, meter=meter)
    result.producer_ms = producer_ms(lanes.loader, settings.plan(index))
    order = Order(settings.batches, settings.seconds, warmup_batches=lanes.warmup_batches)
    with contextlib.closing(lanes), first_steps(lanes, FIRST_STEPS[device.type]):
        turns = turns_of(list(lanes.run), repeats=settings.repeats)
        with progress("taking turns", unit="turns", quiet=quiet) as tell:
            for repeat, lane in turns:
                if settings.cold and lane != SYNTHETIC:
                    lanes.reopen_loader()  # what is mapped cannot be dropped
                    drop_all(tars)
                result.turns.append(lanes.take_turn(lane, order, repeat=repeat))
                tell(len(result.turns), len(turns), f"{lane} {result.turns[-1].clips_per_s:.0f} clips/s")
        if settings.profile_dir is not None:
            write_profiles(lanes, settings.profile_dir, device=device)
        if settings.soak_minutes:
            result.soak_lane = REAL if settings.step is not None else LOADER
            result.soak = watch(lanes, result.soak_lane, settings, meter=meter, quiet=quiet)
    if meter is not None:
        result.gpu_missing, result.gpu_driver = meter.missing, meter.driver
    return result


def open_lanes(
    settings: Settings, index: ShardIndex, *, meter: GpuMeter | None = None, step: TrainStep | None = None
) -> Lanes:
    """The loader, and the step if one is wanted (`step`, where it exists already), ready to take turns."""
    ranks = Ranks(device=settings.device)
    open_loader = partial(
        ClipLoader, index, settings.plan(index), device=ranks.device, settings=settings.loader, mean=MEAN
    )
    step = step or train_step(settings, ranks, num_classes=len(index.classes))
    return Lanes(open_loader, step, ranks=ranks, codec=index.codec, meter=meter)


def train_step(settings: Settings, ranks: Ranks, *, num_classes: int) -> TrainStep | None:
    """The trainer's step on a fresh network; None when none is wanted."""
    if settings.step is None:
        return None
    torch.manual_seed(settings.seed)
    model = build_model(settings.model, num_classes=num_classes).to(ranks.device)
    optimizer = build_optimizer(model, OptimConfig(), fused=ranks.device.type == "cuda")
    return TrainStep(model, optimizer, ranks=ranks, options=settings.step)


def write_profiles(lanes: Lanes, folder: Path, *, device: torch.device) -> None:
    """Traces of the step without loader and with it, and the page that compares their kernels."""
    with lanes.stream():
        found = [
            profile_steps(
                lane,
                lanes.run[lane],
                num_steps=PROFILED_STEPS[device.type],
                device=device,
                trace=folder / f"{lane.replace(' ', '-')}.json",
            )
            for lane in (SYNTHETIC, REAL)
        ]
    write(folder / "kernels.md", "\n".join(profile_page(*found)))


def watch(lanes: Lanes, lane: str, settings: Settings, *, meter: GpuMeter | None, quiet: bool) -> list[Window]:
    """The soak: one lane without end, warmed up as a turn is."""

    def use() -> Use:
        own = ProcessTree().memory(0).own
        if meter is None:
            return Use(own)
        used = meter.sample().get("memory_used")
        return Use(own, torch.cuda.memory_reserved(settings.device), None if used is None else int(used))

    with progress("soak", unit="windows", quiet=quiet) as tell, lanes.stream():
        for _ in range(lanes.warmup_batches):
            lanes.run[lane]()
        lanes.finish()
        total = max(1, round(60 * settings.soak_minutes / settings.soak_window_s))
        return soak(
            lanes.run[lane],
            num_windows=total,
            finish=lanes.finish,
            use=use,
            window_s=settings.soak_window_s,
            report=lambda windows: tell(len(windows), total, f"{windows[-1].clips_per_s:.0f} clips/s"),
        )


def drop_all(tars: list[Path]) -> None:
    """Take the shards out of the page cache.

    Raises:
        BenchError: They do not leave it.
    """
    drop(tars)
    share = resident_share(tars)
    if share is not None and share > STAYS_CACHED:
        raise BenchError(
            f"--cold: {share:.0%} of the shards stay in the page cache (a file system in memory, or another process "
            "reads them); leave --cold out"
        )


@contextlib.contextmanager
def first_steps(lanes: Lanes, number: int) -> Iterator[None]:
    """Take some steps to set everything up; then, as the trainer does, leave that out of garbage collections.

    A collection through all of it would stop a step for tens of milliseconds.
    """
    if SYNTHETIC in lanes.run:
        with lanes.stream():
            for _ in range(number):
                lanes.synthetic_step()
    lanes.finish()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


WARMUP_STEPS = 3
TOP = 25


@dataclass(frozen=True)
class Kernel:
    """One kernel on a GPU, or operator on a CPU, over all profiled steps: own time and calls."""

    name: str
    total_s: float
    calls: int


@dataclass(frozen=True)
class Profile:
    """Some profiled steps.

    Attributes:
        wall_s: Of all steps together.
        kernels: The slowest first.
        busy_s: By stream, the time in which at least one kernel ran; empty on a CPU.
    """

    name: str
    num_steps: int
    wall_s: float
    kernels: list[Kernel]
    busy_s: dict[int, float] = field(default_factory=dict)

    @property
    def kernel_s(self) -> float:
        """Sum over all kernels, those that ran at the same time counted each."""
        return sum(kernel.total_s for kernel in self.kernels)

    @property
    def gap(self) -> float | None:
        """Share of the time in which the busiest stream, the trainer's, ran nothing; None on a CPU."""
        return 1 - max(self.busy_s.values()) / self.wall_s if self.busy_s else None


def profile_steps(name: str, step: Callable[[], Any], *, num_steps: int, device: torch.device, trace: Path) -> Profile:
    """Profile `num_steps` calls of a step, after some unprofiled ones, and write a trace for chrome://tracing."""
    on_gpu = device.type == "cuda"

    def finish() -> None:
        if on_gpu:
            torch.cuda.synchronize(device)  # sync: kernels must be over before the clock is read

    for _ in range(WARMUP_STEPS):
        step()
    finish()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(num_steps):
            step()
        finish()
    trace.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(trace))

    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    kernels = [
        Kernel(average.key, getattr(average, own) / 1e6, average.count)
        for average in profiler.key_averages()
        if getattr(average, own) > 0 and (not on_gpu or average.device_type == torch.autograd.DeviceType.CUDA)
    ]
    events = profiler.events() or []
    spans = [(event.time_range.start, event.time_range.end) for event in events]
    wall_s = (max(end for _, end in spans) - min(start for start, _ in spans)) / 1e6
    streams: dict[int, list[tuple[float, float]]] = {}
    for event in events:
        if event.device_type == torch.autograd.DeviceType.CUDA:
            streams.setdefault(event.device_resource_id, []).append((event.time_range.start, event.time_range.end))
    busy_s = {stream: covered(times) / 1e6 for stream, times in streams.items()}
    return Profile(name, num_steps, wall_s, sorted(kernels, key=lambda k: -k.total_s), busy_s)


def covered(times: Iterable[tuple[float, float]]) -> float:
    """Length of the union of some half-open intervals.

    >>> covered([(0, 2), (5, 6), (1, 3), (5, 5.5)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(times):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def compare_kernels(without: Profile, with_loader: Profile, *, top: int = TOP) -> list[list[str]]:
    """Rows [kernel, ms a step without, with, difference, calls a step without, with], the slowest first."""
    names = {kernel.name for kernel in [*without.kernels, *with_loader.kernels]}
    found = []
    for name in names:
        (ms_a, calls_a), (ms_b, calls_b) = (
            (1e3 * sum(k.total_s for k in mine) / p.num_steps, sum(k.calls for k in mine) / p.num_steps)
            for p in (without, with_loader)
            for mine in [[k for k in p.kernels if k.name == name]]
        )
        found.append((max(ms_a, ms_b), [name, ms_a, ms_b, ms_b - ms_a, calls_a, calls_b]))
    found.sort(key=lambda item: -item[0])
    return [
        [str(name), f"{a:.3f}", f"{b:.3f}", f"{change:+.3f}", f"{calls_a:.0f}", f"{calls_b:.0f}"]
        for _, (name, a, b, change, calls_a, calls_b) in found[:top]
    ]


KERNEL_HEADER = ["kernel", "ms a step", "with loader", "change", "calls", "with loader"]


def profile_page(without: Profile, with_loader: Profile) -> list[str]:
    """Both profiles as a Markdown page: sums and gaps first, then the kernels."""
    sums = [
        [
            p.name,
            f"{1e3 * p.wall_s / p.num_steps:.2f}",
            f"{1e3 * p.kernel_s / p.num_steps:.2f}",
            "-" if p.gap is None else f"{p.gap:.1%}",
        ]
        for p in (without, with_loader)
    ]
    return [
        "# Where a step's time goes",
        "",
        *markdown(["", "ms a step", "sum of kernels, ms", "trainer's stream idle"], sums),
        "",
        *markdown(KERNEL_HEADER, compare_kernels(without, with_loader)),
    ]
