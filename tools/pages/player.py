"""Clips that play on a page: strips of frames one below the other, of which the page shows one tile at a time."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from res3d_video.tools.pages.page import Markup, render


@dataclass(frozen=True)
class Sprite:
    """A picture that holds frames one below the other.

    Attributes:
        content: JPEG, PNG or WebP; a strip of a shard as it is, for instance.
        num_tiles: Frames in it, all of the same height.
        kind: "jpeg", "png" or "webp".
    """

    content: bytes
    num_tiles: int
    kind: str = "jpeg"

    @property
    def uri(self) -> str:
        """The picture as an address that needs no network."""
        return data_uri(self.content, self.kind)


def data_uri(content: bytes, kind: str) -> str:
    """A picture as an address that needs no network.

    >>> data_uri(b"hi", "png")
    'data:image/png;base64,aGk='
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def player(
    sprites: Sequence[Sprite],
    frames: Sequence[tuple[int, int]],
    *,
    size: tuple[int, int],
    name: str,
    text: str,
    caption: Markup | str,
    frame_names: Sequence[str],
    fps: float,
    below: Markup = Markup(""),  # noqa: B008 - immutable
) -> Markup:
    """A figure that plays frames in order, with a button and a slider that the keyboard reaches.

    Args:
        frames: Sprite and tile of each frame, in the order of time.
        size: Width and height of a tile, pixels.
        name: What the controls are called for those who hear the page; unique on it.
        text: What is to be seen, for those who do not see it.
        frame_names: What the slider says at each frame, such as "frame 12, 0.5 s".
        fps: Frames a second at which it plays.
        below: HTML between the controls and the caption, such as `timeline`.

    Raises:
        ValueError: A frame lies outside its sprite, or there are not as many names as frames.
    """
    if not frames or len(frames) != len(frame_names):
        raise ValueError(f"{name}: {len(frames)} frames and {len(frame_names)} names; give a name to each")
    for sprite, tile in frames:
        if not (0 <= sprite < len(sprites) and 0 <= tile < sprites[sprite].num_tiles):
            raise ValueError(f"{name}: no tile {tile} in sprite {sprite}")
    values: dict[str, Any] = {"sprites": sprites, "frames": frames, "frame_names": frame_names, "text": text}
    values |= {"width": size[0], "height": size[1], "name": name, "caption": caption, "below": below}
    return render("player.html", **values, frame_ms=round(1000 / fps))


def timeline(num_frames: int, windows: Sequence[tuple[str, Sequence[int]]], *, shown: Sequence[int]) -> Markup:
    """Which frames of a segment some clips take: a bar a clip, and a needle that the player moves.

    Args:
        num_frames: Of the segment.
        windows: Name of each clip, and the frames that it takes.
        shown: Frame of the segment that the player shows at each of its own frames.
    """
    return render("timeline.html", num_frames=num_frames, windows=windows, shown=shown)
