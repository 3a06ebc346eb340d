"""What a build does of one codec: frames of a segment to its files, and what dataset.json says about how."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import av
import simplejpeg

from pipeline.errors import TooLargeError
from pipeline.filmstrip import Planes, StripLayout, encode_strips, num_strips
from pipeline.h264.encode import FILE, EncodePolicy, decoder_configuration, encode_segment
from pipeline.shard_writer import Stored, strip_files
from pipeline.source.transcode import Geometry

Segment = tuple[dict[str, bytes], list[Stored]]  # a segment's files by what follows the key, and its pictures in them
NO_END = 2**63


class Encoding(Protocol):
    """From the frames of a segment to its files."""

    @property
    def block_frames(self) -> int:
        """Stored frames that `encode` takes at a time."""

    @property
    def full_range(self) -> bool:
        """Whether it takes YCbCr of full range, as JPEG does, or of limited range, as video does."""

    def describe(self) -> dict[str, Any]:
        """What dataset.json says of the codec, but for its name, size and frame step."""

    def tools(self) -> dict[str, str]:
        """Names and versions of what the bytes hang on, beside ffmpeg."""

    def num_pictures(self, num_frames: int) -> int:
        """Strips or packets of a segment of so many stored frames."""

    def encode(self, blocks: Iterable[Planes], geometry: Geometry, *, fps: float, max_bytes: int = NO_END) -> Segment:
        """One segment.

        Args:
            blocks: Planes of `block_frames` frames each; the last one may be shorter.
            geometry: Where the picture lies in its tile.
            fps: Of the stored frames, 0 where nobody knows.
            max_bytes: Of its pictures.

        Raises:
            VideoFailure: It cannot be encoded like the rest.
            TooLargeError: It gives more than `max_bytes`.
        """


@dataclass(frozen=True)
class StripEncoding:
    """Filmstrips: eight frames a JPEG."""

    layout: StripLayout
    quality: int
    full_range = True

    @property
    def block_frames(self) -> int:
        return self.layout.block_frames

    def describe(self) -> dict[str, Any]:
        return {
            "tile_width": self.layout.tile_width,
            "tile_height": self.layout.tile_height,
            "strip_frames": self.layout.strip_frames,
            "phase_stride": self.layout.phase_stride,
            "quality": self.quality,
        }

    def tools(self) -> dict[str, str]:
        return {"simplejpeg": simplejpeg.__version__}

    def num_pictures(self, num_frames: int) -> int:
        return num_strips(num_frames, self.layout)

    def encode(self, blocks: Iterable[Planes], geometry: Geometry, *, fps: float, max_bytes: int = NO_END) -> Segment:
        del fps  # a JPEG has no time
        strips = encode_strips(blocks, self.layout, top=geometry.top, left=geometry.left, quality=self.quality)
        return strip_files(list(at_most(strips, max_bytes)))


@dataclass(frozen=True)
class VideoEncoding:
    """H.264: a segment is one MP4, a packet a frame."""

    policy: EncodePolicy
    block_frames = 16
    full_range = False

    def describe(self) -> dict[str, Any]:
        avcc, blank = decoder_configuration(self.policy)
        return {
            "tile_width": self.policy.width,
            "tile_height": self.policy.height,
            "gop_size": self.policy.gop_size,
            "crf": self.policy.crf,
            "preset": self.policy.preset,
            "avcc": avcc.hex(),
            "blank": blank.hex(),
        }

    def tools(self) -> dict[str, str]:
        version = ".".join(map(str, av.library_versions["libavcodec"]))
        return {"av": av.__version__, "libavcodec": version}

    def num_pictures(self, num_frames: int) -> int:
        return num_frames

    def encode(self, blocks: Iterable[Planes], geometry: Geometry, *, fps: float, max_bytes: int = NO_END) -> Segment:
        place = {"top": geometry.top, "left": geometry.left}
        mp4, packets = encode_segment(blocks, self.policy, **place, fps=fps, max_bytes=max_bytes)
        return {FILE: mp4}, packets


def at_most(pictures: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """Pass pictures on as long as they are not too large together.

    Raises:
        TooLargeError: They are.
    """
    total = 0
    for picture in pictures:
        total += len(picture)
        if total > max_bytes:
            raise TooLargeError
        yield picture
