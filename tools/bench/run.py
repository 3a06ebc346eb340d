"""A run of the benchmark: opens the loader and the step, measures the lanes in rounds, and profiles the step."""

import contextlib
import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from res3d_video.pipeline.augment import NONE, Augmentation
from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import MEAN, ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.tools.bench.lanes import REAL, SYNTHETIC, Lanes
from res3d_video.tools.bench.machine import drop_from_cache, markdown, meter_of
from res3d_video.tools.bench.measure import Order, schedule
from res3d_video.tools.bench.results import Result
from res3d_video.train.config import OptimConfig
from res3d_video.train.models import ModelConfig, build_model
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepOptions, TrainStep, build_optimizer
from res3d_video.train.terminal import progress

FIRST_STEPS = {"cpu": 2, "cuda": 12}  # torch.compile, the choice of cuDNN's algorithms and CUDA graphs need them
PROFILED_STEPS = {"cpu": 3, "cuda": 20}
SEED = 0  # of clips and weights


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        samples: Rows of the index, int64 [n].
        order: How long a lane is measured in a round, without warm-up.
        step: How the training step is executed; None measures the loader alone.
        cold: Drop the shards from the page cache before each round of a lane that reads them.
        profile_dir: Folder for traces and a table of kernels; None writes none.
        start_multiple: Clips start at multiples of this many stored frames; the GOP size makes them start at keyframes.
    """

    data: Path
    samples: np.ndarray
    clip: ClipSpec
    batch_size: int
    model: ModelConfig
    loader: LoaderSettings
    device: torch.device
    order: Order
    repeats: int
    step: StepOptions | None = None
    cold: bool = False
    profile_dir: Path | None = None
    start_multiple: int = 1
    augmentation: Augmentation = NONE

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def plan(self, index: ShardIndex) -> TrainPlan:
        """An endless plan with random starts, crops and flips."""
        return TrainPlan(
            index,
            self.samples,
            self.clip,
            global_batch_size=self.batch_size,
            seed=SEED,
            start_multiple=self.start_multiple,
            augmentation=self.augmentation,
        )


def run(
    settings: Settings,
    index: ShardIndex,
    names: Sequence[str] = (),
    *,
    step: TrainStep | None = None,
    quiet: bool = True,
) -> Result:
    """Measure lanes in rounds; then write the profile, if the settings ask for one.

    Args:
        names: Lanes to measure; empty for all.
        step: A step to use instead of a new one.

    Raises:
        BenchError: A package is missing.
        UserError: A setting does not fit the data, or the device cannot execute such a step.
    """
    num_pipelines = settings.loader.pipelines(codec=index.codec, on_gpu=settings.on_gpu)
    result = Result(settings.on_gpu, len(os.sched_getaffinity(0)), settings.loader.num_threads * num_pipelines)
    with contextlib.closing(open_lanes(settings, index, step=step)) as lanes, first_steps(lanes, settings.device):
        order = schedule(list(names or lanes.run), repeats=settings.repeats)
        with progress("measuring", unit="measurements", quiet=quiet) as tell:
            for repeat, lane in order:
                if settings.cold and lane != SYNTHETIC:
                    lanes.reopen_loader()  # pages that are mapped cannot be dropped
                    drop_from_cache(settings.data / tar for tar in index.tars)
                result.rounds.append(lanes.measure(lane, settings.order, repeat=repeat))
                tell(len(result.rounds), len(order), f"{lane} {result.rounds[-1].clips_per_s:.0f} clips/s")
        if settings.profile_dir is not None:
            write_profiles(lanes, settings.profile_dir, device=settings.device)
        result.gpu_missing = lanes.meter.missing if lanes.meter else {}
    return result


def open_lanes(settings: Settings, index: ShardIndex, *, step: TrainStep | None = None) -> Lanes:
    """The loader, and `step` or a new training step, if the settings ask for one."""
    ranks, plan = Ranks(device=settings.device), settings.plan(index)
    if step is None and settings.step is not None:
        torch.manual_seed(SEED)
        model = build_model(settings.model, num_classes=len(index.classes)).to(ranks.device)
        optimizer = build_optimizer(model, OptimConfig(), fused=settings.on_gpu)
        step = TrainStep(model, optimizer, ranks=ranks, options=settings.step)
    open_loader = partial(ClipLoader, index, plan, device=ranks.device, settings=settings.loader, mean=MEAN)
    return Lanes(open_loader, step, ranks=ranks, codec=index.codec, meter=meter_of(settings.device))


@contextlib.contextmanager
def first_steps(lanes: Lanes, device: torch.device) -> Iterator[None]:
    """Run some steps, so that everything is set up; then exclude it from garbage collection, as the trainer does.

    Otherwise a collection would stop a step for tens of milliseconds.
    """
    if SYNTHETIC in lanes.run:
        with lanes.stream():
            for _ in range(FIRST_STEPS[device.type]):
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
class Profile:
    """Means over some profiled steps.

    Attributes:
        kernels: Kernel on a GPU, or operator on a CPU -> its own time in ms per step, slowest first. Kernels that run
            at the same time all count.
        idle: Share of the time in which the busiest stream, which is the trainer's, was idle; None on a CPU.
    """

    ms_per_step: float
    kernels: dict[str, float]
    idle: float | None


def profile_steps(step: Callable[[], Any], *, device: torch.device, trace: Path) -> Profile:
    """Profile some calls of a step after a warm-up, and write a trace for chrome://tracing."""
    on_gpu, num_steps = device.type == "cuda", PROFILED_STEPS[device.type]

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

    cuda = torch.autograd.DeviceType.CUDA
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    kernels = {
        average.key: getattr(average, own) / 1e3 / num_steps
        for average in profiler.key_averages()
        if getattr(average, own) > 0 and (not on_gpu or average.device_type == cuda)
    }
    events = profiler.events() or []
    wall_us = max(event.time_range.end for event in events) - min(event.time_range.start for event in events)
    streams: dict[int, list[tuple[float, float]]] = {}
    for event in events:
        if event.device_type == cuda:
            streams.setdefault(event.device_resource_id, []).append((event.time_range.start, event.time_range.end))
    idle = 1 - max(map(covered, streams.values())) / wall_us if streams else None
    slowest_first = dict(sorted(kernels.items(), key=lambda item: -item[1]))
    return Profile(wall_us / 1e3 / num_steps, slowest_first, idle)


def covered(times: Iterable[tuple[float, float]]) -> float:
    """Length of the union of half-open intervals.

    >>> covered([(0, 2), (5, 6), (1, 3), (5, 5.5)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(times):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def write_profiles(lanes: Lanes, folder: Path, *, device: torch.device) -> None:
    """Traces of the step on ready clips and on the loader's, and a page that compares their kernels."""
    with lanes.stream():
        found = [
            profile_steps(lanes.run[lane], device=device, trace=folder / f"{lane.replace(' ', '-')}.json")
            for lane in (SYNTHETIC, REAL)
        ]
    (folder / "kernels.md").write_text("\n".join([*profile_page(*found), ""]), encoding="utf-8")


def profile_page(ready: Profile, real: Profile) -> list[str]:
    """Both profiles as a Markdown page, in ms per step: sums first, then the slowest kernels."""
    both = (ready, real)
    slowest = sorted(ready.kernels | real.kernels, key=lambda name: -max(p.kernels.get(name, 0.0) for p in both))
    rows = [
        ["all of a step, ms", *(f"{p.ms_per_step:.2f}" for p in both)],
        ["sum of kernels, ms", *(f"{sum(p.kernels.values()):.2f}" for p in both)],
        ["trainer's stream idle", *("–" if p.idle is None else f"{p.idle:.1%}" for p in both)],
        *([name, *(f"{p.kernels.get(name, 0.0):.3f}" for p in both)] for name in slowest[:TOP]),
    ]
    return ["# Where a step's time goes", "", *markdown(["", SYNTHETIC, REAL], rows)]
