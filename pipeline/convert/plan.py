"""What a build has to make: which videos go into which tar, and all that decides its bytes.

A `ShardTask` is one tar. It holds everything but the videos themselves, so any process on any machine that finds the
videos under the same names can make it, and makes the same bytes.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from res3d_video import pipeline
from res3d_video.pipeline.codecs.filmstrip import FilmstripCodec
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.datasets import Listing, VideoRecord
from res3d_video.pipeline.errors import UserError, VideoFailure
from res3d_video.pipeline.index import CODECS, Codec, ShardError, choices
from res3d_video.pipeline.ingest.inspector import Inspector
from res3d_video.pipeline.ingest.limits import Guard, Limits, check_bounds, described
from res3d_video.pipeline.ingest.transcode import Geometry, centred, ffmpeg_version, fitted, stretched
from res3d_video.pipeline.shard_writer import Parts, to_json

PART_VERSION = 3  # of what parts/*.json holds; tars whose part is of another one are made anew
OWN_SETTINGS = {"filmstrip": {"quality"}, "h264": {"codec", "gop_size", "crf"}}  # what only one codec writes down
SEGMENT_SETTINGS = {"segment_s", "train_segments", "test_segments"}  # what only segments write down


@dataclass(frozen=True)
class BuildSettings:
    """Everything that decides the bytes of the shards, but for the videos.

    docs/benchmarks/shards.md has bytes and PSNR of each quality. The paper takes five pieces of 2 s of a training video
    (section 3.4).
    """

    size: int = described(128, "Stored height in pixels: 64, 128, 256, …; with kept aspect, the short side.", 16, 1024)
    codec: str = described("filmstrip", "Eight frames a JPEG, fast to read, or H.264, small.")
    quality: int = described(85, "Of filmstrips: JPEG quality, 1 to 100.", 1, 100)
    gop_size: int = described(8, "Of H.264: frames from one keyframe to the next; fewer are faster to read and larger.")
    crf: int = described(20, "Of H.264: x264's quality, 1 (best) to 51.")
    drop_odd: bool = described(False, "Store every second frame: half the bytes, even strides only.")
    fps: float | None = described(None, "Resample to this rate.  [default: the source's own frames]", 0.001, 1000)
    keep_aspect: bool = described(
        False,
        "Short side = size, aspect ratio kept, centered in one tile that holds the widest and highest; or stretched to "
        "4:3.  [default: stretched for ucf101, hmdb51, sports1m]",
    )
    samples_per_shard: int = described(64, "Videos in one tar, a part of them in memory.", 1, 100_000)
    seed: int = described(0, "Of the order of videos, and of random segments.", 0, 2**63 - 1)
    segment_s: float | None = described(None, "Seconds of a segment; frames by the video's rate.", 0.001, 3600)
    train_segments: int = described(5, "Of a training video, drawn at random.", 1, 100)
    test_segments: int = described(10, "Of a test video, evenly spaced.", 1, 100)

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise UserError(f"codec: {self.codec!r} is unknown; choose {choices(list(CODECS))}")
        check_bounds(self)
        if self.segment_s is not None and self.fps is not None:
            raise UserError(f"fps: {self.fps} does not go with segments, which are the source's frames; leave it out")
        # Refuses what the codec cannot do before any work; with `keep_aspect`, videos can only widen this tile.
        self.codec_for(self.geometry((self.size, self.size) if self.keep_aspect else None))

    @property
    def frame_step(self) -> int:
        """Source frames from one stored frame to the next."""
        return 2 if self.drop_odd else 1

    def geometry(self, canvas: tuple[int, int] | None) -> Geometry:
        """Of a video that fills the canvas; of any where there is none."""
        return stretched(self.size) if canvas is None else centred(canvas, canvas)

    def codec_for(self, geometry: Geometry) -> Codec:
        """What encodes segments in tiles of this size.

        Raises:
            UserError: The codec cannot do that.
        """
        height, width = geometry.tile_height, geometry.tile_width
        if self.codec == "h264":
            return H264Codec.new(height=height, width=width, gop_size=self.gop_size, crf=self.crf)
        # With odd frames dropped only phase 0 is left, and its frames follow one another.
        phase_stride = 1 if self.drop_odd else 2
        return FilmstripCodec.new(height=height, width=width, quality=self.quality, phase_stride=phase_stride)

    def describe(self) -> dict[str, Any]:
        """The settings that matter here, for dataset.json."""
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
        first: Position of the first record among all of the build; keys of samples count from it.
        canvas: Width and height that hold every video; None where all are stretched to one size.
        broken: Sources of records that are known to be unreadable, with stage and reason.
        inputs: `fingerprint` as the process that planned saw it.
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
        """Of all that the tar is made from, as this process sees it; videos by name, size and modification time."""
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


def plan_build(
    listing: Listing,
    settings: BuildSettings,
    pool: ThreadPoolExecutor,
    *,
    limit: int | None,
    inspector: Inspector,
    report: Callable[..., None],
) -> tuple[dict[str, Any], list[ShardTask]]:
    """Divide a listing into tars.

    Args:
        limit: Take only this many videos, the first in shuffled order.
        report: With `keep_aspect`, told how many sizes are read; a `train.terminal.Report`.

    Returns:
        What dataset.json says beyond counts, and the tars.

    Raises:
        ShardError: The codec cannot store frames of the size that holds every video.
    """
    records = shuffled(listing.records, seed=settings.seed)[:limit]
    canvas, broken = None, dict[str, tuple[str, str]]()
    if settings.keep_aspect:
        sizes, broken = fitted_sizes(records, settings.size, pool, inspector, report=report)
        found = [(settings.size, settings.size), *sizes.values()]
        canvas = max(width for width, _ in found), max(height for _, height in found)
    return head_of(listing, settings, canvas), tasks_of(listing.name, records, settings, canvas, broken, inspector)


def plan_append(
    listing: Listing,
    settings: BuildSettings,
    out_dir: Path,
    pool: ThreadPoolExecutor,
    *,
    inspector: Inspector,
    report: Callable[..., None],
    shown: str,
) -> tuple[dict[str, Any], list[ShardTask], list[str]]:
    """Tars for the videos of a listing that a dataset does not have yet; the others stay as they are.

    New classes come after the old ones. Tiles keep their size; a video that does not fit them is a broken one. Where
    sides are drawn, videos of a group that is there take its side, for of more groups others might be drawn.

    Args:
        shown: Where the dataset is, for people; `out_dir` has its dataset.json and parts.

    Returns:
        What dataset.json says beyond counts, the new tars, and the names of the old ones.

    Raises:
        ShardError: There is no finished dataset, or it is a copy without parts/ or has other splits.
    """
    try:
        made = json.loads((out_dir / "dataset.json").read_bytes())
        classes, codec, split_names = list(made["classes"]), dict(made["codec"]), list(made["split_names"])
        tars = [shard["tar"].removesuffix(".tar") for shard in made["shards"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ShardError(f"{shown}: no finished dataset to append to; leave --append out to make one") from None
    if split_names != listing.split_names:
        raise ShardError(f"{shown}: its splits are {', '.join(split_names)}; append videos with the same ones")
    classes += [name for name in listing.classes if name not in classes]
    labels = [classes.index(name) for name in listing.classes]  # of the listing's
    old = sorted(path.stem for path in (out_dir / "parts").glob("[!.]*.json"))
    if lacking := sorted(set(tars) - set(old)):
        raise ShardError(
            f"{shown}: parts/{lacking[0]}.json is missing, as in a copy; append where the shards were made"
        )
    known, first, sides = set[str](), 0, dict[str, tuple[str, ...]]()
    for part in Parts(out_dir, old):
        if listing.is_drawn:
            sides |= {sample["group"]: tuple(sample["subsets"]) for sample in part["samples"]}
        known |= {line["source"] for line in (*part["samples"], *part["quarantine"])}
        first = max(first, *(1 + int(sample["key"].split("-")[0]) for sample in part["samples"]), 0)
    new = [
        replace(
            record,
            label=labels[record.label],
            labels=record.labels and tuple(labels[k] for k in record.labels),
            subsets=sides.get(record.group, record.subsets),
        )
        for record in shuffled(listing.records, seed=settings.seed)
        if record.source not in known
    ]
    canvas, broken = None, dict[str, tuple[str, str]]()
    if settings.keep_aspect:
        canvas = codec["tile_width"], codec["tile_height"]
        sizes, broken = fitted_sizes(new, settings.size, pool, inspector, report=report)
        for source, (width, height) in sizes.items():
            if width > canvas[0] or height > canvas[1]:
                reason = f"{width}×{height} pixels do not fit tiles of {canvas[0]}×{canvas[1]}; build the shards anew"
                broken[source] = "probe", reason
    number = 1 + int(old[-1].rpartition("-")[2]) if old else 0
    tasks = tasks_of(listing.name, new, settings, canvas, broken, inspector, number=number, first=first)
    return head_of(replace(listing, classes=classes), settings, canvas), tasks, old


def tasks_of(
    dataset: str,
    records: list[VideoRecord],
    settings: BuildSettings,
    canvas: tuple[int, int] | None,
    broken: Mapping[str, tuple[str, str]],
    inspector: Inspector,
    *,
    number: int = 0,
    first: int = 0,
) -> list[ShardTask]:
    """Records in tars of `samples_per_shard`, which are numbered from `number`, and their keys from `first`."""
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
    """Source -> width and height of each video whose short side becomes `size`; and why others cannot be read."""
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
    """What opens a record's video; it must lie in the raw folder, unless links may lead anywhere."""
    return Guard(limits, home=None if limits.follow_links else record.raw)


def shuffled(records: list[VideoRecord], *, seed: int) -> list[VideoRecord]:
    """The records in the order in which they go into tars; a function of their names and the seed alone."""
    in_order = sorted(records, key=lambda record: record.source)
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(in_order))
    return [in_order[i] for i in order]


@cache
def made_by(dataset: str, settings: BuildSettings, canvas: tuple[int, int] | None) -> dict[str, Any]:
    """What of dataset.json decides the bytes of a tar: name, codec, settings, and the programs of this machine."""
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
    """What dataset.json says about how the shards were made."""
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
    """Shards of other settings are somebody's work; they are not overwritten in passing.

    Raises:
        ShardError: `out_dir`, to people `shown`, holds a dataset of another name or made with other settings.
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
