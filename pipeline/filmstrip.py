"""The filmstrip codec: eight frames of one phase stacked into one JPEG, and the strips that a clip needs.

A decoder costs the same for a picture of 176×128 as for one of 176×1024 (docs/decisions/0001-filmstrips.md), so frames
travel eight to a picture. With `phase_stride` 2, strip 0 holds frames 0, 2, …, 14, strip 1 holds 1, 3, …, 15, strip 2
holds 16, 18, … A clip at stride 2 touches at most two strips wherever it starts; every other stride works too.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg

from pipeline.clip import ClipSpec, frame_indices
from pipeline.errors import UserError

EOI = b"\xff\xd9"  # what a JPEG ends with
MCU = 16  # a JPEG block of 4:2:0 is 16×16 pixels; tiles that are multiples of it never share one


@dataclass(frozen=True)
class StripLayout:
    """How frames lie in strips.

    Attributes:
        tile_height, tile_width: One frame's place, multiples of 16 pixels; the content lies inside it.
        strip_frames: Tiles in a strip.
        phase_stride: Strips of a block hold every `phase_stride`-th frame.
    """

    tile_height: int
    tile_width: int
    strip_frames: int = 8
    phase_stride: int = 2

    def __post_init__(self) -> None:
        if self.tile_height % MCU or self.tile_width % MCU:
            raise UserError(f"tile: {self.tile_width}×{self.tile_height} must be a multiple of {MCU} both ways")

    @property
    def block_frames(self) -> int:
        """Frames that `phase_stride` strips hold together; blocks follow one another in time."""
        return self.strip_frames * self.phase_stride

    @property
    def strip_height(self) -> int:
        """Pixels from the first tile's top to the last tile's bottom."""
        return self.strip_frames * self.tile_height


def num_strips(num_frames: int, layout: StripLayout) -> int:
    """Strips that a segment of `num_frames` frames has; a strip exists when its first frame does.

    >>> [num_strips(n, StripLayout(128, 176)) for n in (1, 2, 15, 16, 17, 18, 33)]
    [1, 2, 2, 2, 3, 4, 5]
    """
    blocks, rest = divmod(num_frames, layout.block_frames)
    return blocks * layout.phase_stride + min(rest, layout.phase_stride)


def locate(frames: np.ndarray, layout: StripLayout) -> tuple[np.ndarray, np.ndarray]:
    """Strip and tile of each frame number; both shaped like `frames`.

    >>> locate(np.array([0, 1, 2, 15, 16]), StripLayout(128, 176))
    (array([0, 1, 0, 1, 2]), array([0, 0, 1, 7, 0]))
    """
    block, rest = np.divmod(frames, layout.block_frames)
    return block * layout.phase_stride + rest % layout.phase_stride, rest // layout.phase_stride


def strip_contents(strip: int, layout: StripLayout, *, num_frames: int) -> np.ndarray:
    """Frame number in each tile of a strip: int64 [strip_frames].

    Tiles past the segment's end repeat the last frame that the strip holds, so every strip has one size.

    >>> strip_contents(1, StripLayout(128, 176), num_frames=6)
    array([1, 3, 5, 5, 5, 5, 5, 5])
    """
    block, phase = divmod(strip, layout.phase_stride)
    first = block * layout.block_frames + phase
    last = first + (num_frames - 1 - first) // layout.phase_stride * layout.phase_stride
    return np.minimum(first + np.arange(layout.strip_frames) * layout.phase_stride, last)


@dataclass(frozen=True)
class ClipStrips:
    """The strips of N clips, in S slots each, and where their frames lie once the slots are decoded and joined.

    Attributes:
        strips: int64 [N, S], strip of the segment in each slot, ascending; -1 where a clip needs fewer.
        first_tile, last_tile: int64 [N, S], the tiles of the slot that are decoded, half-open; an unused slot is
            filled with a blank picture of one tile.
        order: int64 [N, T], place of each frame of the clip among the decoded tiles of all slots.
    """

    strips: np.ndarray
    first_tile: np.ndarray
    last_tile: np.ndarray
    order: np.ndarray

    @property
    def num_frames_decoded(self) -> int:
        """Tiles decoded, but for the blank ones."""
        return int((self.last_tile - self.first_tile)[self.strips >= 0].sum())

    def pictures(self, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The strips as rows of an index, clip by clip, and the clip that each belongs to: int64 [M] both.

        Args:
            first: int64 [N], row of the first strip of each clip's segment.
        """
        owner, slot = np.nonzero(self.strips >= 0)
        return first[owner] + self.strips[owner, slot], owner


def clip_strips(
    frames: np.ndarray,
    layout: StripLayout,
    *,
    num_slots: int,
    whole_strips: bool = False,
    blank: np.ndarray | None = None,
) -> ClipStrips:
    """Which strips, and which of their tiles, N clips need.

    Args:
        frames: int64 [N, T], frame numbers, never decreasing along T (`clip.frame_indices`).
        num_slots: S; `max_slots` says how many suffice.
        whole_strips: Decode every tile of a strip. A GPU decodes whole pictures; a CPU saves time on a part.
        blank: bool [N], clips that need none; all their frames are the first slot's blank picture.

    >>> clip = clip_strips(np.array([[6, 8, 10, 12, 14, 16, 18, 20]]), StripLayout(128, 176), num_slots=2)
    >>> clip.strips.tolist(), clip.first_tile.tolist(), clip.last_tile.tolist(), clip.order.tolist()
    ([[0, 2]], [[3, 0]], [[8, 3]], [[0, 1, 2, 3, 4, 5, 6, 7]])
    """
    strip, tile = locate(frames, layout)  # [N, T] each
    by_strip = np.argsort(strip, axis=1, kind="stable")
    ranked = np.take_along_axis(strip, by_strip, axis=1)
    slot_ranked = np.zeros_like(ranked)
    slot_ranked[:, 1:] = np.cumsum(ranked[:, 1:] != ranked[:, :-1], axis=1)
    slot = np.empty_like(slot_ranked)
    np.put_along_axis(slot, by_strip, slot_ranked, axis=1)  # [N, T], which slot each frame is in
    if slot_ranked[:, -1].max() >= num_slots:
        raise ValueError(f"num_slots: {num_slots} is too few; these clips touch {slot_ranked[:, -1].max() + 1} strips")

    num_clips = len(frames)
    strips = np.full((num_clips, num_slots), -1, np.int64)
    first_tile = np.zeros((num_clips, num_slots), np.int64)
    last_tile = np.ones((num_clips, num_slots), np.int64)  # the blank picture's one tile
    for s in range(num_slots):
        here = slot == s
        used = here.any(axis=1)
        strips[used, s] = np.where(here, strip, 0).max(axis=1)[used]
        if whole_strips:
            last_tile[used, s] = layout.strip_frames
        else:
            first_tile[used, s] = np.where(here, tile, layout.strip_frames).min(axis=1)[used]
            last_tile[used, s] = np.where(here, tile, -1).max(axis=1)[used] + 1
    joined = np.cumsum(last_tile - first_tile, axis=1) - (last_tile - first_tile)  # tiles before each slot
    offset = np.take_along_axis(joined - first_tile, slot, axis=1)
    order = offset + tile
    if blank is not None:
        strips[blank], first_tile[blank], last_tile[blank], order[blank] = -1, 0, 1, 0
    return ClipStrips(strips, first_tile, last_tile, order)


def max_slots(spec: ClipSpec, layout: StripLayout) -> int:
    """The most strips that a clip of a plan can touch.

    Plans start a clip where it has room, or at frame 0 of a segment that is too short for it. There the last frame,
    which is repeated, may lie in a strip of another phase.

    >>> max_slots(ClipSpec(8, 2), StripLayout(128, 176)), max_slots(ClipSpec(16, 1), StripLayout(128, 176))
    (2, 4)
    """
    starts = np.arange(layout.block_frames + spec.span)  # with room, one in each place of a block; then the short ones
    room = starts < layout.block_frames
    lengths = np.where(room, starts + spec.span, starts - layout.block_frames + 1)
    frames = frame_indices(np.where(room, starts, 0), spec, video_frames=lengths)
    strip = np.sort(locate(frames, layout)[0], axis=1)
    return int((np.diff(strip, axis=1) != 0).sum(axis=1).max()) + 1


@dataclass(frozen=True)
class Planes:
    """Some frames as planar YCbCr 4:2:0, uint8, full range for JPEG: y [F, H, W]; u and v [F, ⌈H/2⌉, ⌈W/2⌉]."""

    y: np.ndarray
    u: np.ndarray
    v: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def in_tiles(self, *, top: int, left: int, height: int, width: int) -> "Planes":
        """The frames laid into tiles of height×width at (top, left), all even, with their edges replicated."""
        half = {"top": top // 2, "left": left // 2, "height": height // 2, "width": width // 2}
        y = place(self.y, top=top, left=left, height=height, width=width)
        return Planes(y, place(self.u, **half), place(self.v, **half))


def place(plane: np.ndarray, *, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Lay frames [F, h, w] into tiles [F, height, width] at (top, left) and replicate their edges outwards."""
    bottom, right = top + plane.shape[1], left + plane.shape[2]
    tiles = np.empty((len(plane), height, width), plane.dtype)  # by hand: a quarter of np.pad's time
    tiles[:, top:bottom, left:right] = plane
    tiles[:, top:bottom, :left], tiles[:, top:bottom, right:] = plane[:, :, :1], plane[:, :, -1:]
    tiles[:, :top], tiles[:, bottom:] = tiles[:, top : top + 1], tiles[:, bottom - 1 : bottom]
    return tiles


def encode_strips(
    blocks: Iterable[Planes], layout: StripLayout, *, top: int = 0, left: int = 0, quality: int
) -> Iterator[bytes]:
    """Encode a segment, block by block, to the JPEG of each strip in order.

    Args:
        blocks: Planes of `layout.block_frames` frames each; the last one of the segment may be shorter.
        top, left: Even; where the content lies in its tile.
        quality: JPEG quality, 1…100.
    """
    for block in blocks:
        tiles = block.in_tiles(top=top, left=left, height=layout.tile_height, width=layout.tile_width)
        for phase in range(min(layout.phase_stride, len(block))):
            own = strip_contents(phase, layout, num_frames=len(block))
            stacked = (plane[own].reshape(-1, plane.shape[2]) for plane in (tiles.y, tiles.u, tiles.v))
            yield simplejpeg.encode_jpeg_yuv_planes(*stacked, quality=quality)


def strip_header(layout: StripLayout, *, quality: int) -> bytes:
    """What every strip of a dataset begins with, up to its compressed data: the encoder's bytes for these settings."""
    jpeg = bytearray(blank_tile(StripLayout(MCU, MCU), quality=quality))
    frame, scan = jpeg.index(b"\xff\xc0"), jpeg.index(b"\xff\xda")
    struct.pack_into(">HH", jpeg, frame + 5, layout.strip_height, layout.tile_width)
    return bytes(jpeg[: scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big")])


def strip_fault(jpeg: np.ndarray, header: bytes) -> str | None:
    """Why some bytes, uint8 [bytes], are no strip of a dataset; None for one, whatever its pixels.

    The header decides the format, the size and the orientation, and so what decoding costs. Compressed data decides
    pixels: where it is broken, DALI's decoder fills them in. To search it for markers, which no encoder writes there,
    would cost half as much as reading does (docs/decisions/0014-the-form-of-pictures.md).
    """
    if jpeg[: len(header)].tobytes() != header:
        return "is not a JPEG of this dataset: its header is another"
    if jpeg[-2:].tobytes() != EOI:
        return "does not end as a JPEG does"
    return None


def blank_tile(layout: StripLayout, *, quality: int = 50) -> bytes:
    """A grey JPEG of one tile, decoded where a clip needs fewer strips than it has slots."""
    grey = np.full((layout.tile_height, layout.tile_width), 128, np.uint8)
    chroma = grey[: layout.tile_height // 2, : layout.tile_width // 2].copy()
    return simplejpeg.encode_jpeg_yuv_planes(grey, chroma, chroma, quality=quality)
