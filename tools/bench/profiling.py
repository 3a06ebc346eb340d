"""Where a step's time goes, with the loader and without: torch.profiler traces, and a table of kernels."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from res3d_video.tools.bench.machine import markdown

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
