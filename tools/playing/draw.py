"""Reels drawn: all moments on one sheet, or one moment after the other. Needs Pillow, and matplotlib for its font."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.tools.playing.layout import Grid, grid, grid_size, tile_corner
from res3d_video.tools.playing.pixels import enlarged, with_box
from res3d_video.tools.playing.words import wrapped

SHEET_WIDTH, PLAYER_WIDTH = 1500, 1100  # pixels at most, but for single pictures that are wider
MIN_WIDTH = 340  # of an animation, so that its words have room
MARGIN, GAP, TEXT_GAP, REEL_GAP = 16, 8, 3, 18
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (90, 90, 90)
HEAD, TITLE, CAPTION = 17, 14, 13  # font sizes, pixels


@dataclass(frozen=True)
class Picture:
    """A picture and how it is drawn.

    Attributes:
        pixels: uint8 RGB [h, w, 3].
        width, height: As drawn, pixels.
        box: Rectangle drawn in: left, top, right, bottom in drawn pixels; None for none.
    """

    pixels: np.ndarray
    width: int
    height: int
    box: tuple[int, int, int, int] | None = None

    def drawn(self) -> np.ndarray:
        """The picture at its size: uint8 RGB [height, width, 3]."""
        picture = enlarged(self.pixels, height=self.height, width=self.width)
        return picture if self.box is None else with_box(picture, self.box)


@dataclass(frozen=True)
class Moment:
    """One frame of a reel: its pictures before and after, and lines of text below them."""

    pictures: tuple[Picture, ...]
    caption: tuple[str, ...]


@dataclass(frozen=True)
class Reel:
    """A clip or a segment, frame by frame; all moments have pictures of the same sizes."""

    title: str
    moments: Sequence[Moment]


@dataclass(frozen=True)
class Show:
    """What is shown.

    Attributes:
        head: Lines about the sample, the first one large.
        reels: Of one length each.
        frame_s: Seconds from one moment to the next.
    """

    head: Sequence[str]
    reels: Sequence[Reel]
    frame_s: float

    @property
    def num_moments(self) -> int:
        """Of the longest reel."""
        return max(len(reel.moments) for reel in self.reels)


def sheet(show: Show) -> np.ndarray:
    """All moments of all reels: uint8 RGB [H, W, 3]; a moment's pictures stand below one another."""
    sizes = [cell_size(reel, side_by_side=False) for reel in show.reels]
    grids = [
        grid(len(reel.moments), tile_width=width, gap=GAP, width=SHEET_WIDTH - 2 * MARGIN)
        for reel, (width, _) in zip(show.reels, sizes, strict=True)
    ]
    inner = [
        grid_size(shape, tile_width=width, tile_height=height, gap=GAP)
        for shape, (width, height) in zip(grids, sizes, strict=True)
    ]
    width = max(MIN_WIDTH, *(w for w, _ in inner))
    head = head_lines(show.head, width=width)
    titles = [lines_of(reel.title, TITLE, width=width, bold=True) for reel in show.reels]
    heights = [text_height(lines) + TEXT_GAP + h for lines, (_, h) in zip(titles, inner, strict=True)]
    page = Page(width + 2 * MARGIN, 2 * MARGIN + text_height(head) + sum(REEL_GAP + h for h in heights))
    top = page.write(head, left=MARGIN, top=MARGIN)
    for reel, lines, shape, size, (_, inner_height) in zip(show.reels, titles, grids, sizes, inner, strict=True):
        top = page.write(lines, left=MARGIN, top=top + REEL_GAP) + TEXT_GAP
        for place, moment in enumerate(reel.moments):
            page.put(moment, side_by_side=False, **at(place, shape, size, left=MARGIN, top=top))
        top += inner_height
    return page.pixels()


def frames(show: Show) -> Iterator[np.ndarray]:
    """One moment of all reels after the other: uint8 RGB [H, W, 3] each; its pictures stand side by side."""
    size = [max(sides) for sides in zip(*(cell_size(reel, side_by_side=True) for reel in show.reels), strict=True)]
    room = max(size[0], MIN_WIDTH)
    titles = [lines_of(reel.title, TITLE, width=room, bold=True) for reel in show.reels]
    title_height = max(map(text_height, titles))
    cell = (room, title_height + TEXT_GAP + size[1])
    shape = grid(len(show.reels), tile_width=cell[0], gap=REEL_GAP, width=PLAYER_WIDTH - 2 * MARGIN)
    width, height = grid_size(shape, tile_width=cell[0], tile_height=cell[1], gap=REEL_GAP)
    head = head_lines(show.head, width=width)
    size_of_page = width + 2 * MARGIN, 2 * MARGIN + text_height(head) + GAP + height
    blank = Page(*(side + side % 2 for side in size_of_page))  # even, for H.264
    top = blank.write(head, left=MARGIN, top=MARGIN) + GAP
    corners = [at(place, shape, cell, left=MARGIN, top=top, gap=REEL_GAP) for place in range(len(show.reels))]
    for lines, corner in zip(titles, corners, strict=True):
        blank.write(lines, **corner)
    for t in range(show.num_moments):
        page = blank.copy()
        for reel, corner in zip(show.reels, corners, strict=True):
            moment = reel.moments[min(t, len(reel.moments) - 1)]
            page.put(moment, side_by_side=True, left=corner["left"], top=corner["top"] + title_height + TEXT_GAP)
        yield page.pixels()


def at(place: int, shape: Grid, size: Sequence[int], *, left: int, top: int, gap: int = GAP) -> dict[str, int]:
    """Left and top of a cell of a grid that begins at a corner."""
    x, y = tile_corner(place, columns=shape.columns, tile_width=size[0], tile_height=size[1], gap=gap)
    return {"left": left + x, "top": top + y}


def cell_size(reel: Reel, *, side_by_side: bool) -> tuple[int, int]:
    """Width and height of the moments of a reel with their captions, pixels."""
    pictures = reel.moments[0].pictures
    across, down = [p.width for p in pictures], [p.height for p in pictures]
    if side_by_side:
        width, height = sum(across) + GAP * (len(pictures) - 1), max(down)
        captions = [caption_lines(moment, side_by_side=True) for moment in reel.moments]
    else:
        width, height = max(across), sum(down) + TEXT_GAP * (len(pictures) - 1)
        captions = [caption_lines(moment, side_by_side=False) for moment in reel.moments]
    widest = max(measure(text, CAPTION, bold=False) for lines in captions for text, *_ in lines)
    return max(width, int(widest) + 1), height + TEXT_GAP + max(map(text_height, captions))


Line = tuple[str, int, bool, tuple[int, int, int]]  # text, font size, bold, colour


def caption_lines(moment: Moment, *, side_by_side: bool) -> list[Line]:
    """What stands below a moment; beside one another there is room for all in one line."""
    texts = ["   ".join(filter(None, moment.caption))] if side_by_side else list(moment.caption)
    return [(text, CAPTION, False, INK) for text in texts]


def head_lines(texts: Sequence[str], *, width: int) -> list[Line]:
    """The lines about the sample, the first one large."""
    first, *others = texts
    return [
        *lines_of(first, HEAD, width=width, bold=True),
        *(line for text in others for line in lines_of(text, CAPTION, width=width, color=FAINT)),
    ]


def lines_of(text: str, size: int, *, width: int, bold: bool = False, color: tuple[int, int, int] = INK) -> list[Line]:
    """Text in as many lines as it needs."""
    return [
        (line, size, bold, color)
        for line in wrapped(text, width=width, measure=lambda part: measure(part, size, bold=bold))
    ]


def text_height(lines: Sequence[Line]) -> int:
    """Pixels that lines take."""
    return sum(size + size // 3 for _, size, _, _ in lines)


def measure(text: str, size: int, *, bold: bool) -> float:
    """Width of a text, pixels."""
    return font(size, bold=bold).getlength(text)


@cache
def font(size: int, *, bold: bool) -> Any:
    """DejaVu Sans, which comes with matplotlib and has the letters of most alphabets."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf" / name, size)


class Page:
    """A white page to write and put pictures on."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image

        self._image = Image.new("RGB", (width, height), PAPER)

    def copy(self) -> "Page":
        """Another page that shows the same."""
        page = object.__new__(Page)
        page._image = self._image.copy()
        return page

    def write(self, lines: Sequence[Line], *, left: int, top: int) -> int:
        """Lines below one another; gives where they end."""
        from PIL import ImageDraw

        draw = ImageDraw.Draw(self._image)
        for text, size, bold, color in lines:
            draw.text((left, top), text, font=font(size, bold=bold), fill=color)
            top += text_height([(text, size, bold, color)])
        return top

    def put(self, moment: Moment, *, left: int, top: int, side_by_side: bool) -> None:
        """A moment's pictures, and its caption below them."""
        from PIL import Image

        x, y, bottom = left, top, top
        for picture in moment.pictures:
            self._image.paste(Image.fromarray(picture.drawn()), (x, y))
            bottom = max(bottom, y + picture.height)
            x, y = (x + picture.width + GAP, y) if side_by_side else (x, y + picture.height + TEXT_GAP)
        self.write(caption_lines(moment, side_by_side=side_by_side), left=left, top=bottom + TEXT_GAP)

    def pixels(self) -> np.ndarray:
        """uint8 RGB [H, W, 3]."""
        return np.asarray(self._image)
