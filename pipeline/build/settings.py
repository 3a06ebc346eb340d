"""What a build can be told: everything that decides the bytes of the shards, but for the videos."""

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.codecs import CODECS, Codec, FilmstripCodec, H264Codec
from pipeline.codecs.h264 import EncodePolicy
from pipeline.errors import UserError
from pipeline.index import choices
from pipeline.source.transcode import Geometry, centred, stretched

OWN_SETTINGS = {"filmstrip": {"quality"}, "h264": {"codec", "gop_size", "crf"}}  # what only one codec writes down
SEGMENT_SETTINGS = {"segment_s", "train_segments", "test_segments"}  # what only segments write down
MAX_SAMPLES_PER_SHARD = 100_000  # of which a part is held in memory


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
        if not 16 <= self.size <= 1024:
            raise UserError(f"size: {self.size} is not possible; choose 16 to 1024, the paper uses 64, 128 and 256")
        if self.codec not in CODECS:
            raise UserError(f"codec: {self.codec!r} is unknown; choose {choices(list(CODECS))}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality: {self.quality} is not possible; choose 1 to 100")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise UserError(f"fps: {self.fps} is not possible; choose more than 0 and at most 1000")
        if not 1 <= self.samples_per_shard <= MAX_SAMPLES_PER_SHARD:
            raise UserError(
                f"samples_per_shard: {self.samples_per_shard} is not possible; choose 1 to {MAX_SAMPLES_PER_SHARD}"
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed: {self.seed} is not possible; choose 0 to 2**63 - 1")
        if self.segment_s is not None:
            if not 0 < self.segment_s <= 3600:
                raise UserError(f"segment_s: {self.segment_s} is not possible; choose more than 0 and at most 3600 s")
            if self.fps is not None:
                raise UserError(
                    f"fps: {self.fps} does not go with segments, which are the source's frames; leave it out"
                )
            for name, count in (("train_segments", self.train_segments), ("test_segments", self.test_segments)):
                if not 1 <= count <= 100:
                    raise UserError(f"{name}: {count} is not possible; choose 1 to 100")
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
