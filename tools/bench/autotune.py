"""Finding the loader's settings on the machine at hand: one setting after another, the cheapest of the fastest."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from pipeline.loader import ClipLoader, LoaderSettings
from pipeline.plan import TrainPlan
from tools.bench.measure import Order, Spread, measure

NEAR = 0.97  # of the best rate: within it fewer cores, and then less memory, decide
WARMUP_BATCHES = 8
THREADS = (1, 2, 3, 4, 6, 8, 12, 16)
QUEUE_DEPTHS = (1, 2, 3, 4)
HW_DECODER_LOADS = (0.0, 0.25, 0.5, 0.65, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Point:
    """One setting, measured: clips/s and host cores, medians of the turns."""

    settings: LoaderSettings
    clips_per_s: float
    cores: float


@dataclass(frozen=True)
class Tuning:
    """What was tried, in order, and what was picked."""

    best: Point
    points: tuple[Point, ...]

    @property
    def flags(self) -> str:
        """The picked settings as the trainer and bench_loader take them."""
        s = self.best.settings
        return (
            f"--num-threads {s.num_threads} --queue-depth {s.queue_depth} --prefetch {s.prefetch} "
            f"--hw-decoder-load {s.hw_decoder_load:g} --read-ahead {s.read_ahead}"
        )

    def summary(self) -> dict[str, Any]:
        """For --json."""
        return {"best": asdict(self.best), "flags": self.flags, "points": [asdict(point) for point in self.points]}

    def rows(self) -> list[list[str]]:
        """A line a point, the picked one marked."""
        return [
            [
                "picked" if point is self.best else "",
                str(point.settings.num_threads),
                str(point.settings.queue_depth),
                f"{point.settings.hw_decoder_load:g}",
                f"{point.clips_per_s:.0f}",
                f"{point.cores:.2f}",
            ]
            for point in self.points
        ]


TUNING_HEADER = ["", "DALI threads", "queue depth", "JPEG engines' share", "clips/s", "cores"]


def pick(points: Iterable[Point]) -> Point:
    """Of the points within 3 % of the fastest, the one that keeps the fewest cores busy; of equals the first.

    >>> slow, fast, busy = (Point(LoaderSettings(t), r, c) for t, r, c in ((1, 90, 1.0), (2, 99, 1.5), (4, 100, 3.0)))
    >>> pick([slow, fast, busy]).settings.num_threads
    2
    """
    points = list(points)
    enough = NEAR * max(point.clips_per_s for point in points)
    return min((point for point in points if point.clips_per_s >= enough), key=lambda point: point.cores)


def autotune(
    rate_of: Callable[[LoaderSettings], tuple[float, float]],
    start: LoaderSettings,
    *,
    on_gpu: bool,
    num_cpus: int,
    report: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Tuning:
    """Vary threads, the JPEG engines' share, queue depth, and threads once more; each time go on from the best.

    Args:
        rate_of: Clips/s and host cores of some settings.
        on_gpu: Whether the JPEG engines' share means anything.
        num_cpus: More threads than that are not tried.
    """
    threads = [{"num_threads": n} for n in THREADS if n <= max(num_cpus, 2)]
    rounds: list[list[dict[str, Any]]] = [threads]
    if on_gpu:
        rounds.append([{"hw_decoder_load": share} for share in HW_DECODER_LOADS])
    rounds += [[{"queue_depth": depth} for depth in QUEUE_DEPTHS], threads]
    total, done = sum(map(len, rounds)), 0

    found: dict[LoaderSettings, Point] = {}
    best = start
    for changes in rounds:
        tried = []
        for change in changes:
            settings = replace(best, **change)
            if settings not in found:
                found[settings] = Point(settings, *rate_of(settings))
            tried.append(found[settings])
            done += 1
            report(done, total, f"{change} {found[settings].clips_per_s:.0f} clips/s")
        best = pick(tried).settings
    return Tuning(found[best], tuple(found.values()))


def measure_loader(
    plan: TrainPlan, settings: LoaderSettings, *, device: str, mean: float, seconds: float, repeats: int
) -> tuple[float, float]:
    """Clips/s and host cores of the loader alone: medians of some turns on one loader, after its queues have filled."""
    order = Order(None, seconds, warmup_batches=WARMUP_BATCHES + settings.prefetch + settings.queue_depth)
    with ClipLoader(plan.index, plan, device=device, settings=settings, mean=mean) as loader:
        labels = (batch.labels for batch in loader)

        def finish() -> None:
            if loader.device.type == "cuda":
                torch.cuda.synchronize(loader.device)  # sync: the clips counted must be there

        turns = []
        for _ in range(repeats):
            turns.append(measure(labels, order, done=0, finish=finish))
            order = replace(order, warmup_batches=0)
    return Spread.of([turn.clips_per_s for turn in turns]).median, Spread.of([turn.cores for turn in turns]).median
