"""Clips and segments drawn, and encoded as GIF, MP4 or a PNG sheet. Needs Pillow, and matplotlib for its font."""

import io
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.plan import PlannedClips
from res3d_video.tools.playing.selection import clip_frames, network_input, stored_frames
from res3d_video.train.config import TrainConfig

NAMES = ("stored frame, the crop in yellow", "crop", "network input")
PANELS_WIDTH, PANEL_HEIGHT = 580, 256  # of an animation: all pictures and one of them, at most, pixels
CELL_HEIGHT, MAX_COLUMNS = 112, 8  # of a sheet: a picture, pixels, and frames in a row
TEXT_WIDTH, MARGIN, GAP = 420, 10, 8  # pixels
PAPER, INK, YELLOW = (255, 255, 255), (40, 40, 40), (255, 221, 0)


class Frame(NamedTuple):
    """One frame as it is shown: a line about it, and 1 or 3 pictures as in NAMES, uint8 RGB [h, w, 3].

    `box` is the crop's left, top, right and bottom in the first picture, pixels.
    """

    caption: str
    pictures: list[np.ndarray]
    box: tuple[float, ...] = ()


class FrameGroup(NamedTuple):
    """A line about a clip or a segment, and its frames, at least one; all groups have pictures of the same sizes."""

    title: str
    frames: list[Frame]


def segment_group(index: ShardIndex, sample: int, frames: np.ndarray) -> FrameGroup:
    """Stored frames [F] of a sample, by number."""
    shown = zip(frames * index.frame_step, stored_frames(index, sample, frames), strict=True)
    title = f"{len(frames)} of {index.num_frames[sample]} stored frames"
    return FrameGroup(title, [Frame(f"frame {number}", [picture]) for number, picture in shown])


def clip_groups(
    index: ShardIndex, config: TrainConfig, clips: PlannedClips, described: Sequence[dict[str, Any]]
) -> list[FrameGroup]:
    """Clips, `described` by `describe_clips`: as stored, cropped, as the network gets them. Raises ShardError."""
    numbers, given = clip_frames(index, config, clips), network_input(index, config, clips)
    scale, groups = config.clip.scale(index.size), []
    for n, clip in enumerate(described):
        stored = stored_frames(index, int(clips.sample[n]), numbers[n])
        left, top, side = (clip["crop"][name] / scale for name in ("left", "top", "size"))
        box = left, top, left + side, top + side
        rows, columns = (slice(round(first), round(first + side)) for first in (top, left))
        frames = [
            Frame(f"frame {frame}", [stored[t], stored[t, rows, columns], given[n, t]], box)
            for t, frame in enumerate(clip["frames"])
        ]
        title = ", ".join(f"{name} {clip[name]}" for name in ("step", "epoch", "view") if name in clip)
        title += f": frames {clip['frames'][0]} to {clip['frames'][-1]}" + ", mirrored" * clip["flip"]
        groups.append(FrameGroup(title, frames))
    return groups


def draw(kind: str, title: str, groups: Sequence[FrameGroup]) -> list[Image.Image]:
    """A page for each frame, its pictures side by side; or for ".png" one page with all, pictures below one another."""
    if kind == ".png":
        rows: list[Image.Image] = []
        for group in groups:
            cells = [draw_frame(frame, CELL_HEIGHT, across=False) for frame in group.frames]
            columns = -(-len(cells) // -(-len(cells) // MAX_COLUMNS))  # so that all rows are about equally long
            starts = range(0, len(cells), columns)
            rows += [text(group.title, TEXT_WIDTH), *(join(cells[n : n + columns], across=True) for n in starts)]
        return [page(title, rows)]
    shares = [picture.shape[1] / picture.shape[0] for picture in groups[0].frames[0].pictures]
    height = min(PANEL_HEIGHT, round((PANELS_WIDTH - GAP * (len(shares) - 1)) / sum(shares)))
    return [
        page(title, [text(group.title, TEXT_WIDTH), draw_frame(frame, height, across=True)])
        for group in groups
        for frame in group.frames
    ]


def page(title: str, images: Sequence[Image.Image]) -> Image.Image:
    """A title and pictures below one another with a margin around; the sides are even, for H.264."""
    content = join(images)
    content = join([text(title, max(TEXT_WIDTH, content.width), size=15, bold=True), content])
    paper = Image.new("RGB", (content.width // 2 * 2 + 2 * MARGIN, content.height // 2 * 2 + 2 * MARGIN), PAPER)
    paper.paste(content, (MARGIN, MARGIN))
    return paper


def draw_frame(frame: Frame, height: int, *, across: bool) -> Image.Image:
    """The pictures of a frame at a height, pixels, with the crop drawn in, their names above and the caption below."""
    images: list[Image.Image] = []
    for name, picture in zip(NAMES, frame.pictures, strict=False):
        width = round(picture.shape[1] * height / picture.shape[0])
        image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
        if frame.box and not images:
            left, top, right, bottom = (round(side * height / len(picture)) for side in frame.box)
            ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), outline=YELLOW, width=2)
        images.append(join([text(name, width), image]) if across else image)
    pictures = join(images, across=across)
    return join([pictures, text(frame.caption, pictures.width)])


@cache
def font(size: int, *, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has the letters of most alphabets."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf" / name, size)


def text(line: str, width: int, *, size: int = 12, bold: bool = False) -> Image.Image:
    """A line of text, cut where it is wider than `width` pixels."""
    letters = font(size, bold=bold)
    while len(line) > 1 and letters.getlength(line) > width:
        line = line[:-2] + "…"
    image = Image.new("RGB", (width, size + size // 2), PAPER)
    ImageDraw.Draw(image).text((0, size), line, font=letters, fill=INK, anchor="ls")
    return image


def join(images: Sequence[Image.Image], *, across: bool = False) -> Image.Image:
    """Pictures side by side, or below one another."""
    gap = GAP if across else GAP // 2
    widths, heights = [image.width + gap for image in images], [image.height + gap for image in images]
    size = (sum(widths), max(heights)) if across else (max(widths), sum(heights))
    joined, place = Image.new("RGB", (size[0] - gap, size[1] - gap), PAPER), 0
    for image in images:
        joined.paste(image, (place, 0) if across else (0, place))
        place += gap + (image.width if across else image.height)
    return joined


def encode(kind: str, images: Sequence[Image.Image], *, frame_s: float) -> bytes:
    """A .png of the first picture, or a .gif or .mp4 of all, `frame_s` seconds from one to the next."""
    buffer = io.BytesIO()
    if kind == ".png":
        images[0].save(buffer, "PNG", optimize=True)
    elif kind == ".gif":  # all pictures with the same 256 colors, so that what stands still is stored once
        palette = join(images[:: -(-len(images) // 8)]).quantize(254)
        colors = np.array(palette.getpalette()).reshape(-1, 3)
        colors[colors.min(axis=1) > 240] = PAPER  # or the paper would be tinted
        palette.putpalette([*colors.ravel()[: 3 * 254].tolist(), *INK, *YELLOW])
        first, *others = [image.quantize(palette=palette) for image in images]
        time_ms = 10 * max(2, round(100 * frame_s))  # GIFs count hundredths of a second; players show one as ten
        first.save(buffer, "GIF", save_all=True, append_images=others, duration=time_ms, loop=0)
    else:
        with av.open(buffer, "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264", rate=Fraction(1 / frame_s).limit_denominator(1000))
            stream.width, stream.height = images[0].size
            stream.pix_fmt, stream.options = "yuv420p", {"crf": "12", "preset": "veryfast"}  # visually lossless
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
            container.mux(stream.encode(None))
    return buffer.getvalue()
