"""From one video to its samples, the whole video or segments, or to a line of quarantine.jsonl."""

import bisect
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.pipeline.clip import evenly_spaced
from res3d_video.pipeline.codecs import EncodedSegment
from res3d_video.pipeline.convert.plan import BuildSettings, ShardTask, guard_of
from res3d_video.pipeline.datasets import VideoRecord
from res3d_video.pipeline.datasets.listing import Span
from res3d_video.pipeline.errors import TooLargeError, VideoFailure
from res3d_video.pipeline.ingest.inspector import Inspector
from res3d_video.pipeline.ingest.limits import MB, Guard
from res3d_video.pipeline.ingest.probe import Piece, VideoFacts
from res3d_video.pipeline.ingest.transcode import FrameReader, Geometry, centred, fitted, stretched
from res3d_video.pipeline.plan import random_below
from res3d_video.pipeline.shard_writer import EncodedSample

Segment = tuple[EncodedSegment, dict[str, Any]]  # with the fields of key.json about its frames
FROM_START = "decoded from its first frame: its times or keyframes do not allow to begin elsewhere"
COUNTING = Geometry(16, 16, 16, 16)  # to count frames with ffmpeg, as small pictures
UNKNOWN_FPS = 25.0  # assumed where a container states no rate
Converted = tuple[list[EncodedSample], list[dict[str, str]]]  # a video's samples, and lines of quarantine.jsonl


def convert(task: ShardTask, place: int, inspector: Inspector) -> Converted:
    """The samples of one of a tar's videos, or why there are none."""
    record, settings, key = task.records[place], task.settings, f"{task.first + place:08d}"
    guard = guard_of(record, inspector.limits)
    try:
        if record.source in task.broken:
            raise VideoFailure(*task.broken[record.source])
        facts = inspector.probe(record.path, guard)
        if task.canvas is None:
            geometry = stretched(settings.size)
        else:
            geometry = centred(fitted(facts.display_width, facts.display_height, settings.size), task.canvas)
        if settings.segment_s is None and record.span is None:
            keyed = [(key, transcode(record.path, geometry, settings, facts=facts, guard=guard))]
        else:
            pieces = transcode_segments(record, geometry, settings, facts=facts, inspector=inspector, guard=guard)
            keyed = [(f"{key}-{number:02d}" if record.span is None else key, one) for number, one in enumerate(pieces)]
    except VideoFailure as failure:
        return [], [{"source": record.source, "stage": failure.stage, "reason": failure.reason}]
    about: dict[str, Any] = {
        "source": record.source,
        "class": record.class_name,
        "label": record.label,
        "group": record.group,
        "subsets": list(record.subsets),
    }
    if record.labels is not None:
        about["labels"] = list(record.labels)
    return [EncodedSample(key, segment, {**about, **meta}) for key, (segment, meta) in keyed], []


def transcode(
    path: Path,
    geometry: Geometry,
    settings: BuildSettings,
    *,
    facts: VideoFacts,
    guard: Guard,
    piece: Piece | None = None,
) -> Segment:
    """Encode one video or a piece of it; returns the segment and the fields of key.json about its frames.

    Raises:
        VideoFailure: No frame decodes, a piece that was reached by seeking lacks frames, or a limit is exceeded.
    """
    codec, fps = settings.codec_for(geometry), settings.fps or facts.fps
    num_wanted = piece.num_frames if piece else None
    if piece and settings.fps:
        num_wanted = max(round(piece.num_frames * settings.fps / (facts.fps or UNKNOWN_FPS)), 1)
    reader = FrameReader(
        path,
        geometry,
        block_frames=codec.block_frames,
        frame_step=settings.frame_step,
        fps=settings.fps,
        full_range=codec.full_range,
        piece=piece,
        num_wanted=num_wanted,
        guard=guard,
    )
    max_bytes = guard.limits.max_output_mb * MB
    try:
        segment = codec.encode(
            reader, top=geometry.top, left=geometry.left, fps=fps / settings.frame_step, max_bytes=max_bytes
        )
    except TooLargeError:
        raise guard.exceeded("max_output_mb", path, f"gives more than {max_bytes} bytes") from None
    if piece and piece.seek and reader.num_frames != num_wanted:
        raise VideoFailure("decode", f"{path.name}: {reader.num_frames} of {num_wanted} frames were found")
    return segment, {
        "num_frames": reader.num_frames,
        "num_frames_stored": len(segment.frames),
        "num_frames_header": facts.num_frames_header,
        "fps": round(fps, 6),
        "source_size": [facts.display_width, facts.display_height],
        "content": [geometry.left, geometry.top, geometry.content_width, geometry.content_height],
        "segment_start": piece.start if piece else 0,
        "warnings": [*facts.notes, *reader.warnings],
    }


def transcode_segments(
    record: VideoRecord,
    geometry: Geometry,
    settings: BuildSettings,
    *,
    facts: VideoFacts,
    inspector: Inspector,
    guard: Guard,
) -> list[Segment]:
    """The segments of one video, or the piece that its record names. Each is decoded from the keyframe before it where
    that gives exactly the same frames, else from the video's start.

    Raises:
        VideoFailure: Some segment cannot be decoded.
    """

    def stored(pieces: list[Piece], num_frames: int, *warnings: str) -> list[Segment]:
        found = [transcode(record.path, geometry, settings, facts=facts, guard=guard, piece=piece) for piece in pieces]
        return [
            (segment, meta | {"num_frames_source": num_frames, "warnings": [*meta["warnings"], *warnings]})
            for segment, meta in found
        ]

    def pieces(times_s: np.ndarray) -> list[tuple[int, int]]:
        if record.span is not None:
            return [span_frames(record.span, times_s, name=record.path.name)]
        assert settings.segment_s is not None
        length = segment_length(settings.segment_s, fps=facts.fps)
        starts = segment_starts(record, settings, length=length, video_frames=len(times_s))
        return [(start, min(length, len(times_s))) for start in starts]

    timeline = inspector.timeline(record.path, guard)
    if timeline is not None:
        try:
            found = [timeline.piece(start, num_frames=length) for start, length in pieces(timeline.times_s)]
            return stored(found, timeline.num_frames)
        except VideoFailure as failure:
            if failure.stage == "limit":
                raise
            # fewer frames than packets, or a seek went too far: decode from the start
    counting = FrameReader(record.path, COUNTING, block_frames=256, guard=guard)
    for _ in counting:
        pass
    times_s = np.arange(counting.num_frames) / (facts.fps or UNKNOWN_FPS)
    return stored([Piece(start, length) for start, length in pieces(times_s)], counting.num_frames, FROM_START)


def span_frames(span: Span, times_s: np.ndarray, *, name: str) -> tuple[int, int]:
    """First frame and number of frames of a piece of a video.

    Args:
        times_s: When each frame is shown, [F], ascending from 0.

    Raises:
        VideoFailure: No frame lies in it.

    >>> span_frames(Span(0.5, 1.0), np.arange(50) / 25, name="a.mp4")
    (13, 12)
    >>> span_frames(Span(40, 60, in_frames=True), np.arange(50) / 25, name="a.mp4")
    (40, 10)
    """
    when = np.arange(len(times_s)) if span.in_frames else times_s + 1e-6  # times are rounded
    first, end = np.searchsorted(when, [span.start, span.end]).tolist()
    if first == end:
        raise VideoFailure("decode", f"{name}: none of its {len(times_s)} frames is in its piece")
    return first, end - first


def segment_starts(record: VideoRecord, settings: BuildSettings, *, length: int, video_frames: int) -> list[int]:
    """First frames of a video's segments: evenly spaced for a test video, else drawn by the file's name."""
    if "test" in record.subsets:
        return uniform_segments(count=settings.test_segments, length=length, video_frames=video_frames).tolist()
    return random_segments(
        Path(record.source).stem,
        count=settings.train_segments,
        length=length,
        video_frames=video_frames,
        seed=settings.seed,
    ).tolist()


def segment_length(segment_s: float, *, fps: float) -> int:
    """Frames of a segment, at least 1; `fps` is the source's average, 0 if unknown.

    >>> segment_length(2, fps=30000 / 1001), segment_length(2, fps=25), segment_length(2, fps=0)
    (60, 50, 50)
    """
    return max(round(segment_s * (fps or UNKNOWN_FPS)), 1)


def random_segments(name: str, *, count: int, length: int, video_frames: int, seed: int) -> np.ndarray:
    """First frames of different segments, drawn by the video's name and the seed alone.

    Args:
        name: Of the video; Sports-1M's YouTube id.
        length: Frames of a segment. A video shorter than that is one segment that begins at frame 0.

    Returns:
        int64 [count], ascending; fewer where there are not so many places.

    >>> random_segments("UDqivjS-lpI", count=5, length=60, video_frames=9000, seed=0)
    array([ 394, 4208, 6131, 7106, 7275])
    >>> random_segments("UDqivjS-lpI", count=5, length=60, video_frames=61, seed=0)
    array([0, 1])
    """
    places = max(video_frames - length + 1, 1)
    digest = np.frombuffer(hashlib.sha256(f"{seed}:{name}".encode()).digest(), "<u8")
    words = np.random.Philox(key=digest[:2]).random_raw(min(count, places))
    chosen: list[int] = []
    for place in random_below(words, places - np.arange(len(words))).tolist():  # among the places that are left
        for taken in chosen:
            place += place >= taken
        bisect.insort(chosen, place)
    return np.array(chosen, np.int64)


def uniform_segments(*, count: int, length: int, video_frames: int) -> np.ndarray:
    """First frames of evenly spaced segments, the first at the first frame and the last at the last possible one.

    Returns:
        int64 [count], ascending; fewer where two are the same; [0] for a video shorter than `length` frames.

    >>> uniform_segments(count=4, length=50, video_frames=350), uniform_segments(count=4, length=50, video_frames=51)
    (array([  0, 100, 200, 300]), array([0, 1]))
    """
    return np.unique(evenly_spaced(count, last=np.maximum(video_frames - length, 0)))
