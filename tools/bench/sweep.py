"""How cost grows: one factor at a time changes around a base point, and each point is measured in its own process."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.build.run import BuildSettings, build_shards
from pipeline.clip import ClipSpec
from pipeline.datasets import Listing
from pipeline.loader import MEAN, ClipLoader
from pipeline.shard import ShardError, open_index
from pipeline.shard_writer import write_atomically
from tools.bench.lanes import LR
from tools.bench.measure import BenchError, Measurement, Order, Spread, Way
from tools.bench.ours import loader_clips, warmup_batches
from tools.bench.process import MeasuredProcess
from tools.bench.run import FIRST_STEPS, Settings, train_step
from train.ranks import Ranks

FACTORS = {
    "batch_size": "batch size",
    "num_frames": "frames",
    "stored_size": "stored size",
    "num_threads": "DALI threads",
}
LEAST_BATCHES = 3  # of a turn


@dataclass(frozen=True)
class Point:
    """What is measured at once.

    Attributes:
        num_frames: Frames of a clip, at stride 2.
        stored_size: Height of a stored frame, pixels; the crop is 7/8 of it, as 112 of 128 in the paper.
        num_threads: Of DALI.
    """

    batch_size: int
    num_frames: int
    stored_size: int
    num_threads: int

    @property
    def clip(self) -> ClipSpec:
        return ClipSpec(self.num_frames, frame_stride=2, crop_size=self.stored_size * 7 // 8)

    @property
    def key(self) -> str:
        """
        >>> Point(32, 8, 128, 2).key
        'batch_size=32 num_frames=8 stored_size=128 num_threads=2'
        """
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Found:
    """What a point cost, over its turns; or why there is no number.

    Attributes:
        own_bytes: The most memory of its own that the process held; the files that it has mapped do not count.
        facts: What else is known of it, by name.
    """

    clips_per_s: Spread | None = None
    frames_per_s: float = 0.0
    cores: float = 0.0
    own_bytes: int = 0
    turns: tuple[dict[str, float], ...] = ()
    failed: str | None = None
    facts: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, point: Point, turns: Sequence[Measurement]) -> "Found":
        rates = Spread.of([turn.clips_per_s for turn in turns])
        return cls(
            rates,
            frames_per_s=rates.median * point.num_frames,
            cores=Spread.of([turn.cores for turn in turns]).median,
            own_bytes=max(memory.own for turn in turns for memory in turn.memory),
            turns=tuple({"num_clips": t.num_clips, "wall_s": t.wall_s, "cpu_s": t.cpu_s} for t in turns),
        )

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "Found":
        """Out of JSON."""
        rates = stored["clips_per_s"]
        return cls(**{**stored, "clips_per_s": rates and Spread(**rates), "turns": tuple(stored["turns"])})


def points_of(base: Point, values: Mapping[str, Sequence[int]]) -> list[tuple[str, Point]]:
    """(factor, point) for each value of each factor, the other three as in the base point; in the order of `FACTORS`.

    >>> [(factor, p.batch_size, p.num_frames) for factor, p in points_of(Point(32, 8, 128, 2), {"num_frames": [4, 8]})]
    [('num_frames', 32, 4), ('num_frames', 32, 8)]
    """
    return [(factor, replace(base, **{factor: value})) for factor in FACTORS for value in values.get(factor, ())]


def try_build(listing: Listing, out: Path, **settings: Any) -> Path | str:
    """Shards of a listing by `BuildSettings`, on all CPUs: their folder, or why there are none."""
    try:
        build_shards(listing, out, BuildSettings(**settings), workers=len(os.sched_getaffinity(0)))
    except (ShardError, ValueError) as error:
        return str(error)
    return out


@contextmanager
def loader_alone(settings: Settings) -> Iterator[Iterator[Tensor]]:
    """The loader's batches of clips, without end."""
    plan = settings.plan(open_index(settings.data))
    with loader_clips(plan, device=settings.device, settings=settings.loader) as batches:
        yield batches


@contextmanager
def real_step(settings: Settings) -> Iterator[Iterator[Tensor]]:
    """The loader's batches of clips, each after a training step on it."""
    index, ranks = open_index(settings.data), Ranks(device=settings.device)
    step = train_step(settings, ranks, num_classes=len(index.classes))
    assert step is not None
    plan = settings.plan(index)

    def trained(loader: ClipLoader) -> Iterator[Tensor]:
        for batch in loader:
            step(batch.clips, batch.labels, batch.weights, num_real_global=batch.num_real_global, lr=LR)
            yield batch.clips

    opened = ClipLoader(index, plan, device=settings.device, settings=settings.loader, mean=MEAN)
    with opened as loader, step.on_stream():
        yield trained(loader)


def measure_point(point: Point, settings: Settings, *, clips: int, way: Way | None = None) -> Found:
    """Turns of `settings.repeats` in a process of their own; a failure is noted, for the next point may fit.

    Args:
        settings: Of this point.
        clips: Of a turn, at least; it has three batches or more.
        way: Opens with `settings`; None is the training step on the loader's clips, or the loader alone without one.
    """
    on_gpu = settings.device.type == "cuda"
    way = way or (loader_alone if settings.step is None else real_step)
    first = 0 if settings.step is None else FIRST_STEPS[settings.device.type]
    try:
        order = Order(
            num_batches=max(LEAST_BATCHES, -(-clips // point.batch_size)),
            seconds=None,
            warmup_batches=warmup_batches(settings.loader, codec=open_index(settings.data).codec, on_gpu=on_gpu),
        )
        with MeasuredProcess(point.key, way, settings, cuda=str(settings.device) if on_gpu else None) as process:
            process.wait_ready()
            if first:
                process.measure(replace(order, num_batches=first, warmup_batches=0))
            return Found.of(point, [process.measure(order) for _ in range(settings.repeats)])
    except (BenchError, ShardError) as error:
        return Found(failed=str(error).removeprefix(f"{point.key}: "))


class Journal:
    """The points found so far, kept in a JSON file after each, so that a sweep that was killed can go on.

    Args:
        path: None keeps nothing.
        about: What decides the numbers beside the point; a file about something else is not gone on with.
        resume: Go on with what the file has; else it is begun anew.

    Raises:
        BenchError: The file is of another sweep, or is none.
    """

    def __init__(self, path: Path | None, about: dict[str, Any], *, resume: bool) -> None:
        self._path, self._about = path, about
        self.found: dict[str, Found] = {}
        if not resume or path is None or not path.is_file():
            return
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            same = stored["about"] == json.loads(json.dumps(about))
            self.found = {key: Found.read(point) for key, point in stored["points"].items()}
        except (ValueError, KeyError, TypeError):
            raise BenchError(f"{path}: not a sweep; name another file, or leave out --resume") from None
        if not same:
            raise BenchError(f"{path}: a sweep of other data or settings; name another file, or leave out --resume")

    def done(self, point: Point) -> bool:
        """Whether a point has its numbers; one that failed is tried again."""
        found = self.found.get(point.key)
        return found is not None and found.failed is None

    def add(self, point: Point, found: Found) -> None:
        """Keep a point; the file is whole at any moment."""
        self.found[point.key] = found
        self.conclude()

    def conclude(self, **said: Any) -> None:
        """Write the file, with what follows from the points beside them."""
        if self._path is not None:
            points = {key: asdict(found) for key, found in self.found.items()}
            content = {"about": self._about, "points": points, **said}
            write_atomically(self._path, (json.dumps(content, indent=1) + "\n").encode())


HEADER = ["", "clips/s", "frames/s", "cores", "own MB"]


def row_of(factor: str, point: Point, base: Point, found: Found) -> list[str]:
    """A point's line of the table."""
    name = f"{FACTORS[factor]} {getattr(point, factor)}" + (" (base)" if point == base else "")
    if found.clips_per_s is None:
        return [name, "failed", "–", "–", "–"]
    return [
        name,
        str(found.clips_per_s),
        f"{found.frames_per_s:.0f}",
        f"{found.cores:.2f}",
        f"{found.own_bytes / 1e6:.0f}",
    ]


def note_of(row: Sequence[str], found: Found) -> str:
    """A point in a line, with the reason where it failed."""
    return f"{row[0]} failed: {found.failed}" if found.failed else f"{row[0]}: {row[1]} clips/s"
