"""From a listing of videos to a folder of shards: deterministic, in parallel, and able to go on where it was killed.

The unit of work is one tar. Which videos a tar holds, and every byte of it, follow from the listing and the settings
alone. `parts/NAME-000000.json` is written after its tar and says what the tar was made from; a later run keeps a tar
whose part still describes the same inputs and makes the others.
"""

import fcntl
import hashlib
import json
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import webdataset

import pipeline
from pipeline.build_settings import BuildSettings
from pipeline.datasets import Listing, VideoRecord
from pipeline.encoding import Segment
from pipeline.failure import VideoFailure
from pipeline.probe import VideoFacts, count_frames, probe
from pipeline.shard import ShardError
from pipeline.shard_writer import Sample, TarShard, sha256_of, to_json, write_atomically, write_index
from pipeline.transcode import FrameReader, Geometry, centred, ffmpeg_version, fitted, stretched

PART_VERSION = 2  # of what parts/*.json holds; tars whose part is of another one are made anew

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class BuildProgress:
    """How far a build is; frames and failures count this run only."""

    num_done: int
    num_total: int
    num_frames: int
    num_failed: int
    stage: str = "transcode"


@dataclass(frozen=True)
class BuildResult:
    """What a build left behind."""

    num_samples: int
    num_quarantined: int
    num_missing: int
    num_shards_written: int
    num_shards_kept: int
    num_files_changed: int


def build_shards(
    listing: Listing,
    out_dir: Path,
    settings: BuildSettings,
    *,
    workers: int,
    limit: int | None = None,
    report: Callable[[BuildProgress], None] = lambda progress: None,
) -> BuildResult:
    """Transcode the videos of a listing into shards.

    Args:
        workers: Videos in work at once; each keeps about one core busy.
        limit: Take only this many videos, the first in shuffled order.

    Raises:
        ShardError: Another build writes to `out_dir`, or it holds shards of other settings.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    with _only_builder(out_dir), ThreadPoolExecutor(workers) as pool:
        _clean(out_dir)
        records = shuffled(listing.records, seed=settings.seed)[:limit]
        canvas, broken = _canvas(records, settings, pool, report)
        head = _head(listing, settings, canvas)
        _refuse_other_settings(out_dir, head)

        step = settings.samples_per_shard
        shards = [records[i : i + step] for i in range(0, len(records), step)]
        names = [f"{listing.name}-{number:06d}" for number in range(len(shards))]
        prints = [_fingerprint(head, canvas, shard, first=i * step) for i, shard in enumerate(shards)]
        parts = [_finished_part(out_dir, name, p) for name, p in zip(names, prints, strict=True)]
        kept = sum(part is not None for part in parts)
        stale = {p.stem for p in (out_dir / "parts").glob("*.json")} - set(names)
        if kept < len(shards) or stale:
            (out_dir / "dataset.json").unlink(missing_ok=True)  # readers must not meet half of two builds
        for name in stale:
            for path in (
                out_dir / f"{name}.tar",
                out_dir / f"{name}.idx",
                out_dir / "parts" / f"{name}.json",
            ):
                path.unlink(missing_ok=True)

        progress = BuildProgress(
            num_done=sum(len(s) for s, part in zip(shards, parts, strict=True) if part),
            num_total=len(records),
            num_frames=0,
            num_failed=0,
        )
        todo = [i for i, part in enumerate(parts) if part is None]
        numbered = [(i * step + j, record) for i in todo for j, record in enumerate(shards[i])]
        finished = _in_order(pool, lambda item: _convert(*item, settings, canvas, broken), numbered, ahead=2 * workers)
        for i in todo:
            quarantine: list[dict[str, str]] = []
            with TarShard(out_dir / f"{names[i]}.tar") as tar:
                for _, result in zip(shards[i], finished, strict=False):
                    if isinstance(result, Sample):
                        tar.add(result)
                        frames, failed = result.meta["num_frames"], 0
                    else:
                        quarantine.append(result)
                        frames, failed = 0, 1
                    progress = replace(
                        progress,
                        num_done=progress.num_done + 1,
                        num_frames=progress.num_frames + frames,
                        num_failed=progress.num_failed + failed,
                    )
                    report(progress)
            part = {"inputs": prints[i], **tar.summary(), "quarantine": quarantine}
            if not part["samples"]:  # nothing but failures: readers expect no empty tar
                tar.path.unlink()
                tar.path.with_suffix(".idx").unlink()
            write_atomically(out_dir / "parts" / f"{names[i]}.json", to_json(part))
            parts[i] = part

        done = [part for part in parts if part is not None]
        missing = [
            {"source": s, "stage": "missing", "reason": "named in the lists, not found"} for s in listing.missing
        ]
        quarantine = [line for part in done for line in part["quarantine"]] + missing
        changed = write_index(out_dir, done, head=head, quarantine=quarantine)
        return BuildResult(
            num_samples=sum(len(part["samples"]) for part in done),
            num_quarantined=len(quarantine) - len(missing),
            num_missing=len(missing),
            num_shards_written=len(todo),
            num_shards_kept=kept,
            num_files_changed=changed,
        )


def shuffled(records: list[VideoRecord], *, seed: int) -> list[VideoRecord]:
    """The records in the order in which they go into tars; a function of their names and the seed alone."""
    in_order = sorted(records, key=lambda record: record.source)
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(in_order))
    return [in_order[i] for i in order]


def transcode(
    path: Path, geometry: Geometry, settings: BuildSettings, *, facts: VideoFacts
) -> tuple[Segment, dict[str, Any]]:
    """One video to its files and pictures, and what key.json says about its frames.

    Raises:
        VideoFailure: No frame can be decoded.
    """
    encoding, fps = settings.encoding(geometry), settings.fps or facts.fps
    reader = FrameReader(
        path,
        geometry,
        block_frames=encoding.block_frames,
        frame_step=settings.frame_step,
        fps=settings.fps,
        full_range=encoding.full_range,
    )
    files, pictures = encoding.encode(reader, geometry, fps=fps / settings.frame_step)
    num_stored = -(-reader.num_frames // settings.frame_step)
    assert len(pictures) == encoding.num_pictures(num_stored)
    warnings = [*facts.notes, *reader.warnings]
    claimed = facts.num_frames_header
    if claimed is not None and claimed != reader.num_frames and not settings.fps:
        counted = count_frames(path)  # a second decoder's word, asked for only where header and ffmpeg disagree
        warnings.append(f"header states {claimed} frames, {reader.num_frames} decode")
        if counted != reader.num_frames:
            warnings.append(f"PyAV decodes {counted} frames, ffmpeg {reader.num_frames}")
    return (files, pictures), {
        "num_frames": reader.num_frames,
        "num_frames_stored": num_stored,
        "num_frames_header": claimed,
        "fps": round(fps, 6),
        "content": [geometry.left, geometry.top, geometry.content_width, geometry.content_height],
        "segment_start": 0,
        "warnings": warnings,
    }


def _convert(
    number: int,
    record: VideoRecord,
    settings: BuildSettings,
    canvas: tuple[int, int] | None,
    broken: dict[str, str],
) -> Sample | dict[str, str]:
    """One record to a sample, or to its line of quarantine.jsonl."""
    try:
        if record.source in broken:
            raise VideoFailure("probe", broken[record.source])
        facts = probe(record.path)
        geometry = _geometry(facts, settings, canvas)
        segment, meta = transcode(record.path, geometry, settings, facts=facts)
    except VideoFailure as failure:
        return {"source": record.source, "stage": failure.stage, "reason": failure.reason}
    about = {
        "source": record.source,
        "class": record.class_name,
        "label": record.label,
        "group": record.group,
        "subsets": list(record.subsets),
    }
    return Sample(f"{number:08d}", *segment, {**about, **meta})


def _geometry(facts: VideoFacts, settings: BuildSettings, canvas: tuple[int, int] | None) -> Geometry:
    if canvas is None:
        return stretched(settings.size)
    return centred(fitted(facts.display_width, facts.display_height, settings.size), canvas)


def _canvas(
    records: list[VideoRecord],
    settings: BuildSettings,
    pool: ThreadPoolExecutor,
    report: Callable[[BuildProgress], None],
) -> tuple[tuple[int, int] | None, dict[str, str]]:
    """With --keep-aspect, the width and height that hold every video, and why some cannot be read at all."""
    if not settings.keep_aspect:
        return None, {}
    sizes, broken = [(settings.size, settings.size)], {}

    def fitted_size(record: VideoRecord) -> tuple[int, int] | VideoFailure:
        try:
            facts = probe(record.path)
        except VideoFailure as failure:
            return failure
        return fitted(facts.display_width, facts.display_height, settings.size)

    for i, (record, size) in enumerate(zip(records, pool.map(fitted_size, records), strict=True), start=1):
        if isinstance(size, VideoFailure):
            broken[record.source] = size.reason
        else:
            sizes.append(size)
        report(BuildProgress(i, len(records), 0, len(broken), stage="probe"))
    return (max(w for w, _ in sizes), max(h for _, h in sizes)), broken


def _head(listing: Listing, settings: BuildSettings, canvas: tuple[int, int] | None) -> dict[str, Any]:
    """What dataset.json says about how the shards were made."""
    geometry = stretched(settings.size) if canvas is None else centred(canvas, canvas)
    try:
        encoding = settings.encoding(geometry)
    except ValueError as error:
        raise ShardError(f"{listing.name}: {error}") from None
    return {
        "name": listing.name,
        "classes": listing.classes,
        "split_names": listing.split_names,
        "codec": {
            "name": settings.codec,
            "size": settings.size,
            "frame_step": settings.frame_step,
            **encoding.describe(),
        },
        "settings": settings.describe(),
        "fps_policy": f"resampled to {settings.fps} frames/s"
        if settings.fps
        else "the source's frames, none dropped or doubled",
        "tools": {
            "res3d-video": pipeline.__version__,
            "ffmpeg": ffmpeg_version(),
            "av": av.__version__,
            **encoding.tools(),
            "webdataset": webdataset.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _fingerprint(
    head: dict[str, Any], canvas: tuple[int, int] | None, records: list[VideoRecord], *, first: int
) -> str:
    """Of everything a tar is made from; files by name, size and modification time."""
    files = []
    for record in records:
        try:
            stat = record.path.stat()
            state = [stat.st_size, stat.st_mtime_ns]
        except OSError:
            state = []
        files.append([record.source, record.label, record.group, record.subsets, state])
    encoders = ("av", "libavcodec") if head["codec"]["name"] == "h264" else ("simplejpeg",)
    made_by = [head[k] for k in ("name", "codec", "settings")] + [head["tools"][k] for k in ("ffmpeg", *encoders)]
    return hashlib.sha256(to_json([PART_VERSION, made_by, canvas, first, files])).hexdigest()


def _finished_part(out_dir: Path, name: str, inputs: str) -> dict[str, Any] | None:
    """The part of a tar that is there, whole and made from these inputs; else None."""
    try:
        part = json.loads((out_dir / "parts" / f"{name}.json").read_bytes())
        if part["inputs"] != inputs:
            return None
        tar = out_dir / part["tar"]
        if part["samples"] and (sha256_of(tar) != part["sha256"] or not tar.with_suffix(".idx").is_file()):
            return None
    except (OSError, ValueError, KeyError):
        return None
    return part


def _refuse_other_settings(out_dir: Path, head: dict[str, Any]) -> None:
    """Shards of other settings are somebody's work; they are not overwritten in passing."""
    try:
        made = json.loads((out_dir / "dataset.json").read_bytes())
    except (OSError, ValueError):
        return
    if (made.get("name"), made.get("settings")) != (head["name"], head["settings"]):
        differing = sorted(
            {k for k in head["settings"] if made.get("settings", {}).get(k) != head["settings"][k]}
            | ({"name"} if made.get("name") != head["name"] else set())
        )
        if made.get("codec", {}).get("name") != head["codec"]["name"]:
            differing = ["codec"]
        raise ShardError(
            f"{out_dir}: holds shards made with another {', '.join(differing)}; choose another --out or remove it"
        )


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: list[Item], *, ahead: int
) -> Iterator[Result]:
    """Results in the order of the items, at most `ahead` of them waiting in memory."""
    waiting: list[Future[Result]] = []
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def _only_builder(out_dir: Path) -> Iterator[None]:
    with open(out_dir / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardError(f"{out_dir}: another build is writing here; wait for it or choose another --out") from None
        yield


def _clean(out_dir: Path) -> None:
    """Remove what a killed build left half-written."""
    for folder in (out_dir, out_dir / "parts", out_dir / "index"):
        for path in folder.glob(".*.tmp"):
            path.unlink()
