"""What a build has to make: which videos go into which tar, and all that decides its bytes.

A `ShardTask` is one tar. It holds everything but the videos themselves, so any process on any machine that finds the
videos under the same names can make it, and makes the same bytes.
"""

import json
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np

from res3d_video import pipeline
from res3d_video.pipeline.build.parts import fingerprint
from res3d_video.pipeline.build.settings import BuildSettings
from res3d_video.pipeline.datasets import Listing, VideoRecord
from res3d_video.pipeline.errors import UserError, VideoFailure
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.source.inspector import Inspector
from res3d_video.pipeline.source.limits import Guard, Limits
from res3d_video.pipeline.source.transcode import centred, ffmpeg_version, fitted, stretched


@dataclass(frozen=True)
class ShardTask:
    """One tar to make.

    Attributes:
        name: Of the tar, without suffix.
        dataset: Name of the dataset.
        first: Position of the first record among all of the build; keys of samples count from it.
        canvas: Width and height that hold every video; None where all are stretched to one size.
        broken: Sources of records that are known to be unreadable, with stage and reason.
        inputs: Fingerprint of all this and of the video files, as the process that planned saw them.
    """

    name: str
    dataset: str
    first: int
    records: tuple[VideoRecord, ...]
    settings: BuildSettings
    canvas: tuple[int, int] | None
    broken: dict[str, tuple[str, str]]
    limits: Limits
    inputs: str

    def inputs_here(self) -> str:
        """The fingerprint as this process sees programs and videos."""
        head = made_by(self.dataset, self.settings, self.canvas)
        return fingerprint(head, self.canvas, list(self.records), first=self.first)


@dataclass(frozen=True)
class BuildPlan:
    """All tars of a build.

    Attributes:
        head: What dataset.json says beyond counts.
    """

    listing: Listing
    settings: BuildSettings
    head: dict[str, Any]
    tasks: list[ShardTask]

    @property
    def names(self) -> list[str]:
        """Of the tars, without suffix, in order."""
        return [task.name for task in self.tasks]


def plan_build(
    listing: Listing,
    settings: BuildSettings,
    pool: ThreadPoolExecutor,
    *,
    limit: int | None,
    inspector: Inspector,
    report: Callable[[int, int, int], None],
) -> BuildPlan:
    """Divide a listing into tars.

    Args:
        limit: Take only this many videos, the first in shuffled order.
        report: With `keep_aspect`, called with (videos probed, videos, those that cannot be read).

    Raises:
        ShardError: The codec cannot store frames of the size that holds every video.
    """
    records = shuffled(listing.records, seed=settings.seed)[:limit]
    canvas, broken = common_canvas(records, settings, pool, inspector, report=report)
    made = made_by(listing.name, settings, canvas)
    tasks = []
    for number, first in enumerate(range(0, len(records), settings.samples_per_shard)):
        part = records[first : first + settings.samples_per_shard]
        tasks.append(
            ShardTask(
                name=f"{listing.name}-{number:06d}",
                dataset=listing.name,
                first=first,
                records=tuple(part),
                settings=settings,
                canvas=canvas,
                broken={r.source: broken[r.source] for r in part if r.source in broken},
                limits=inspector.limits,
                inputs=fingerprint(made, canvas, part, first=first),
            )
        )
    return BuildPlan(listing, settings, head_of(listing, settings, made), tasks)


def common_canvas(
    records: list[VideoRecord],
    settings: BuildSettings,
    pool: ThreadPoolExecutor,
    inspector: Inspector,
    *,
    report: Callable[[int, int, int], None],
) -> tuple[tuple[int, int] | None, dict[str, tuple[str, str]]]:
    """With --keep-aspect, the width and height that hold every video, and why some cannot be read at all.

    Args:
        report: Called with (videos probed, videos, those that cannot be read).
    """
    if not settings.keep_aspect:
        return None, {}
    sizes, broken = [(settings.size, settings.size)], dict[str, tuple[str, str]]()

    def fitted_size(record: VideoRecord) -> tuple[int, int] | VideoFailure:
        try:
            facts = inspector.probe(record.path, guard_of(record, inspector.limits))
            return fitted(facts.display_width, facts.display_height, settings.size)
        except VideoFailure as failure:
            return failure

    for i, (record, size) in enumerate(zip(records, pool.map(fitted_size, records), strict=True), start=1):
        if isinstance(size, VideoFailure):
            broken[record.source] = size.stage, size.reason
        else:
            sizes.append(size)
        report(i, len(records), len(broken))
    return (max(w for w, _ in sizes), max(h for _, h in sizes)), broken


def guard_of(record: VideoRecord, limits: Limits) -> Guard:
    """What a record's video is opened by; it must lie in the raw folder, unless links may lead anywhere."""
    folders = record.path.parents
    raw = folders[min(len(Path(record.source).parts), len(folders)) - 1]
    return Guard(limits, home=None if limits.follow_links else raw)


def shuffled(records: list[VideoRecord], *, seed: int) -> list[VideoRecord]:
    """The records in the order in which they go into tars; a function of their names and the seed alone."""
    in_order = sorted(records, key=lambda record: record.source)
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(in_order))
    return [in_order[i] for i in order]


def made_by(dataset: str, settings: BuildSettings, canvas: tuple[int, int] | None) -> dict[str, Any]:
    """What of dataset.json decides the bytes of a tar: name, codec, settings, and the programs of this machine."""
    geometry = stretched(settings.size) if canvas is None else centred(canvas, canvas)
    try:
        codec = settings.codec_for(geometry)
    except UserError as error:
        raise ShardError(f"{dataset}: {error}") from None
    return {
        "name": dataset,
        "codec": {
            "name": settings.codec,
            "size": settings.size,
            "frame_step": settings.frame_step,
            **codec.describe(),
        },
        "settings": settings.describe(),
        "tools": {"ffmpeg": ffmpeg_version(), "av": av.__version__, **codec.tools()},
    }


def head_of(listing: Listing, settings: BuildSettings, made: dict[str, Any]) -> dict[str, Any]:
    """What dataset.json says about how the shards were made."""
    return made | {
        "classes": listing.classes,
        "split_names": listing.split_names,
        "fps_policy": f"resampled to {settings.fps} frames/s"
        if settings.fps
        else "the source's frames, none dropped or doubled",
        "tools": made["tools"]
        | {
            "res3d-video": pipeline.__version__,
            "webdataset": version("webdataset"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def refuse_other_settings(out_dir: Path, head: dict[str, Any]) -> None:
    """Shards of other settings are somebody's work; they are not overwritten in passing.

    Raises:
        ShardError: `out_dir` holds a dataset of another name or made with other settings.
    """
    try:
        made = json.loads((out_dir / "dataset.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    made = made if isinstance(made, dict) else {}
    settings, codec = (made[k] if isinstance(made.get(k), dict) else {} for k in ("settings", "codec"))
    if (made.get("name"), made.get("settings")) != (head["name"], head["settings"]):
        differing = sorted(k for k in head["settings"] if settings.get(k) != head["settings"][k])
        differing += ["name"] if made.get("name") != head["name"] else []
        if codec.get("name") != head["codec"]["name"]:
            differing = ["codec"]
        raise ShardError(
            f"{out_dir}: holds shards made with another {', '.join(differing)}; choose another --out or remove it"
        )
