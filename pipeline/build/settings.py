"""What a build can be told: everything that decides the bytes of the shards, but for the videos."""

from dataclasses import asdict, dataclass
from typing import Any

from res3d_video.pipeline.codecs import CODECS, Codec, FilmstripCodec, H264Codec
from res3d_video.pipeline.codecs.h264 import EncodePolicy
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import choices
from res3d_video.pipeline.source.transcode import Geometry, centred, stretched

OWN_SETTINGS = {"filmstrip": {"quality"}, "h264": {"codec", "gop_size", "crf"}}  # what only one codec writes down
SEGMENT_SETTINGS = {"segment_s", "train_segments", "test_segments"}  # what only segments write down
BOUNDS = {
    "size": (16, 1024),
    "quality": (1, 100),
    "samples_per_shard": (1, 100_000),  # of which a part is held in memory
    "seed": (0, 2**63 - 1),
    "train_segments": (1, 100),
    "test_segments": (1, 100),
}


@dataclass(frozen=True)
class BuildSettings:
    """Everything that decides the bytes of the shards, but for the videos.

    Attributes:
        size: Stored content height in pixels; with `keep_aspect` the short side.
        codec: "filmstrip", eight frames in a JPEG, or "h264".
        quality: Of filmstrips: JPEG quality, 1…100; docs/benchmarks/shards.md has bytes and PSNR of each.
        gop_size: Of H.264: frames from one keyframe to the next; fewer are faster to read and larger.
        crf: Of H.264: x264's quality, 1 the best and 51 the worst.
        drop_odd: Store every second source frame only: half the bytes, even strides only.
        fps: Resample to this rate; None keeps the source's frames as they are.
        keep_aspect: Short side `size`, aspect ratio kept, centred in one tile that holds the widest and highest.
        samples_per_shard: Videos in one tar.
        seed: Of the order in which videos go into tars, where classes are mixed so that one tar resembles the whole;
            and of random segments.
        segment_s: Store pieces this long, in seconds, instead of whole videos.
        train_segments: Of a training video: pieces drawn at random. The paper takes five of 2 s (section 3.4).
        test_segments: Of a test video: evenly spaced pieces.
    """

    size: int = 128
    codec: str = "filmstrip"
    quality: int = 85
    gop_size: int = 8
    crf: int = 20
    drop_odd: bool = False
    fps: float | None = None
    keep_aspect: bool = False
    samples_per_shard: int = 64
    seed: int = 0
    segment_s: float | None = None
    train_segments: int = 5
    test_segments: int = 10

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise UserError(f"codec: {self.codec!r} is unknown; choose {choices(list(CODECS))}")
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise UserError(f"{name}: {value} is not possible; choose {least} to {most}")
        for name, value, most in (("fps", self.fps, 1000), ("segment_s", self.segment_s, 3600)):
            if value is not None and not 0 < value <= most:
                raise UserError(f"{name}: {value} is not possible; choose more than 0 and at most {most}")
        if self.segment_s is not None and self.fps is not None:
            raise UserError(f"fps: {self.fps} does not go with segments, which are the source's frames; leave it out")
        self.codec_for(self.narrowest)  # refuses what the codec cannot do, before any work

    @property
    def frame_step(self) -> int:
        """Source frames from one stored frame to the next."""
        return 2 if self.drop_odd else 1

    @property
    def narrowest(self) -> Geometry:
        """The smallest tile that these settings can give; videos can only widen it, with `keep_aspect`."""
        return centred((self.size, self.size), (self.size, self.size)) if self.keep_aspect else stretched(self.size)

    def codec_for(self, geometry: Geometry) -> Codec:
        """What encodes segments in tiles of this size.

        Raises:
            UserError: The codec cannot do that.
        """
        height, width = geometry.tile_height, geometry.tile_width
        if self.codec == "h264":
            return H264Codec.new(EncodePolicy(width, height, self.gop_size, self.crf))
        # With odd frames dropped only phase 0 is left, and its frames follow one another.
        phase_stride = 1 if self.drop_odd else 2
        return FilmstripCodec.new(height=height, width=width, quality=self.quality, phase_stride=phase_stride)

    def describe(self) -> dict[str, Any]:
        """The settings that matter here, for dataset.json."""
        others = set().union(*(names for codec, names in OWN_SETTINGS.items() if codec != self.codec))
        if self.segment_s is None:
            others |= SEGMENT_SETTINGS
        return {name: value for name, value in asdict(self).items() if name not in others}
