"""The DALI graph of H.264: streams of many clips in, normalised clips out; the same operators on a GPU and on a CPU.

On a GPU the input is compressed and NVDEC decodes it. DALI decodes no H.264 on a CPU: there PyAV does that first step
(`decode.SoftwareDecoder`), and the graph begins with frames.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIInterpType

from pipeline.clip import ClipSpec
from pipeline.graph import normalise
from pipeline.h264.packets import Stream


@dataclass(frozen=True)
class VideoGraphSpec:
    """Everything that shapes the graph.

    Attributes:
        batch_size: N clips.
        clips_per_stream: K; a batch has ⌈N / K⌉ streams.
        tile_height, tile_width: Of a stored frame, pixels.
        stored_size: Pixels that `clip.resize` scales from.
        gpu: CUDA device, or None for the CPU.
        queue_depth: Batches worked on at a time.
        mean, std: Per channel, RGB; clips come as (value - mean) / std.
    """

    batch_size: int
    clips_per_stream: int
    clip: ClipSpec
    tile_height: int
    tile_width: int
    stored_size: int
    gpu: int | None
    num_threads: int
    queue_depth: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_streams(self) -> int:
        return -(-self.batch_size // self.clips_per_stream)

    @property
    def scale(self) -> float:
        """Pixels of a resized frame to one of a stored frame."""
        return self.clip.scale(self.stored_size)


def build_video_graph(spec: VideoGraphSpec, source: Callable[[], tuple[list[Any], ...]]) -> Pipeline:
    """The pipeline that turns what `video_graph_inputs` gives into FHWC [K × T, crop, crop, 3], a sample a stream.

    Half precision on a GPU, float32 on a CPU.

    Args:
        source: Called for each batch; returns the inputs, or raises StopIteration at the end. Inputs are read in place:
            the caller holds them until that batch is there.
    """
    pipe = Pipeline(spec.num_streams, spec.num_threads, spec.gpu, prefetch_queue_depth=spec.queue_depth)
    with pipe:
        columns = fn.external_source(source, num_outputs=4 if spec.gpu is not None else 3, batch=True, no_copy=True)
        streams, *wanted, order, matrices = columns
        frames = decode_frames(streams, *wanted) if wanted else fn.reshape(streams, layout="FHWC")
        pipe.set_outputs(clips_of(spec, frames, order=order, matrices=matrices))
    pipe.build()
    return pipe


def decode_frames(stream: Any, wanted: Any, *, device: str = "mixed") -> Any:
    """The wanted frames of a stream: FHWC uint8 RGB [U, tile_height, tile_width, 3]."""
    return fn.decoders.video(stream, device=device, frames=wanted)


def clips_of(spec: VideoGraphSpec, frames: Any, *, order: Any, matrices: Any) -> Any:
    """Frames [U, tile_height, tile_width, 3] resized, cropped, flipped, put in order and normalised."""
    if spec.scale != 1:
        height, width = (math.ceil(side * spec.scale) for side in (spec.tile_height, spec.tile_width))
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
    return normalise(frames, mean=spec.mean, std=spec.std, gpu=spec.gpu)


def video_graph_inputs(
    spec: VideoGraphSpec,
    streams: list[Stream],
    contents: list[np.ndarray],
    *,
    top: np.ndarray,
    left: np.ndarray,
    flip: np.ndarray,
    content: np.ndarray,
) -> tuple[list[Any], ...]:
    """The columns that the graph reads, a stream a row.

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
    per_frame = [matrices[stream.clips][stream.owner] for stream in streams]  # [U, 2, 3] each
    order = [stream.order for stream in streams]
    wanted = [[stream.frames for stream in streams]] if spec.gpu is not None else []
    return contents, *wanted, order, per_frame


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
