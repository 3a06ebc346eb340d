"""The filmstrip codec: a frame is a restart interval of a baseline JPEG, so any frames can be joined to one JPEG.

A decoder costs about the same for a picture of 176×128 as for one of 176×1024 (docs/decisions/0001-filmstrips.md), so
the frames of a clip should reach it as one picture. Frames are encoded one by one with the same tables. The compressed
bytes of one frame, a tile, begin with fresh predictors, which is what JPEG calls a restart interval (ITU-T T.81,
E.1.4): tiles laid end to end with the markers RST0 … RST7 between them, behind a header that says how high the picture
is, are a JPEG that every decoder reads (docs/decisions/0015-frame-addressable-filmstrips.md).

In the tars eight frames of one phase are such a JPEG, a strip. With `phase_stride` 2, strip 0 holds frames 0, 2, …, 14,
strip 1 holds 1, 3, …, 15, strip 2 holds 16, 18, … so the frames of a clip at stride 2 lie side by side.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import simplejpeg

from res3d_video.pipeline.codecs import ClipFrames, EncodedSegment, FrameRecord, Planes, UndecodableError
from res3d_video.pipeline.errors import TooLargeError, UserError

MCU = 16  # a JPEG block of 4:2:0 is 16×16 pixels; tiles that are multiples of it never share one
MAX_HEIGHT = 65_535  # of a JPEG: its height has two bytes
MARKER_BYTES = 2
EOI = b"\xff\xd9"  # what a JPEG ends with
RESTARTS = [bytes([0xFF, 0xD0 + i]) for i in range(8)]  # what lies between tiles, in turn
SOF0, DHT, SOI, SOS, DQT, DRI, APP0 = 0xC0, 0xC4, 0xD8, 0xDA, 0xDB, 0xDD, 0xE0
# Three components, the first with twice the pixels both ways, each with its tables: YCbCr 4:2:0.
COMPONENTS = bytes.fromhex("012200021101031101")
SCAN = bytes.fromhex("03010002110311003f00")


@dataclass(frozen=True)
class FilmstripCodec:
    """How a dataset's frames lie in JPEGs, and what joins them anew."""

    tile_height: int  # with the width one frame's place, multiples of 16 pixels; the content lies inside it
    tile_width: int
    strip_frames: int  # tiles in a strip; the last ones of a segment may have fewer
    phase_stride: int  # strips of a block hold every `phase_stride`-th frame
    quality: int  # JPEG quality, 1…100
    header: bytes  # what a JPEG of one tile begins with, up to its compressed bytes
    blank: bytes  # the compressed bytes of a grey tile, decoded where a clip needs no frame

    name = "filmstrip"
    full_range = True  # JPEG's YCbCr, where video's has less
    gap = MARKER_BYTES  # bytes after each stored frame that are read with it

    @classmethod
    def new(
        cls, *, height: int, width: int, quality: int, strip_frames: int = 8, phase_stride: int = 2
    ) -> "FilmstripCodec":
        """The codec of a dataset that is to be made."""
        if height % MCU or width % MCU:
            raise UserError(f"tile: {width}×{height} must be a multiple of {MCU} both ways")
        header, blank = header_and_blank(height, width, quality)
        return cls(height, width, strip_frames, phase_stride, quality, header, blank)

    @classmethod
    def of(cls, codec: Mapping[str, Any]) -> "FilmstripCodec":
        """The codec of a dataset, as its checked dataset.json describes it; a `UserError` if it is not one of ours."""
        header, blank = bytes.fromhex(codec["header"]), bytes.fromhex(codec["blank"])
        size = codec["tile_height"], codec["tile_width"]
        found = cls(*size, codec["strip_frames"], codec["phase_stride"], codec["quality"], header, blank)
        if fault := tile_fault(blank):
            raise UserError(f"codec.blank: {fault}")
        fault = header_fault(header, height=found.tile_height, width=found.tile_width)
        if fault := fault or found._decode_fault(blank):
            raise UserError(f"codec.header: {fault}")
        return found

    def describe(self) -> dict[str, Any]:
        """What dataset.json says of the codec, but for its name, size and frame step."""
        return {
            "tile_width": self.tile_width,
            "tile_height": self.tile_height,
            "strip_frames": self.strip_frames,
            "phase_stride": self.phase_stride,
            "quality": self.quality,
            "header": self.header.hex(),
            "blank": self.blank.hex(),
        }

    @staticmethod
    def tools() -> dict[str, str]:
        """Names and versions of what the bytes depend on, beside ffmpeg."""
        return {"simplejpeg": simplejpeg.__version__}

    @property
    def block_frames(self) -> int:
        """Frames that `phase_stride` strips hold together; `encode` takes so many at a time."""
        return self.strip_frames * self.phase_stride

    @property
    def max_frames(self) -> int:
        """Tiles that the tallest JPEG holds."""
        return MAX_HEIGHT // self.tile_height

    @property
    def lead(self) -> int:
        """Bytes that a JPEG begins with."""
        return len(self.header)

    def header_of(self, num_tiles: int) -> bytes:
        """What a JPEG of so many tiles begins with."""
        at = next(begin for marker, begin, _ in segments(self.header) if marker == SOF0) + 5  # where the height is
        return self.header[:at] + struct.pack(">H", num_tiles * self.tile_height) + self.header[at + 2 :]

    def join(self, tiles: list[bytes]) -> bytes:
        """A JPEG of some tiles, one below the other."""
        ends = [RESTARTS[i % 8] for i in range(len(tiles) - 1)] + [EOI]
        parts = [part for tile_and_end in zip(tiles, ends, strict=True) for part in tile_and_end]
        return b"".join([self.header_of(len(tiles)), *parts])

    def encode(
        self, blocks: Iterable[Planes], *, top: int, left: int, fps: float = 0, max_bytes: int = 2**63
    ) -> EncodedSegment:
        """Encode a segment.

        Args:
            blocks: Planes of `block_frames` frames each, full range; the last one may be shorter.
            top, left: Even; where the content lies in its tile.
            fps: Ignored; a JPEG has no time.
            max_bytes: Of all tiles; more is a `TooLargeError`.
        """
        tiles: list[bytes] = []
        for block in blocks:
            made = self._encode_tiles(
                block.in_tiles(top=top, left=left, height=self.tile_height, width=self.tile_width)
            )
            max_bytes -= sum(map(len, made))
            if max_bytes < 0:
                raise TooLargeError
            tiles += made
        strips, names, frames = self.strips_of(len(tiles)).tolist(), self._strip_names(len(tiles)), []
        own: list[list[bytes]] = [[] for _ in names]
        end = [self.lead] * len(names)  # of each strip, so far
        for strip, tile in zip(strips, tiles, strict=True):
            frames.append(FrameRecord(names[strip], end[strip], len(tile), zlib.crc32(tile)))
            end[strip] += len(tile) + MARKER_BYTES
            own[strip].append(tile)
        return EncodedSegment({name: self.join(some) for name, some in zip(names, own, strict=True)}, frames)

    def _encode_tiles(self, planes: Planes) -> list[bytes]:
        """Each frame's compressed bytes."""
        tiles = []
        for y, u, v in zip(planes.y, planes.u, planes.v, strict=True):
            jpeg = simplejpeg.encode_jpeg_yuv_planes(y, u, v, quality=self.quality)
            tiles.append(jpeg[self.lead - DRI_BYTES : -len(EOI)])
        return tiles

    def locate(self, frames: np.ndarray, *, blank: np.ndarray) -> ClipFrames:
        """Which stored frames N clips need: just their own.

        Args:
            frames: int64 [N, T].
            blank: bool [N], clips that need none.
        """
        num_clips, num_frames = frames.shape
        return ClipFrames(
            rows=frames[~blank].ravel(),
            count=np.where(blank, 0, num_frames),
            order=np.broadcast_to(np.arange(num_frames), (num_clips, num_frames)),
        )

    def faults(self, data: list[memoryview], rows: np.ndarray) -> dict[int, str]:
        """What is wrong with the form of tiles whose checksums are right: nothing that could do harm.

        The header, which decides what decoding costs, is the dataset's and checked once. Where compressed bytes are
        broken, decoders fill in pixels (docs/decisions/0014-the-form-of-pictures.md).
        """
        return {}

    def assemble(
        self, buffer: np.ndarray, begin: np.ndarray, size: np.ndarray, located: ClipFrames
    ) -> list[list[np.ndarray]]:
        """Each clip as a decoder takes it: one JPEG of its frames in order.

        Args:
            buffer: uint8, `lead` bytes for each clip that is not blank, then its tiles with `gap` bytes after each.
            begin, size: int64 [M], where the tiles lie in it. Headers and markers are written between them.
        """
        num_frames = located.order.shape[1]
        end = (begin + size).reshape(-1, num_frames)
        marker = 0xD0 + np.arange(num_frames) % 8
        marker[-1] = EOI[1]
        buffer[end], buffer[end + 1] = 0xFF, marker
        header = np.frombuffer(self.header_of(num_frames), np.uint8)
        first = (begin.reshape(-1, num_frames)[:, 0] - self.lead).tolist()
        jpegs = []
        for a, b in zip(first, (end[:, -1] + MARKER_BYTES).tolist(), strict=True):
            buffer[a : a + len(header)] = header
            jpegs.append([buffer[a:b]])
        if len(jpegs) == len(located.count):
            return jpegs
        blank, found = [np.frombuffer(self.join([self.blank] * num_frames), np.uint8)], iter(jpegs)
        return [next(found) if count else blank for count in located.count.tolist()]

    def decode(self, data: list[np.ndarray]) -> np.ndarray:
        """The frames of a JPEG that `assemble` made: uint8 RGB [F, tile_height, tile_width, 3]."""
        try:
            picture = simplejpeg.decode_jpeg(data[0], strict=False)  # DALI is not strict either
        except ValueError as error:
            raise UndecodableError(str(error)) from None
        return picture.reshape(-1, self.tile_height, self.tile_width, 3)

    def strips_of(self, num_frames: int) -> np.ndarray:
        """The strip that each frame of a segment lies in: int64 [num_frames].

        >>> FilmstripCodec.new(height=128, width=176, quality=85).strips_of(18).tolist()
        [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 2, 3]
        """
        block, rest = np.divmod(np.arange(num_frames), self.block_frames)
        return block * self.phase_stride + rest % self.phase_stride

    def _strip_names(self, num_frames: int) -> list[str]:
        """What the files of a segment are called after their key: 000.jpg, 001.jpg, …"""
        count = int(self.strips_of(num_frames).max(initial=-1)) + 1
        digits = max(3, len(str(count - 1)))
        return [f"{strip:0{digits}d}.jpg" for strip in range(count)]

    def file_sizes(self, num_frames: int) -> dict[str, int]:
        """The files of a segment, by what follows the key and a dot, and the most bytes that each may have."""
        max_bytes = self.lead + self.strip_frames * (self.max_frame_bytes + MARKER_BYTES)
        return dict.fromkeys(self._strip_names(num_frames), max_bytes)

    @property
    def max_frame_bytes(self) -> int:
        """More than a frame can take: its pixels, uncompressed, take a third of it."""
        return 4 * self.tile_height * self.tile_width + 1024

    def segment_faults(
        self, files: Mapping[str, tuple[int, bytes]], frames: np.ndarray, *, decode: bool
    ) -> Iterator[str]:
        """What is wrong with a stored segment; each fault is one line.

        Args:
            files: By what follows the key and a dot: the offset in the sample, and the content.
            frames: uint32 [F, 3], offset in the sample, size and crc32 of each frame, as the index has them.
            decode: Decode every tile.
        """
        strips = self.strips_of(len(frames))
        for i, name in enumerate(self._strip_names(len(frames))):
            if name not in files:
                yield f"{name} is missing"
                continue
            (offset, jpeg), own, tiles = files[name], np.flatnonzero(strips == i), []
            for place, (at, size, crc32) in enumerate((frames[own] - np.array([offset, 0, 0])).tolist()):
                tile = jpeg[at : at + size]
                tiles.append(tile)
                fault = tile_fault(tile) or (self._decode_fault(tile) if decode else None)
                if zlib.crc32(tile) != crc32:
                    fault = "fails its crc32"
                if fault:
                    yield f"tile {place} of {name}, frame {own[place]}, {fault}"
            if self.join(tiles) != jpeg:
                yield f"{name} is not the tiles that the index names, behind this dataset's header"

    def _decode_fault(self, tile: bytes) -> str | None:
        try:
            simplejpeg.decode_jpeg(self.join([tile]))
        except ValueError as error:
            return f"does not decode ({error})"
        return None


DRI_BYTES = 6  # what `header_and_blank` adds to the encoder's header


@lru_cache
def header_and_blank(height: int, width: int, quality: int) -> tuple[bytes, bytes]:
    """What a JPEG of one tile begins with, and the compressed bytes of a grey tile."""
    grey = np.full((height, width), 128, np.uint8)
    chroma = grey[: height // 2, : width // 2].copy()
    jpeg = simplejpeg.encode_jpeg_yuv_planes(grey, chroma, chroma, quality=quality)
    scan = jpeg.index(bytes([0xFF, SOS]))
    end = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big")
    restarts = struct.pack(">BBHH", 0xFF, DRI, 4, height // MCU * (width // MCU))
    return jpeg[:scan] + restarts + jpeg[scan:end], jpeg[end : -len(EOI)]


def header_fault(header: bytes, *, height: int, width: int) -> str | None:
    """Why some bytes are not the header of a tile: baseline, 8 bits, 4:2:0, this size, a restart interval a tile.

    >>> header, _ = header_and_blank(128, 176, 85)
    >>> header_fault(header, height=128, width=176) is None, header_fault(header, height=128, width=160) is None
    (True, False)
    """
    frame = struct.pack(">BHHB", 8, height, width, 3) + COMPONENTS
    interval = struct.pack(">H", height // MCU * (width // MCU))
    try:
        found = [(marker, body) for marker, _, body in segments(header)]
    except ValueError as error:
        return str(error)
    others = [segment for segment in found if segment[0] not in (APP0, DQT, DHT)]
    if others != [(SOF0, frame), (DRI, interval), (SOS, SCAN)] or found[-1][0] != SOS:
        return f"is not that of a baseline JPEG of {width}×{height}, 4:2:0, with a restart interval a tile"
    return None


def segments(header: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The segments of a JPEG's header: marker, where it lies, and what follows its length."""
    if header[:2] != bytes([0xFF, SOI]):
        raise ValueError("does not begin as a JPEG does")
    at = 2
    while at < len(header):
        start, marker, size = struct.unpack_from(">BBH", header.ljust(at + 4, b"\0"), at)
        body = header[at + 4 : at + 2 + size]
        if start != 0xFF or size < 2 or len(body) != size - 2:
            raise ValueError("its segments do not follow one another")
        yield marker, at, body
        at += 2 + size


def tile_fault(tile: bytes) -> str | None:
    """Why some bytes are not the compressed bytes of one frame: a marker in them would end or divide it."""
    rest = tile.replace(b"\xff\0", b"")
    return "holds a marker" if b"\xff" in rest or not tile else None
