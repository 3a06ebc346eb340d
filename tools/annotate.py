"""Predictions drawn: classes over time as a picture, and a video with its classes on the frames."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from res3d_video.pipeline.convert.samples import UNKNOWN_FPS
from res3d_video.pipeline.files import temporary_of
from res3d_video.pipeline.ingest.inspector import Inspector
from res3d_video.pipeline.ingest.limits import Guard, Limits
from res3d_video.pipeline.ingest.transcode import FrameReader, Geometry
from res3d_video.tools.plots import COLORS, GREY, picture
from res3d_video.tools.samples import write_mp4
from res3d_video.train.evaluation.prediction import TimelineRow, VideoPrediction, likeliest

MAX_HEIGHT = 720  # of an annotated video, pixels
BLOCK_FRAMES = 16


def draw_timelines(path: Path, videos: Sequence[VideoPrediction]) -> None:
    """Write a PNG: for each video its classes' probabilities over time, stacked; the most frequent ones have colors.

    Raises:
        BenchError: matplotlib is not installed.
    """
    classes = videos[0].classes
    seconds = np.zeros(len(classes))
    for row in (row for video in videos for row in video.timeline):
        seconds += (row.end_s - row.start_s) * row.probabilities
    shown = np.argsort(-seconds, kind="stable")[: len(COLORS)]
    with picture(path, "Classes over time", size=(1200, 160 + 200 * len(videos))) as figure:
        for place, video in enumerate(videos, start=1):
            axes = figure.add_subplot(len(videos), 1, place)
            edges_s = [row.start_s for row in video.timeline] + [video.timeline[-1].end_s]
            heights = np.stack([row.probabilities for row in video.timeline])  # [V, K]
            bottom = np.zeros(len(heights))
            for color, k in zip(COLORS, shown, strict=False):
                axes.stairs(bottom + heights[:, k], edges_s, baseline=bottom, fill=True, color=color, label=classes[k])
                bottom = bottom + heights[:, k]
            if len(classes) > len(shown):
                axes.stairs(np.ones_like(bottom), edges_s, baseline=bottom, fill=True, color=GREY, label="others")
            axes.set_xlim(edges_s[0], edges_s[-1])
            axes.set_ylim(0, 1)
            axes.set_title(video.path.name, loc="left", fontsize=12)
            axes.set_ylabel("probability")
            if place == 1:
                axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        axes.set_xlabel("seconds")


def annotate(video: VideoPrediction, out: Path, *, limits: Limits | None = None) -> None:
    """Write an MP4: the frames of a video, at most 720 lines, with the three likeliest classes of each moment.

    Raises:
        VideoFailure: It cannot be read, or a limit is exceeded.
    """
    whole = TimelineRow(0.0, float("inf"), video.probabilities) if video.probabilities is not None else None
    rows = video.timeline or ((whole,) if whole else ())
    guard = Guard(limits)
    with Inspector(limits) as inspector:
        facts, timeline = inspector.probe(video.path, guard), inspector.timeline(video.path, guard)
    scale = min(1.0, MAX_HEIGHT / facts.display_height)
    width, height = (max(round(side * scale / 2) * 2, 16) for side in (facts.display_width, facts.display_height))
    reader = FrameReader(
        video.path,
        Geometry(width, height, width, height),
        block_frames=BLOCK_FRAMES,
        full_range=False,
        guard=guard,
    )
    fps = facts.fps or UNKNOWN_FPS
    times_s = itertools.count(0.0, 1 / fps) if timeline is None else timeline.times_s
    temporary = temporary_of(out)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        frames = labeled(video, rows, reader, times_s=times_s)
        rate, options = Fraction(fps).limit_denominator(1001), {"crf": "20", "preset": "veryfast"}
        write_mp4(temporary, frames, size=(width, height), rate=rate, options=options)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def labeled(
    video: VideoPrediction, rows: Sequence[TimelineRow], reader: FrameReader, *, times_s: Iterable[float]
) -> Iterator[np.ndarray]:
    """The frames of a video with the label of their moment: uint8 RGB [height, width, 3] each.

    Args:
        times_s: When they are shown, seconds; of frames beyond them, the last one.
    """
    width, height = reader.geometry.content_width, reader.geometry.content_height
    times, time_s, place, text = iter(times_s), 0.0, 0, label(video.classes, rows[0].probabilities, height)
    for block in reader:
        for planes in zip(block.y, block.u, block.v, strict=True):
            time_s = next(times, time_s)
            while place + 1 < len(rows) and time_s >= rows[place].end_s:
                place += 1
                text = label(video.classes, rows[place].probabilities, height)
            yuv = np.concatenate([plane.reshape(-1, width) for plane in planes])  # [height * 3 / 2, width]
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(yuv), format="yuv420p").to_image()
            image.paste(text, (0, 0), text)
            yield np.asarray(image)


def label(classes: Sequence[str], probabilities: np.ndarray, height: int) -> Image.Image:
    """The three likeliest classes on a dark ground, for a frame of a height in pixels: RGBA."""
    size = max(12, height // 18)
    letters = ImageFont.load_default(size)
    lines = [f"{name}  {share:.0%}" for name, share in likeliest(classes, probabilities, 3).items()]
    width = max(int(letters.getlength(line)) for line in lines) + size
    image = Image.new("RGBA", (width, (len(lines) * 4 + 2) * size // 3), (0, 0, 0, 160))
    for place, line in enumerate(lines):
        color = (255, 255, 255, 190 if place else 255)
        ImageDraw.Draw(image).text(
            (size // 2, (place * 4 + 4) * size // 3), line, font=letters, fill=color, anchor="ls"
        )
    return image
