"""The words above the pictures: the sample, how its clips are taken, each clip, what is what."""

from pathlib import PurePosixPath
from typing import Any, Literal

from res3d_video.tools.playing.words import frames_text
from res3d_video.train.config import TrainConfig

Stage = Literal["segment", "frames", "clip", "both"]


def head_of(about: dict[str, Any]) -> list[str]:
    """The lines at the top of every picture."""
    rate = f"{about['fps']:g} fps" if about["fps"] > 0 else "an unknown rate"
    start = f", from frame {about['segment_start']} of its source" if about["segment_start"] else ""
    return [
        f"{', '.join(about['classes'])}: {PurePosixPath(about['source']).stem}",
        f"key {about['key']}, {about['num_frames']} frames at {rate}{start}; "
        f"stored {about['width']}×{about['height']}, {about['codec']}",
    ]


def title_of(clip: dict[str, Any]) -> str:
    """A clip in a line, from `about_clip`.

    >>> title_of({"view": 3, "num_views": 10, "frames": [4, 6, 8], "crop": {"left": 29, "top": 8, "size": 112},
    ...           "of": {"width": 171, "height": 128}, "flip": False, "label": 2, "class": "Archery"})
    'view 3 of 0…9: frames 4…8 by 2; crop 112×112 at left 29, top 8 of 171×128; not mirrored; label 2, Archery'
    """
    where = f"step {clip['step']}, epoch {clip['epoch']}" if "step" in clip else view_text(clip)
    crop, of = clip["crop"], clip["of"]
    return (
        f"{where}: frames {frames_text(clip['frames'])}; crop {crop['size']}×{crop['size']} at left {crop['left']}, "
        f"top {crop['top']} of {of['width']}×{of['height']}; {'' if clip['flip'] else 'not '}mirrored; "
        f"label {clip['label']}, {clip['class']}"
    )


def view_text(clip: dict[str, Any]) -> str:
    """Which of a test sample's clips.

    >>> view_text({"view": 0, "num_views": 1})
    'centre clip'
    """
    return f"view {clip['view']} of 0…{clip['num_views'] - 1}" if clip["num_views"] > 1 else "centre clip"


def plan_line(config: TrainConfig, *, side: str) -> str:
    """What the clips are taken by."""
    clip = config.clip
    what = f"{clip.num_frames} frames at stride {clip.frame_stride}, crop {clip.crop_size}"
    what += f" of frames {clip.resize} high" if clip.resize else ""
    if side == "test":
        return f"test side of split {config.split}: {what}, centred, evenly spaced"
    how = f"seed {config.seed}, batches of {config.global_batch_size}"
    return f"train side of split {config.split}: {what}, {how}"


def legend(stage: Stage, *, is_sheet: bool, is_normalised: bool) -> str:
    """What the pictures of a moment are."""
    got = "what the network gets, " + (
        "grey for the mean of its three channels: mid grey is 0, white the largest value"
        if is_normalised
        else "its normalisation undone"
    )
    if stage == "frames":
        return "frames as they are stored"
    if stage == "clip":
        return got
    first, second = ("above", "below") if is_sheet else ("left", "right")
    return f"{first}: as stored, the crop in yellow; {second}: {got}"
