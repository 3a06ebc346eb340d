"""A segment, or planned clips, as a `Show`; and the same in numbers, for the table and for JSON."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.plan import PlannedClips
from res3d_video.tools.playing.draw import Moment, Picture, Reel, Show
from res3d_video.tools.playing.layout import default_zoom
from res3d_video.tools.playing.pixels import as_grey, as_pixels, crop_box, evenly
from res3d_video.tools.playing.planned import Taken, frames_of, network_input
from res3d_video.tools.playing.samples import sample_meta, stored_frames
from res3d_video.tools.playing.titles import Stage, head_of, legend, plan_line, title_of
from res3d_video.tools.playing.words import seconds
from res3d_video.train.config import TrainConfig

ASSUMED_FPS = 25.0  # where nobody knows
SHEET_HEIGHT, PLAYER_HEIGHT = 128, 256  # about so high are frames drawn, pixels
MANY_CLIPS = 2  # more in one animation are drawn smaller
MOST_FRAMES = {".png": 32, ".gif": 300, ".mp4": 2000}  # of a segment


@dataclass(frozen=True)
class Look:
    """How things are shown.

    Attributes:
        kind: ".png", a sheet with all frames; ".gif" or ".mp4", which play.
        zoom: Pixels for one of a stored frame; None chooses.
        fps: Frames a second at which it plays; None is the speed of the source.
        max_frames: Of a segment, at most, evenly spaced.
        is_normalised: Clips show the values the network gets, as grey, in place of pixels.
    """

    kind: str
    zoom: float | None = None
    fps: float | None = None
    max_frames: int | None = None
    is_normalised: bool = False

    @property
    def is_sheet(self) -> bool:
        return self.kind == ".png"

    def zoom_of(self, height: int, *, num_reels: int = 1) -> float:
        """Pixels for one of a stored frame that is so high."""
        wanted = SHEET_HEIGHT if self.is_sheet or num_reels > MANY_CLIPS else PLAYER_HEIGHT
        return self.zoom or default_zoom(height, wanted=wanted)

    def caption(self, place: int, count: int, *, frame: int, fps: float) -> tuple[str, ...]:
        """What stands below a frame; what plays counts too, or a GIF would join frames that are repeated."""
        words = f"frame {frame}", seconds(frame, fps=fps)
        return words if self.is_sheet else (f"{place + 1}/{count}", *words)


def about_sample(index: ShardIndex, sample: int) -> dict[str, Any]:
    """A sample in numbers and names, for JSON; frames are the source's.

    Raises:
        ShardError: Its key.json cannot be read.
    """
    meta = sample_meta(index, sample)
    labels = [int(label) for label in index.all_labels(np.array([sample]))[0] if label >= 0]
    return {
        "key": index.key(sample),
        "sample": sample,
        "source": index.source(sample),
        "labels": labels,
        "classes": [index.classes[label] for label in labels],
        "num_frames": meta["num_frames"],
        "fps": meta["fps"],
        "segment_start": meta["segment_start"],
        "codec": index.codec,
        "width": int(index.content[sample, 2]),
        "height": int(index.content[sample, 3]),
    }


def show_segment(index: ShardIndex, sample: int, look: Look) -> tuple[Show, dict[str, Any]]:
    """A sample's stored frames, from the first to the last.

    Returns:
        What is shown, and `about_sample` with "frames" and "seconds".
    """
    about = about_sample(index, sample)
    num_stored = int(index.num_frames[sample])
    stored = evenly(num_stored, most=look.max_frames or MOST_FRAMES[look.kind])
    frames = stored * index.frame_step
    pixels = stored_frames(index, sample, stored)
    zoom = look.zoom_of(pixels.shape[1])
    moments = [
        Moment((as_stored(picture, zoom=zoom),), look.caption(n, len(frames), frame=int(frame), fps=about["fps"]))
        for n, (picture, frame) in enumerate(zip(pixels, frames, strict=True))
    ]
    shown = f"{len(stored)} of {num_stored} frames, evenly spaced" if len(stored) < num_stored else "all frames"
    rate = look.fps or (about["fps"] or ASSUMED_FPS) * len(frames) / about["num_frames"]
    reel = Reel(f"As stored: {shown}", moments)
    return Show(head_of(about), [reel], 1 / rate), about | times(frames, fps=about["fps"])


def show_clips(
    index: ShardIndex, config: TrainConfig, sample: int, taken: Taken, look: Look, *, stage: Stage
) -> tuple[Show, dict[str, Any]]:
    """Clips of a sample: their frames as stored, what the network gets of them, or both.

    Returns:
        What is shown, and `about_sample` with a list "clips".

    Raises:
        ShardError: A picture is damaged.
        LoaderError: DALI failed.
    """
    about, spec = about_sample(index, sample), config.clip
    numbers = frames_of(index, spec, taken.clips)  # [N, T]
    inputs = network_input(index, config, taken.clips)  # [N, T, H, W, 3]
    zoom = look.zoom_of(about["height"], num_reels=len(taken))
    reels, told = [], []
    for n in range(len(taken)):
        one = about_clip(index, taken, n, numbers[n], inputs[n], spec=spec, fps=about["fps"])
        box = crop_box(
            top=int(taken.clips.top[n]), left=int(taken.clips.left[n]), crop=spec.crop_size,
            scale=spec.scale(index.size), zoom=zoom,
        )  # fmt: skip
        before = [as_stored(p, zoom=zoom) for p in stored_frames(index, sample, numbers[n])] if stage != "clip" else []
        if stage == "both":
            before = [Picture(p.pixels, p.width, p.height, box) for p in before]
        if look.is_normalised:
            after, white = as_grey(inputs[n])
            one["white_is"] = white
        else:
            after = as_pixels(inputs[n], mean=config.mean, std=config.std)
        width, height = box[2] - box[0], box[3] - box[1]  # as large as the rectangle
        rows = [before, [Picture(picture, width, height) for picture in after] if stage != "frames" else []]
        captions = [
            look.caption(t, len(numbers[n]), frame=frame, fps=about["fps"]) for t, frame in enumerate(one["frames"])
        ]
        moments = [Moment(tuple(pictures), text) for *pictures, text in zip(*filter(None, rows), captions, strict=True)]
        reels.append(Reel(title_of(one), moments))
        told.append(one)
    rate = look.fps or (about["fps"] or ASSUMED_FPS) / spec.frame_stride
    head = [*head_of(about), plan_line(config, side=taken.side)]
    head.append(legend(stage, is_sheet=look.is_sheet, is_normalised=look.is_normalised))
    return Show(head, reels, 1 / rate), about | {"side": taken.side, "split": config.split, "clips": told}


def as_stored(pixels: np.ndarray, *, zoom: float) -> Picture:
    """A stored frame, enlarged."""
    return Picture(pixels, round(pixels.shape[1] * zoom), round(pixels.shape[0] * zoom))


def times(frames: np.ndarray, *, fps: float) -> dict[str, Any]:
    """Frame numbers and when they are shown, for JSON; null where the rate is unknown."""
    return {
        "frames": [int(frame) for frame in frames],
        "seconds": [round(int(frame) / fps, 4) for frame in frames] if fps > 0 else None,
    }


def about_clip(
    index: ShardIndex, taken: Taken, n: int, stored: np.ndarray, values: np.ndarray, *, spec: ClipSpec, fps: float
) -> dict[str, Any]:
    """A clip in numbers, for JSON.

    Args:
        stored: int64 [T], the stored frames it takes.
        values: float32 THWC, what the network gets.
    """
    clips, label = taken.clips, int(taken.labels[n])
    width, height = resized(index, clips, n, spec=spec)
    if taken.side == "train":
        where = {"step": int(taken.steps[n]), "epoch": int(taken.epochs[n])}
    else:
        where = {"view": int(clips.view[n]), "num_views": taken.num_views}
    return {
        **where,
        **times(stored * index.frame_step, fps=fps),
        "crop": {"left": int(clips.left[n]), "top": int(clips.top[n]), "size": spec.crop_size},
        "of": {"width": width, "height": height},
        "flip": bool(clips.flip[n]),
        "label": label,
        "class": index.classes[label],
        "values": {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())},
    }


def resized(index: ShardIndex, clips: PlannedClips, n: int, *, spec: ClipSpec) -> tuple[int, int]:
    """Width and height of the picture that a clip is cropped from, pixels after resizing."""
    width, height = (int(side) for side in index.content[clips.sample[n], 2:])
    if spec.resize is None:
        return width, height
    return width * spec.resize // index.size, height * spec.resize // index.size
