"""Plans a build: which videos go into which tar, and everything else that decides its bytes.

A `ShardTask` is one tar. It holds everything but the videos themselves, so any process on any machine that has the
videos under the same names makes the same bytes of it.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from res3d_video import pipeline
from res3d_video.pipeline.codecs.filmstrip import FilmstripCodec
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.datasets import Listing, VideoRecord
from res3d_video.pipeline.errors import UserError, VideoFailure
from res3d_video.pipeline.index import Codec, ShardError
from res3d_video.pipeline.ingest.inspector import Inspector
from res3d_video.pipeline.ingest.limits import Guard, Limits
from res3d_video.pipeline.ingest.transcode import Geometry, centred, ffmpeg_version, fitted, stretched
from res3d_video.pipeline.settings import check_fields, described
from res3d_video.pipeline.shard_writer import Parts, to_json

PART_VERSION = 3  # of the format of parts/*.json; tars with a part of another version are made again
OWN_SETTINGS = {"filmstrip": {"quality"}, "h264": {"codec", "gop_size", "crf"}}  # recorded for one codec only
SEGMENT_SETTINGS = {"segment_s", "train_segments", "test_segments"}  # recorded for segments only


@dataclass(frozen=True)
class BuildSettings:
    """Everything that decides the bytes of the shards, except the videos.

    docs/benchmarks/shards.md has bytes and PSNR of each quality. The paper takes five pieces of 2 s of a training video
    (section 3.4).
    """

    size: int = described(128, "Stored height in pixels: 64, 128, 256, …; with kept aspect, the short side.", 16, 1024)
    codec: Literal["filmstrip", "h264"] = described("filmstrip", "Eight frames a JPEG, fast to read, or H.264, small.")
    quality: int = described(85, "Of filmstrips: JPEG quality, 1 to 100.", 1, 100)
    gop_size: int = described(
        8, "Of H.264: frames from one keyframe to the next; fewer are faster to read and larger.", 2, 250, flag="--gop"
    )
    crf: int = described(20, "Of H.264: x264's quality, 1 (best) to 51.", 1, 51)
    drop_odd: bool = described(False, "Store every second frame: half the bytes, even strides only.")
    fps: float | None = described(None, "Resample to this rate.  [default: the source's own frames]", 0.001, 1000)
    keep_aspect: bool = described(
        False,
        "Short side = size, aspect ratio kept, centered in one tile that holds the widest and highest; or stretched to "
        "4:3.  [default: stretched for ucf101, hmdb51, sports1m]",
        flag="--keep-aspect/--no-keep-aspect",
    )
    samples_per_shard: int = described(64, "Videos in one tar, a part of them in memory.", 1, 100_000)
    seed: int = described(0, "Of the order of videos, and of random segments.", 0, 2**63 - 1)
    segment_s: float | None = described(None, "Seconds of a segment; frames by the video's rate.", 0.001, 3600)
    train_segments: int = described(5, "Of a training video, drawn at random.", 1, 100)
    test_segments: int = described(10, "Of a test video, evenly spaced.", 1, 100)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.segment_s is not None and self.fps is not None:
            raise UserError(f"fps: {self.fps} does not go with segments, which are the source's frames; leave it out")
        # Fails early if the codec cannot encode this size; with `keep_aspect`, videos can only widen this tile.
        self.codec_for(self.geometry((self.size, self.size) if self.keep_aspect else None))

    @property
    def frame_step(self) -> int:
        """Source frames from one stored frame to the next."""
        return 2 if self.drop_odd else 1

    def geometry(self, canvas: tuple[int, int] | None) -> Geometry:
        """Of a video that fills the canvas; without a canvas, of every video."""
        return stretched(self.size) if canvas is None else centred(canvas, canvas)

    def codec_for(self, geometry: Geometry) -> Codec:
        """The encoder of segments in tiles of this size.

        Raises:
            UserError: The codec cannot encode this size.
        """
        height, width = geometry.tile_height, geometry.tile_width
        if self.codec == "h264":
            return H264Codec.new(height=height, width=width, gop_size=self.gop_size, crf=self.crf)
        # Without odd frames only phase 0 is left, whose frames are adjacent.
        phase_stride = 1 if self.drop_odd else 2
        return FilmstripCodec.new(height=height, width=width, quality=self.quality, phase_stride=phase_stride)

    def describe(self) -> dict[str, Any]:
        """The settings that apply, for dataset.json."""
        others = set().union(*(names for codec, names in OWN_SETTINGS.items() if codec != self.codec))
        if self.segment_s is None:
            others |= SEGMENT_SETTINGS
        return {name: value for name, value in asdict(self).items() if name not in others}


@dataclass(frozen=True)
class ShardTask:
    """One tar to make.

    Attributes:
        name: Of the tar, without suffix.
        dataset: Name of the dataset.
        first: Position of the first record in the build; keys of samples count from it.
        canvas: Width and height that hold every video; None if all are stretched to one size.
        broken: Source -> stage and reason of records that are known to be unreadable.
        inputs: `fingerprint` in the process that planned the build.
    """

    name: str
    dataset: str
    first: int
    records: tuple[VideoRecord, ...]
    settings: BuildSettings
    canvas: tuple[int, int] | None
    broken: dict[str, tuple[str, str]]
    limits: Limits
    inputs: str = ""

    def fingerprint(self) -> str:
        """A digest of all inputs of the tar as this process sees them; videos by name, size and modification time."""
        files = []
        for record in self.records:
            try:
                stat = record.path.stat()
                state = [stat.st_size, stat.st_mtime_ns]
            except OSError:
                state = []
            more: list[Any] = [record.labels] if record.labels is not None else []
            more += [record.span.start, record.span.end, record.span.in_frames] if record.span is not None else []
            files.append([record.source, record.label, record.group, record.subsets, state, *more])
        head = made_by(self.dataset, self.settings, self.canvas)
        encoders = ("av", "libavcodec") if self.settings.codec == "h264" else ("simplejpeg",)
        made = [head[k] for k in ("name", "codec", "settings")] + [head["tools"][k] for k in ("ffmpeg", *encoders)]
        return hashlib.sha256(to_json([PART_VERSION, made, self.canvas, self.first, files])).hexdigest()


@dataclass(frozen=True)
class OldShards:
    """The shards that a build appends to; by default none.

    Attributes:
        names: Of the tars, without suffix.
        classes: In the order of their labels.
        canvas: Width and height of their tiles.
        sources: Of the videos that became samples, or could not.
        first: The first key that is free.
        subsets: Of each group, in each split, where the listing's are drawn: of more groups others might be drawn.
    """

    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    canvas: tuple[int, int] | None = None
    sources: set[str] = field(default_factory=set)
    first: int = 0
    subsets: dict[str, tuple[str, ...]] = field(default_factory=dict)


def old_shards(out_dir: Path, listing: Listing, *, shown: str) -> OldShards:
    """A finished dataset that videos of a listing are appended to.

    Args:
        out_dir: Has its dataset.json and parts.
        shown: Where it is, for people.

    Raises:
        ShardError: There is no finished dataset, or it is a copy without parts/ or has other splits.
    """
    try:
        made = json.loads((out_dir / "dataset.json").read_bytes())
        classes, split_names = list(made["classes"]), list(made["split_names"])
        canvas = made["codec"]["tile_width"], made["codec"]["tile_height"]
        tars = [shard["tar"].removesuffix(".tar") for shard in made["shards"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ShardError(f"{shown}: no finished dataset to append to; leave --append out to make one") from None
    if split_names != listing.split_names:
        raise ShardError(f"{shown}: its splits are {', '.join(split_names)}; append videos with the same ones")
    names = sorted(path.stem for path in (out_dir / "parts").glob("[!.]*.json"))
    if lacking := sorted(set(tars) - set(names)):
        raise ShardError(
            f"{shown}: parts/{lacking[0]}.json is missing, as in a copy; append where the shards were made"
        )
    sources, first, subsets = set[str](), 0, dict[str, tuple[str, ...]]()
    for part in Parts(out_dir, names):
        if listing.is_drawn:
            subsets |= {sample["group"]: tuple(sample["subsets"]) for sample in part["samples"]}
        sources |= {line["source"] for line in (*part["samples"], *part["quarantine"])}
        first = max(first, *(1 + int(sample["key"].split("-")[0]) for sample in part["samples"]), 0)
    return OldShards(names, classes, canvas, sources, first, subsets)


def plan_build(
    listing: Listing,
    settings: BuildSettings,
    pool: ThreadPoolExecutor,
    *,
    limit: int | None,
    inspector: Inspector,
    report: Callable[..., None],
    old: OldShards | None = None,
) -> tuple[dict[str, Any], list[ShardTask]]:
    """Divide the videos of a listing into tars.

    Args:
        limit: Take only this many videos, the first in shuffled order.
        report: With `keep_aspect`, told how many sizes are read; a `train.terminal.Report`.
        old: Shards that stay as they are; videos that they have are left out. New classes come after theirs. Tiles keep
            their size; a video that does not fit them is a broken one.

    Returns:
        What dataset.json says beyond counts, and the new tars.

    Raises:
        ShardError: The codec cannot store frames of the size that holds every video.
    """
    old, canvas, broken = old or OldShards(), None, dict[str, tuple[str, str]]()
    records = shuffled(listing.records, seed=settings.seed)[:limit]
    classes = old.classes + [name for name in listing.classes if name not in old.classes]
    if old.classes:
        labels = [classes.index(name) for name in listing.classes]  # of the listing's
        records = [
            replace(
                one,
                label=labels[one.label],
                labels=one.labels and tuple(labels[k] for k in one.labels),
                subsets=old.subsets.get(one.group, one.subsets),
            )
            for one in records
            if one.source not in old.sources
        ]
    if settings.keep_aspect:
        sizes, broken = fitted_sizes(records, settings.size, pool, inspector, report=report)
        found = [(settings.size, settings.size), *sizes.values()]
        canvas = old.canvas or (max(width for width, _ in found), max(height for _, height in found))
        for source, (width, height) in sizes.items():
            if width > canvas[0] or height > canvas[1]:
                reason = f"{width}×{height} pixels do not fit tiles of {canvas[0]}×{canvas[1]}; build the shards anew"
                broken[source] = "probe", reason
    number = 1 + int(old.names[-1].rpartition("-")[2]) if old.names else 0
    tasks = tasks_of(listing.name, records, settings, canvas, broken, inspector, number=number, first=old.first)
    return head_of(replace(listing, classes=classes), settings, canvas), tasks


def tasks_of(
    dataset: str,
    records: list[VideoRecord],
    settings: BuildSettings,
    canvas: tuple[int, int] | None,
    broken: Mapping[str, tuple[str, str]],
    inspector: Inspector,
    *,
    number: int,
    first: int,
) -> list[ShardTask]:
    """Tars of `samples_per_shard` records; tars are numbered from `number`, keys from `first`."""
    tasks: list[ShardTask] = []
    for place in range(0, len(records), settings.samples_per_shard):
        part = tuple(records[place : place + settings.samples_per_shard])
        known = {r.source: broken[r.source] for r in part if r.source in broken}
        name = f"{dataset}-{number + len(tasks):06d}"
        task = ShardTask(name, dataset, first + place, part, settings, canvas, known, inspector.limits)
        tasks.append(replace(task, inputs=task.fingerprint()))
    return tasks


def fitted_sizes(
    records: list[VideoRecord],
    size: int,
    pool: ThreadPoolExecutor,
    inspector: Inspector,
    *,
    report: Callable[..., None],
) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[str, str]]]:
    """Source -> stored width and height of each video, whose short side becomes `size`; and why others fail."""
    sizes, broken = dict[str, tuple[int, int]](), dict[str, tuple[str, str]]()

    def fitted_size(record: VideoRecord) -> tuple[int, int] | VideoFailure:
        try:
            facts = inspector.probe(record.path, guard_of(record, inspector.limits))
            return fitted(facts.display_width, facts.display_height, size)
        except VideoFailure as failure:
            return failure

    for i, (record, found) in enumerate(zip(records, pool.map(fitted_size, records), strict=True), start=1):
        if isinstance(found, VideoFailure):
            broken[record.source] = found.stage, found.reason
        else:
            sizes[record.source] = found
        report(i, len(records), "reading sizes", failed=len(broken))
    return sizes, broken


def guard_of(record: VideoRecord, limits: Limits) -> Guard:
    """The guard that opens a record's video, which must lie in the raw folder unless links are followed."""
    return Guard(limits, home=None if limits.follow_links else record.raw)


def shuffled(records: list[VideoRecord], *, seed: int) -> list[VideoRecord]:
    """The records in the order of the tars; depends on their names and the seed alone."""
    in_order = sorted(records, key=lambda record: record.source)
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(in_order))
    return [in_order[i] for i in order]


@cache
def made_by(dataset: str, settings: BuildSettings, canvas: tuple[int, int] | None) -> dict[str, Any]:
    """The fields of dataset.json that decide the bytes of a tar: name, codec, settings, and this machine's programs."""
    try:
        codec = settings.codec_for(settings.geometry(canvas))
    except UserError as error:
        raise ShardError(f"{dataset}: {error}") from None
    about = {"name": settings.codec, "size": settings.size, "frame_step": settings.frame_step}
    return {
        "name": dataset,
        "codec": about | codec.describe(),
        "settings": settings.describe(),
        "tools": {"ffmpeg": ffmpeg_version(), "av": av.__version__, **codec.tools()},
    }


def head_of(listing: Listing, settings: BuildSettings, canvas: tuple[int, int] | None) -> dict[str, Any]:
    """The fields of dataset.json about how the shards are made."""
    made = made_by(listing.name, settings, canvas)
    others = {
        "res3d-video": pipeline.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return made | {
        "classes": listing.classes,
        "split_names": listing.split_names,
        "fps_policy": f"resampled to {settings.fps} frames/s"
        if settings.fps
        else "the source's frames, none dropped or doubled",
        "tools": made["tools"] | others,
    }


def refuse_other_settings(out_dir: Path, head: dict[str, Any], *, shown: str) -> None:
    """Do not overwrite shards that were made with other settings.

    Args:
        shown: `out_dir` for people.

    Raises:
        ShardError: It holds a dataset of another name, or made with other settings.
    """
    try:
        found = json.loads((out_dir / "dataset.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    made = found if isinstance(found, dict) else {}
    settings, codec = (made[k] if isinstance(made.get(k), dict) else {} for k in ("settings", "codec"))
    differing = sorted(k for k in head["settings"] if settings.get(k) != head["settings"][k])
    if made.get("name") != head["name"]:
        differing.append("name")
    if differing and codec.get("name") != head["codec"]["name"]:
        differing = ["codec"]
    if differing:
        raise ShardError(
            f"{shown}: holds shards made with another {', '.join(differing)}; choose another --out or remove it"
        )
