"""What was written, in lines for people."""

from typing import Any

from res3d_video.tools.playing.words import aligned, frames_text


def report_lines(told: dict[str, Any]) -> list[str]:
    """The sample, a table of its clips, and the file.

    Args:
        told: `shows.about_sample`, with "clips" or "frames", "stage" and "out".
    """
    fps = told["fps"]
    rate = f" at {fps:g} fps, {told['num_frames'] / fps:.2f} s" if fps > 0 else ", their rate unknown"
    rows = [
        ("key", told["key"]),
        ("source", told["source"] + (f", from frame {told['segment_start']}" if told["segment_start"] else "")),
        ("class", ", ".join(f"{label} {name}" for label, name in zip(told["labels"], told["classes"], strict=True))),
        ("frames", f"{told['num_frames']}{rate}"),
        ("stored", f"{told['width']}×{told['height']}, {told['codec']}"),
    ]
    if "frames" in told:
        rows.append(("shown", f"{len(told['frames'])} frames, {told['frames'][0]} to {told['frames'][-1]}"))
    lines = aligned(rows)
    if "clips" in told:
        lines += ["", *aligned(clip_rows(told["clips"])), ""]
    return [*lines, file_line(told["out"])]


def clip_rows(clips: list[dict[str, Any]]) -> list[list[str]]:
    """A heading, and a row a clip."""
    names = ["step", "epoch"] if "step" in clips[0] else ["view"]
    heading = [*names, "frames", "seconds", "left", "top", "crop", "of", "mirrored", "label", "class", "values"]
    return [heading, *([str(clip[name]) for name in names] + clip_cells(clip) for clip in clips)]


def clip_cells(clip: dict[str, Any]) -> list[str]:
    """What a clip shows, from `shows.about_clip`."""
    crop, of, values, times = clip["crop"], clip["of"], clip["values"], clip["seconds"]
    return [
        frames_text(clip["frames"]),
        f"{times[0]:.2f}…{times[-1]:.2f}" if times else "?",
        str(crop["left"]),
        str(crop["top"]),
        f"{crop['size']}×{crop['size']}",
        f"{of['width']}×{of['height']}",
        "yes" if clip["flip"] else "no",
        str(clip["label"]),
        clip["class"],
        f"{values['min']:.4g}…{values['max']:.4g}, mean {values['mean']:.4g}",
    ]


def file_line(out: dict[str, Any]) -> str:
    """The file written.

    >>> file_line({"path": "a.gif", "width": 480, "height": 320, "num_bytes": 91300, "num_frames": 8, "fps": 12.5})
    'written  a.gif, 480×320, 8 frames at 12.5 fps, 91 KB'
    """
    frames = f", {out['num_frames']} frames at {out['fps']:.4g} fps" if "fps" in out else ""
    return f"written  {out['path']}, {out['width']}×{out['height']}{frames}, {out['num_bytes'] / 1000:.0f} KB"
