"""Windows of THUMOS14 videos as a file: one JSON object a line; features and scores refer to its key."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
from msgspec import Meta

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import read_text
from res3d_video.pipeline.typed_json import SchemaError, decode
from res3d_video.train.evaluation.thumos14.segments import (
    WINDOW_CLIP,
    WINDOW_LENGTHS,
    WINDOW_OVERLAP,
    frames_of_window,
    windows_of,
)

MAX_FRAMES = 10**7  # of a video; four days
MIN_FPS, MAX_FPS = 0.001, 1000.0


class Window(TypedDict):
    """What is read of a line of a window file."""

    video: Annotated[str, Meta(min_length=1, max_length=1000)]
    start_frame: Annotated[int, Meta(ge=0, le=MAX_FRAMES)]
    end_frame: Annotated[int, Meta(ge=1, le=MAX_FRAMES)]
    fps: Annotated[float, Meta(ge=MIN_FPS, le=MAX_FPS)]


@dataclass(frozen=True)
class WindowList:
    """W windows of some videos.

    Attributes:
        videos: Names, str [W].
        frames: Rows (first frame, frame after the last), 0-based, int64 [W, 2].
        fps: Of the window's video, frames/s, float64 [W].
    """

    videos: np.ndarray
    frames: np.ndarray
    fps: np.ndarray

    def __len__(self) -> int:
        return len(self.videos)

    def take(self, rows: np.ndarray) -> "WindowList":
        """Some of them: rows or a mask."""
        return WindowList(self.videos[rows], self.frames[rows], self.fps[rows])

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each window, int64 [W]."""
        return self.frames[:, 1] - self.frames[:, 0]

    @property
    def times(self) -> np.ndarray:
        """Rows (start, end), seconds, float64 [W, 2]; S-CNN counts frames from 1 and so starts one frame later."""
        return self.frames / self.fps[:, None]

    @property
    def keys(self) -> list[str]:
        """Unique names, such as video_test_0000179/000016-000032: first frame, and the frame after the last."""
        return [f"{video}/{start:06}-{end:06}" for video, (start, end) in zip(self.videos, self.frames, strict=True)]


@dataclass(frozen=True)
class VideoLength:
    """A video's name, number of frames and frames/s."""

    name: str
    num_frames: int
    fps: float


def read_lengths(path: Path) -> list[VideoLength]:
    """Lines 'video frames frames/s', such as 'video_test_0000004 1012 30'.

    Raises:
        ValueError: A line has another form, or a video comes twice.
    """
    videos: dict[str, VideoLength] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            name, num_frames, fps = line.split()
            video = VideoLength(name.removesuffix(".mp4"), int(num_frames), float(fps))
            if not 0 <= video.num_frames <= MAX_FRAMES or not MIN_FPS <= video.fps <= MAX_FPS:
                raise ValueError
        except ValueError:
            raise UserError(
                f"{path}, line {number}: {line.strip()!r:.200} is not of the form 'video frames frames/s'"
            ) from None
        if video.name in videos:
            raise UserError(f"{path}, line {number}: {video.name} is there twice; keep one of the lines")
        videos[video.name] = video
    return list(videos.values())


def list_windows(
    videos: list[VideoLength], *, lengths: tuple[int, ...] = WINDOW_LENGTHS, overlap: float = WINDOW_OVERLAP
) -> WindowList:
    """The sliding windows of some videos, video after video.

    Raises:
        ValueError: A length is no multiple of the 16 frames of a clip, or too small or the overlap too large.
    """
    for length in lengths:
        frames_of_window(0, length)  # refuses it here rather than after minutes
    frames = [windows_of(video.num_frames, lengths=lengths, overlap=overlap) for video in videos]
    counts = [len(rows) for rows in frames]
    return WindowList(
        videos=np.repeat(np.array([video.name for video in videos], str), counts),
        frames=np.concatenate([np.zeros((0, 2), np.int64), *frames]),
        fps=np.repeat(np.array([video.fps for video in videos], np.float64), counts),
    )


def json_lines(windows: WindowList) -> Iterator[str]:
    """The lines of a window file: key, video, frames/s, first frame, frame after the last, seconds, clip."""
    for key, video, (start, end), times, fps in zip(
        windows.keys, windows.videos, windows.frames.tolist(), windows.times, windows.fps, strict=True
    ):
        yield json.dumps(
            {
                "key": key,
                "video": str(video),
                "fps": float(fps),
                "start_frame": start,
                "end_frame": end,
                "start_s": round(float(times[0]), 3),
                "end_s": round(float(times[1]), 3),
                "frames": frames_of_window(start, end, num_frames=WINDOW_CLIP).tolist(),
            }
        )


def write_windows(path: Path, windows: WindowList) -> None:
    """Write a window file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in json_lines(windows))


def read_windows(path: Path) -> WindowList:
    """Read a window file.

    Raises:
        ValueError: A line is not one of a window file.
    """
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            row = decode(line, Window)
            if row["start_frame"] >= row["end_frame"]:
                raise SchemaError("end_frame: not after start_frame")
        except SchemaError as error:
            raise UserError(
                f"{path}, line {number}: not a window ({error}); make the file with thumos14.py windows"
            ) from None
        rows.append((row["video"], row["start_frame"], row["end_frame"], row["fps"]))
    videos, starts, ends, fps = zip(*rows, strict=True) if rows else ((), (), (), ())
    frames = np.stack([np.array(starts, np.int64), np.array(ends, np.int64)], axis=1)  # [W, 2]
    return WindowList(videos=np.array(videos, str), frames=frames, fps=np.array(fps, np.float64))
