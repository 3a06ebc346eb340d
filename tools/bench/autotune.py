"""Finds the best settings of the loader for a machine, by trying one setting after another."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from res3d_video.pipeline.loader import LoaderSettings

NEAR = 0.97  # of the best rate: from there on, the fewest busy cores win
THREADS = (1, 2, 3, 4, 6, 8, 12, 16)
QUEUE_DEPTHS = (1, 2, 3, 4)
AMPLE = 1.5  # times the step's rate: training would soon wait for a loader that is slower alone
SATURATION_NOISE = 0.005  # below the best saturation: within it, the fewest busy cores win

# codec -> the setting that only it has, and the values that are tried on a GPU
OF_CODEC: dict[str, tuple[str, tuple[float, ...]]] = {
    "filmstrip": ("hw_decoder_load", (0.0, 0.25, 0.5, 0.65, 0.8, 0.9, 1.0)),
    "h264": ("num_pipelines", (1, 2, 4, 8)),  # GPUs have one to eight video decoders
}


@dataclass(frozen=True)
class Point:
    """What was measured with some settings: clips/s and busy host cores of the loader alone, medians of the rounds.

    Attributes:
        saturation: Speed of the real step / speed of the synthetic step; None if there is no step, or if the loader is
            too slow to feed it.
    """

    settings: LoaderSettings
    clips_per_s: float
    cores: float
    saturation: float | None = None


@dataclass(frozen=True)
class Tuning:
    """The settings that were tried on shards of a codec, in order, and the best of them."""

    best: Point
    points: tuple[Point, ...]
    codec: str

    @property
    def flags(self) -> str:
        """The best settings as options of the trainer and of bench_loader."""
        names = ("num_threads", "queue_depth", "prefetch", OF_CODEC[self.codec][0], "read_ahead")
        values = {name: getattr(self.best.settings, name) for name in names}
        return " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in values.items() if value is not None)

    def summary(self) -> dict[str, Any]:
        """The value of `tuning` in the JSON file."""
        return {"best": asdict(self.best), "flags": self.flags, "points": [asdict(point) for point in self.points]}


def pick(points: Sequence[Point]) -> Point:
    """The point with the best saturation or, if none has one, with the best rate; of points close to it, the one with
    the fewest busy cores.

    >>> found = ((1, 90, 1.0), (2, 99, 1.5), (4, 100, 3.0))
    >>> pick([Point(LoaderSettings(num_threads=t), r, c) for t, r, c in found]).settings.num_threads
    2
    """
    good = [point for point in points if point.clips_per_s >= NEAR * max(one.clips_per_s for one in points)]
    if saturated := {point: point.saturation for point in points if point.saturation is not None}:
        good = [point for point, value in saturated.items() if value >= max(saturated.values()) - SATURATION_NOISE]
    return min(good, key=lambda point: point.cores)


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
    """Vary the number of threads, the setting of the codec, the queue depth, and the threads again; each time, go on
    from the best settings so far.

    Args:
        rate_of: Measures clips/s and busy host cores with some settings.
        codec: Of the shards. On a GPU, this tries the JPEG engines' share for filmstrips, and pipelines for h264.
        num_cpus: The largest number of threads to try.
        step_rate: Clips/s of the step on clips that are ready. Settings with which the loader alone reaches 1.5 times
            that are compared by `saturation_of` instead, because a faster loader can slow the step down.
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
