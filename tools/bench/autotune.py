"""Finding the loader's settings on the machine at hand: one setting after another, the cheapest of the fastest."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.tools.bench.lanes import warmup_batches
from res3d_video.tools.bench.measure import Order, Spread, measure

NEAR = 0.97  # of the best rate: within it fewer cores, and then less memory, decide
WARMUP_BATCHES = 8  # over those that wait ready
THREADS = (1, 2, 3, 4, 6, 8, 12, 16)
QUEUE_DEPTHS = (1, 2, 3, 4)
HW_DECODER_LOADS = (0.0, 0.25, 0.5, 0.65, 0.8, 0.9, 1.0)
PIPELINES = (1, 2, 4, 8)  # GPUs have one to eight video decoders; no more than the one at hand are tried
AMPLE = 1.5  # times the step's rate: a loader alone below it would soon be what training waits for
SATURATION_NOISE = 0.005  # within it of the best saturation, fewer cores decide

# What a codec alone has: field of LoaderSettings -> its name for people, and what is tried of it on a GPU.
OF_CODEC: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "filmstrip": ("hw_decoder_load", "JPEG engines' share", HW_DECODER_LOADS),
    "h264": ("num_pipelines", "pipelines", PIPELINES),
}


@dataclass(frozen=True)
class Point:
    """One setting, measured: clips/s and host cores of the loader alone, medians of the turns.

    Attributes:
        saturation: Real step / synthetic step; None where there is no step, or the loader is too slow to feed it.
    """

    settings: LoaderSettings
    clips_per_s: float
    cores: float
    saturation: float | None = None


@dataclass(frozen=True)
class Tuning:
    """What was tried on shards of a codec, in order, and what was picked."""

    best: Point
    points: tuple[Point, ...]
    codec: str

    @property
    def flags(self) -> str:
        """The picked settings as the trainer and bench_loader take them."""
        names = ("num_threads", "queue_depth", "prefetch", OF_CODEC[self.codec][0], "read_ahead")
        values = {name: getattr(self.best.settings, name) for name in names}
        return " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in values.items() if value is not None)

    def summary(self) -> dict[str, Any]:
        """For --json."""
        return {"best": asdict(self.best), "flags": self.flags, "points": [asdict(point) for point in self.points]}

    def header(self) -> list[str]:
        """Of the table."""
        return ["", "DALI threads", "queue depth", OF_CODEC[self.codec][1], "clips/s", "cores", "saturation"]

    def rows(self) -> list[list[str]]:
        """A line a point, the picked one marked."""
        return [
            [
                "picked" if point is self.best else "",
                str(point.settings.num_threads),
                str(point.settings.queue_depth),
                number_or_dash(getattr(point.settings, OF_CODEC[self.codec][0])),
                f"{point.clips_per_s:.0f}",
                f"{point.cores:.2f}",
                "–" if point.saturation is None else f"{point.saturation:.3f}",
            ]
            for point in self.points
        ]


def number_or_dash(value: float | None) -> str:
    """A setting for people; a dash where the loader chooses."""
    return "–" if value is None else f"{value:g}"


def pick(points: Iterable[Point]) -> Point:
    """The point with the best saturation; where none has one, the fastest. Of those close to it, the fewest busy cores.

    >>> found = ((1, 90, 1.0), (2, 99, 1.5), (4, 100, 3.0))
    >>> pick(Point(LoaderSettings(num_threads=t), r, c) for t, r, c in found).settings.num_threads
    2
    """
    points = list(points)
    if saturated := [(point.saturation, point) for point in points if point.saturation is not None]:
        best = max(saturation for saturation, _ in saturated)
        good = (point for saturation, point in saturated if saturation >= best - SATURATION_NOISE)
        return min(good, key=lambda point: point.cores)
    enough = NEAR * max(point.clips_per_s for point in points)
    return min((point for point in points if point.clips_per_s >= enough), key=lambda point: point.cores)


def autotune(
    rate_of: Callable[[LoaderSettings], tuple[float, float]],
    start: LoaderSettings,
    *,
    codec: str,
    on_gpu: bool,
    num_cpus: int,
    num_decoders: int | None = None,
    step_rate: float | None = None,
    saturation_of: Callable[[LoaderSettings], float] | None = None,
    report: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Tuning:
    """Vary threads, what the codec alone has, queue depth, and threads once more; each time go on from the best.

    Args:
        rate_of: Clips/s and host cores of some settings.
        codec: Of the shards: the JPEG engines' share is tried for filmstrips, the number of pipelines for h264.
        on_gpu: Whether either means anything.
        num_cpus: More threads than that are not tried.
        num_decoders: Video decoders of the GPU; more pipelines than that are not tried. None where it is not known.
        step_rate: Clips/s of the step on clips that lie ready. Settings whose loader alone gives 1.5 times that are
            compared by `saturation_of`, real step / synthetic step; a faster loader alone may slow the step down.
    """

    def measured(settings: LoaderSettings) -> Point:
        rate, cores = rate_of(settings)
        is_ample = step_rate is not None and rate >= AMPLE * step_rate
        return Point(settings, rate, cores, saturation_of(settings) if saturation_of and is_ample else None)

    threads = [{"num_threads": n} for n in THREADS if n <= max(num_cpus, 2)]
    rounds: list[list[dict[str, Any]]] = [threads]
    if on_gpu:
        name, _, choices = OF_CODEC[codec]
        most = num_decoders if codec == "h264" and num_decoders else max(choices)
        rounds.append([{name: choice} for choice in choices if choice <= most])
    rounds += [[{"queue_depth": depth} for depth in QUEUE_DEPTHS], threads]
    total, done = sum(map(len, rounds)), 0

    found: dict[LoaderSettings, Point] = {}
    best = start
    for changes in rounds:
        tried = []
        for change in changes:
            settings = replace(best, **change)
            if settings not in found:
                found[settings] = measured(settings)
            tried.append(found[settings])
            done += 1
            report(done, total, f"{change} {found[settings].clips_per_s:.0f} clips/s")
        best = pick(tried).settings
    return Tuning(found[best], tuple(found.values()), codec)


def measure_loader(
    plan: TrainPlan, settings: LoaderSettings, *, device: str, mean: float, seconds: float, repeats: int
) -> tuple[float, float]:
    """Clips/s and host cores of the loader alone: medians of some turns on one loader, after its queues have filled."""
    ready = warmup_batches(settings, codec=plan.index.codec, on_gpu=torch.device(device).type == "cuda")
    order = Order(None, seconds, warmup_batches=WARMUP_BATCHES + ready)
    with ClipLoader(plan.index, plan, device=device, settings=settings, mean=mean) as loader:
        labels = (batch.labels for batch in loader)

        def finish() -> None:
            if loader.device.type == "cuda":
                torch.cuda.synchronize(loader.device)  # sync: the clips counted must be there

        turns = []
        for _ in range(repeats):
            turns.append(measure(labels, order, finish=finish))
            order = replace(order, warmup_batches=0)
    return Spread.of([turn.clips_per_s for turn in turns]).median, Spread.of([turn.cores for turn in turns]).median
