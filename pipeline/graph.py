"""The DALI graph: compressed clips in, normalized clips out; the same operators on a GPU and on a CPU.

Filmstrips: a clip is one JPEG of its frames. H.264: a GPU's NVDEC decodes streams of many clips each; DALI decodes no
H.264 on a CPU, where PyAV does that first step and the graph begins with frames.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType, DALIImageType, DALIInterpType

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.codecs.filmstrip import FilmstripCodec
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.codecs.mp4 import Splicer, Stream, join
from res3d_video.pipeline.frames import Pool
from res3d_video.pipeline.index import Codec, ShardIndex
from res3d_video.pipeline.reader import ReadStep

Inputs = dict[str, list[Any] | np.ndarray]  # a batch as the graph takes it: name -> N samples


@dataclass(frozen=True)
class GraphSpec:
    """Everything that shapes the graph.

    Attributes:
        batch_size: N clips.
        codec: How the clips' frames are stored.
        stored_size: Pixels that `clip.resize` scales from.
        gpu: CUDA device, or None for the CPU.
        hw_decoder_load: Share of the JPEGs for a GPU's JPEG engines.
        fancy_upsampling: Smooth chroma on a GPU as on a CPU.
        mean, std: Per channel, RGB; clips come as (value - mean) / std.
        whole_pictures: Decode whole JPEGs; else, where nothing is resized, just the columns of the crop.
    """

    batch_size: int
    clip: ClipSpec
    codec: Codec
    stored_size: int
    gpu: int | None
    num_threads: int
    hw_decoder_load: float
    fancy_upsampling: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    whole_pictures: bool

    @property
    def scale(self) -> float:
        """Pixels of a resized frame to one of a stored frame."""
        return self.clip.scale(self.stored_size)

    @property
    def clips_per_stream(self) -> int:
        """K, of H.264: opening a stream costs NVDEC time, so there are as few as threads to decode them."""
        return 1 if self.gpu is None else -(-self.batch_size // min(self.num_threads, self.batch_size))


def build_graph(spec: GraphSpec, *, queue_depth: int) -> Pipeline:
    """The pipeline from what `graph_inputs` or `video_graph_inputs` gives to clips FHWC, a clip or stream a sample.

    Half precision on a GPU, float32 on a CPU. A batch of FHWC viewed as NCTHW *is* channels_last_3d: no copy. Inputs
    are read in place: whoever feeds them holds them until that batch is there.

    Args:
        queue_depth: Batches worked on at a time; the first `schedule_run` starts so many.
    """
    is_video = isinstance(spec.codec, H264Codec)
    num_samples = -(-spec.batch_size // spec.clips_per_stream) if is_video else spec.batch_size
    pipe = Pipeline(num_samples, spec.num_threads, spec.gpu, prefetch_queue_depth=queue_depth)
    with pipe:
        pipe.set_outputs(video_graph(spec) if is_video else jpeg_graph(spec))
    pipe.build()
    return pipe


def fed(name: str) -> Any:
    """An input of the graph: `pipe.feed_input(name, samples)` once a batch."""
    return fn.external_source(name=name, no_copy=True)


def jpeg_graph(spec: GraphSpec) -> Any:
    """JPEGs of T tiles to clips [T, crop, crop, 3]."""
    tile_height, tile_width, size = spec.codec.tile_height, spec.codec.tile_width, [spec.clip.crop_size] * 2
    how: dict[str, Any] = {"device": "cpu", "output_type": DALIImageType.RGB, "adjust_orientation": False}
    if spec.gpu is not None:
        how |= {"device": "mixed", "hw_decoder_load": spec.hw_decoder_load}
        how |= {"jpeg_fancy_upsampling": spec.fancy_upsampling}
    if cuts_columns(spec):
        tile_width = spec.clip.crop_size
        picture = fn.decoders.image_slice(fed("jpeg"), start=fed("cut_start"), end=fed("cut_end"), axes=[0, 1], **how)
    else:
        picture = fn.decoders.image(fed("jpeg"), **how)  # HWC [T × tile_height, W, 3]
    frames = fn.reshape(picture, shape=[spec.clip.num_frames, tile_height, tile_width, 3], layout="FHWC")
    corner: dict[str, Any] = {}
    if spec.scale != 1:
        frames = fn.resize(frames, size=size, roi_start=fed("roi_start"), roi_end=fed("roi_end"), antialias=True)
    else:
        corner = {"crop_pos_y": fed("crop_y"), "crop_pos_x": 0.0 if cuts_columns(spec) else fed("crop_x")}
    return normalize(spec, frames, crop=size, mirror=fed("flip"), **corner)


def video_graph(spec: GraphSpec) -> Any:
    """Streams of K clips, or on a CPU their frames, to clips [K × T, crop, crop, 3]."""
    if spec.gpu is None:
        frames = fn.reshape(fed("frames"), layout="FHWC")
    else:
        frames = decode_frames(fed("stream"), fed("wanted"))
    return clips_of(spec, frames, order=fed("order"), matrices=fed("matrices"))


def decode_frames(stream: Any, wanted: Any, *, device: str = "mixed") -> Any:
    """The wanted frames of a stream: FHWC uint8 RGB [U, tile_height, tile_width, 3]."""
    return fn.decoders.video(stream, device=device, frames=wanted)


def clips_of(spec: GraphSpec, frames: Any, *, order: Any, matrices: Any) -> Any:
    """Frames [U, tile_height, tile_width, 3] resized, cropped, flipped, put in order and normalized."""
    if spec.scale != 1:
        height, width = (math.ceil(side * spec.scale) for side in (spec.codec.tile_height, spec.codec.tile_width))
        corner = [height / spec.scale, width / spec.scale]  # of the frame, or a fraction of a pixel past it
        frames = fn.resize(frames, size=[height, width], roi_start=[0.0, 0.0], roi_end=corner, antialias=True)
    frames = fn.warp_affine(  # [U, crop, crop, 3]; the frames of a stream are of many clips, so each has its own place
        frames,
        matrix=fn.per_frame(matrices),
        size=[spec.clip.crop_size] * 2,
        interp_type=DALIInterpType.INTERP_NN,  # whole pixels are moved, none is mixed
        fill_value=0,
    )
    frames = fn.sequence_rearrange(frames, new_order=order)  # [K × T, crop, crop, 3]; a short clip repeats its last
    return normalize(spec, frames)


def normalize(spec: GraphSpec, frames: Any, **cut: Any) -> Any:
    """(value - mean) / std, half precision on a GPU and float32 on a CPU; `cut` crops and mirrors in the same pass."""
    how: dict[str, Any] = {"mean": list(spec.mean), "std": list(spec.std), "output_layout": "FHWC", **cut}
    dtype = DALIDataType.FLOAT if spec.gpu is None else DALIDataType.FLOAT16
    return fn.crop_mirror_normalize(frames, dtype=dtype, **how)


def cuts_columns(spec: GraphSpec) -> bool:
    """Whether decoding leaves just the crop's columns; a resize needs their neighbors too."""
    return not spec.whole_pictures and spec.scale == 1


def graph_inputs(
    spec: GraphSpec,
    jpegs: list[np.ndarray],
    *,
    top: np.ndarray,
    left: np.ndarray,
    flip: np.ndarray,
    content: np.ndarray,
) -> Inputs:
    """What `jpeg_graph` reads, for N clips: a list of N pictures, and arrays whose first axis is N.

    Args:
        jpegs: uint8 [bytes] each.
        top, left: int [N], corner of the crop in the content, pixels after resizing.
        content: int [N, 4], left, top, width and height of the content in its tile, stored pixels.
    """
    crop, codec = spec.clip.crop_size, spec.codec
    y, x = content[:, 1] + top / spec.scale, content[:, 0] + left / spec.scale  # the crop's corner, stored pixels
    inputs: Inputs = {"jpeg": jpegs, "flip": flip.astype(np.int32)}
    if spec.scale != 1:
        far = points(y + crop / spec.scale, x + crop / spec.scale, np.float32)
        return inputs | {"roi_start": points(y, x, np.float32), "roi_end": far}
    # crop_mirror_normalize wants the corner as a part of the room there is
    inputs["crop_y"] = (y / max(codec.tile_height - crop, 1)).astype(np.float32)
    if not cuts_columns(spec):
        return inputs | {"crop_x": (x / max(codec.tile_width - crop, 1)).astype(np.float32)}
    zeros, height = np.zeros(len(y)), np.full(len(y), spec.clip.num_frames * codec.tile_height)
    return inputs | {"cut_start": points(zeros, x, np.int32), "cut_end": points(height, x + crop, np.int32)}


def points(y: np.ndarray, x: np.ndarray, dtype: type) -> np.ndarray:
    """Two columns [N] as N points [N, 2], in one piece of memory."""
    return np.ascontiguousarray(np.stack([y, x], axis=1), dtype)


def video_graph_inputs(
    spec: GraphSpec,
    streams: list[Stream],
    contents: list[np.ndarray],
    *,
    top: np.ndarray,
    left: np.ndarray,
    flip: np.ndarray,
    content: np.ndarray,
) -> Inputs:
    """What `video_graph` reads, a stream a sample.

    Args:
        contents: Of each stream, on a GPU its bytes, uint8 [bytes]; on a CPU its wanted frames, uint8 [U, H, W, 3].
        top, left: int [N], corner of the crop in the content, pixels after resizing.
        content: int [N, 4], left, top, width and height of the content in its tile, stored pixels.
    """
    matrices = crop_matrices(
        x=np.rint(content[:, 0] * spec.scale) + left,
        y=np.rint(content[:, 1] * spec.scale) + top,
        flip=flip,
        crop=spec.clip.crop_size,
    )
    inputs: Inputs = {
        "order": [stream.order for stream in streams],
        "matrices": [matrices[stream.clips][stream.owner] for stream in streams],  # [U, 2, 3] each
    }
    if spec.gpu is None:
        return inputs | {"frames": contents}
    return inputs | {"stream": contents, "wanted": [stream.frames for stream in streams]}


def crop_matrices(*, x: np.ndarray, y: np.ndarray, flip: np.ndarray, crop: int) -> np.ndarray:
    """From a place in the crop to the place in the frame that it shows: float32 [N, 2, 3].

    Args:
        x, y: [N], left and top edge of the crop, pixels.
        flip: bool [N], mirrored left to right.

    >>> crop_matrices(x=np.array([3, 3]), y=np.array([5, 5]), flip=np.array([False, True]), crop=8).tolist()
    [[[1.0, 0.0, 3.0], [0.0, 1.0, 5.0]], [[-1.0, 0.0, 11.0], [0.0, 1.0, 5.0]]]
    """
    matrices = np.zeros((len(x), 2, 3), np.float32)
    matrices[:, 0, 0] = np.where(flip, -1, 1)
    matrices[:, 1, 1] = 1
    matrices[:, 0, 2] = np.where(flip, x + crop, x)
    matrices[:, 1, 2] = y
    return matrices


def crops_of(read: ReadStep, index: ShardIndex) -> dict[str, np.ndarray]:
    """What part of the picture each of N clips shows."""
    clips = read.clips
    return {"top": clips.top, "left": clips.left, "flip": clips.flip, "content": index.content[clips.sample]}


class DaliEngine:
    """Turns what was read of a step into clips by DALI.

    Attributes:
        num_pipelines: Graphs that take turns, step by step.
    """

    def __init__(self, index: ShardIndex, spec: GraphSpec, *, num_pipelines: int) -> None:
        self.num_pipelines = num_pipelines
        self._index, self._spec, self._codec = index, spec, spec.codec
        self._pool = Pool(spec.num_threads)

    def build(self, *, queue_depth: int) -> Pipeline:
        """A graph, to be fed what `inputs` makes of one step after another."""
        return build_graph(self._spec, queue_depth=queue_depth)

    def inputs(self, read: ReadStep) -> Inputs:
        """A step as the graph takes it; the graph reads it in place.

        Raises:
            UndecodableError: Names the clips that do not decode, where that is found out before the graph.
        """
        crops = crops_of(read, self._index)
        if isinstance(self._codec, FilmstripCodec):
            return graph_inputs(self._spec, [data[0] for data in read.data], **crops)
        streams = join(read.located, clips_per_stream=self._spec.clips_per_stream)
        packets = [[packet for own in read.data[stream.clips] for packet in own] for stream in streams]
        if self._spec.gpu is None:
            decode = self._codec.decoder.decode
            contents = self._pool.map(decode, packets, [stream.frames for stream in streams])
        else:
            contents = [self._splicer.splice(own) for own in packets]
        return video_graph_inputs(self._spec, streams, contents, **crops)

    @cached_property
    def _splicer(self) -> Splicer:
        assert isinstance(self._codec, H264Codec)
        return Splicer(self._codec.avcc, height=self._codec.tile_height, width=self._codec.tile_width)
