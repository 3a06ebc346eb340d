"""How frames are stored, and how stored frames are joined to what a decoder takes: filmstrips, or H.264."""

from collections.abc import Mapping
from typing import Any

from res3d_video.pipeline.codecs.filmstrip import FilmstripCodec
from res3d_video.pipeline.codecs.h264 import H264Codec

Codec = FilmstripCodec | H264Codec
CODECS: dict[str, type[FilmstripCodec] | type[H264Codec]] = {"filmstrip": FilmstripCodec, "h264": H264Codec}


def codec_of(codec: Mapping[str, Any]) -> Codec:
    """The codec that a checked dataset.json describes.

    Raises:
        UserError: What it says cannot be decoded.
    """
    return CODECS[codec["name"]].of(codec)
