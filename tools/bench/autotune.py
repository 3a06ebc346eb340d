"""Finding the loader's settings on the machine at hand: one setting after another, the cheapest of the fastest."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from res3d_video.pipeline.loader import LoaderSettings

NEAR = 0.97  # of the best rate: within it fewer cores, and then less memory, decide
THREADS = (1, 2, 3, 4, 6, 8, 12, 16)
QUEUE_DEPTHS = (1, 2, 3, 4)
AMPLE = 1.5  # times the step's rate: a loader alone below it would soon be what training waits for
SATURATION_NOISE = 0.005  # within it of the best saturation, fewer cores decide

# What a codec alone has: field of LoaderSettings -> what is tried of it on a GPU.
OF_CODEC: dict[str, tuple[str, tuple[float, ...]]] = {
    "filmstrip": ("hw_decoder_load", (0.0, 0.25, 0.5, 0.65, 0.8, 0.9, 1.0)),
    "h264": ("num_pipelines", (1, 2, 4, 8)),  # GPUs have one to eight video decoders
}


@dataclass(frozen=True)
class Point:
    """One setting, measured: clips/s and host cores of the loader alone, medians of the rounds.

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


def pick(points: Sequence[Point]) -> Point:
    """The point with the best saturation; where none has one, the fastest. Of those close to it, the fewest busy cores.

    >>> found = ((1, 90, 1.0), (2, 99, 1.5), (4, 100, 3.0))
    >>> pick([Point(LoaderSettings(num_threads=t), r, c) for t, r, c in found]).settings.num_threads
    2
    """
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
    step_rate: float | None = None,
    saturation_of: Callable[[LoaderSettings], float] | None = None,
    report: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Tuning:
    """Vary threads, what the codec alone has, queue depth, and threads once more; each time go on from the best.

    Args:
        rate_of: Clips/s and host cores of some settings.
        codec: Of the shards: on a GPU, the JPEG engines' share is tried for filmstrips, pipelines for h264.
        num_cpus: More threads than that are not tried.
        step_rate: Clips/s of the step on clips that lie ready. Settings whose loader alone gives 1.5 times that are
            compared by `saturation_of`, real step / synthetic step; a faster loader alone may slow the step down.
    """

    def measured(settings: LoaderSettings) -> Point:
        rate, cores = rate_of(settings)
        is_ample = step_rate is not None and rate >= AMPLE * step_rate
        return Point(settings, rate, cores, saturation_of(settings) if saturation_of and is_ample else None)

    threads = [{"num_threads": n} for n in THREADS if n <= max(num_cpus, 2)]
    steps: list[list[dict[str, Any]]] = [threads, [{"queue_depth": depth} for depth in QUEUE_DEPTHS], threads]
    if on_gpu:
        name, values = OF_CODEC[codec]
        steps.insert(1, [{name: value} for value in values])
    total, done = sum(map(len, steps)), 0

    found: dict[LoaderSettings, Point] = {}
    best = start
    for changes in steps:
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
