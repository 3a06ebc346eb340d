"""The DALI graph: strips of JPEG bytes in, normalised clips out; the same operators on a GPU and on a CPU."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType, DALIImageType

from pipeline.clip import ClipSpec
from pipeline.filmstrip import ClipStrips, StripLayout


@dataclass(frozen=True)
class GraphSpec:
    """Everything that shapes the graph.

    Attributes:
        num_slots: S, strips a clip may need (`filmstrip.max_slots`).
        whole_strips: Decode whole strips; else only the tiles and, where nothing is resized, the columns of the crop.
        stored_size: Pixels that `clip.resize` scales from.
        gpu: CUDA device, or None for the CPU.
        queue_depth: Batches worked on at a time.
        hw_decoder_load: Share of the pictures for a GPU's JPEG engines.
        mean, std: Per channel, RGB; clips come as (value - mean) / std.
    """

    batch_size: int
    clip: ClipSpec
    layout: StripLayout
    num_slots: int
    whole_strips: bool
    stored_size: int
    gpu: int | None
    num_threads: int
    queue_depth: int
    hw_decoder_load: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def resizes(self) -> bool:
        """Whether frames are wanted smaller or larger than they are stored."""
        return self.clip.resize is not None and self.clip.resize != self.stored_size


def build_graph(spec: GraphSpec, source: Callable[[], tuple[list[Any], ...]]) -> Pipeline:
    """The pipeline that turns what `graph_inputs` gives into clips FHWC [T, crop, crop, 3].

    Half precision on a GPU, float32 on a CPU. A batch of FHWC viewed as NCTHW *is* channels_last_3d: no copy.

    Args:
        source: Called for each batch; returns the inputs, or raises StopIteration at the end. Inputs are read in place:
            the caller holds them until that batch is there.
    """
    pipe = Pipeline(spec.batch_size, spec.num_threads, spec.gpu, prefetch_queue_depth=spec.queue_depth)
    with pipe:
        width = 1 if spec.whole_strips else 3  # a slot is a JPEG and, to decode a part of it, two corners
        columns = fn.external_source(source, num_outputs=width * spec.num_slots + 4, batch=True, no_copy=True)
        slots = [columns[width * s : width * (s + 1)] for s in range(spec.num_slots)]
        order, flip, *window = columns[width * spec.num_slots :]  # the window is two corners, or two crop positions

        strips = [decode(spec, *slot) for slot in slots]  # S × HWC [tiles × tile_height, W, 3]
        frames = strips[0] if len(strips) == 1 else fn.cat(*strips, axis=0)
        tile = [spec.layout.tile_height, spec.clip.crop_size if cuts_columns(spec) else spec.layout.tile_width, 3]
        frames = fn.reshape(frames, shape=[-1, *tile], layout="FHWC")  # all tiles decoded
        frames = fn.sequence_rearrange(frames, new_order=order)  # [T, tile_height, W, 3], the frames asked for
        size = [spec.clip.crop_size] * 2
        if spec.resizes:
            frames = fn.resize(frames, size=size, roi_start=window[0], roi_end=window[1], antialias=True)
            position: dict[str, Any] = {}
        else:
            position = {"crop_pos_y": window[0], "crop_pos_x": window[1]}
        cut = {"crop": size, **position, "mirror": flip}
        pipe.set_outputs(normalise(frames, mean=spec.mean, std=spec.std, gpu=spec.gpu, **cut))
    pipe.build()
    return pipe


def normalise(frames: Any, *, mean: tuple[float, ...], std: tuple[float, ...], gpu: int | None, **cut: Any) -> Any:
    """(value - mean) / std, half precision on a GPU and float32 on a CPU; `cut` crops and mirrors in the same pass."""
    dtype = DALIDataType.FLOAT if gpu is None else DALIDataType.FLOAT16
    return fn.crop_mirror_normalize(frames, mean=list(mean), std=list(std), dtype=dtype, output_layout="FHWC", **cut)


def decode(spec: GraphSpec, jpeg: Any, start: Any = None, end: Any = None) -> Any:
    """One slot's strip, or the part of it between two corners; HWC uint8 RGB."""
    how: dict[str, Any] = {"device": "cpu", "output_type": DALIImageType.RGB, "adjust_orientation": False}
    if spec.gpu is not None:
        how |= {"device": "mixed", "hw_decoder_load": spec.hw_decoder_load}
    if start is None:
        return fn.decoders.image(jpeg, **how)
    return fn.decoders.image_slice(jpeg, start=start, end=end, axes=[0, 1], **how)


def cuts_columns(spec: GraphSpec) -> bool:
    """Whether decoding leaves just the crop's columns; a resize needs their neighbours too."""
    return not spec.whole_strips and not spec.resizes


def graph_inputs(
    spec: GraphSpec,
    jpegs: Iterable[np.ndarray],
    blank: np.ndarray,
    clips: ClipStrips,
    *,
    top: np.ndarray,
    left: np.ndarray,
    flip: np.ndarray,
    content: np.ndarray,
) -> tuple[list[Any], ...]:
    """The columns that the graph reads, for N clips: lists of N pictures, and arrays whose first axis is N.

    Args:
        jpegs: The strips of all clips, clip by clip, uint8 [bytes] each.
        blank: A picture of one tile, for slots that a clip does not use.
        top, left: int [N], corner of the crop in the content, pixels after resizing.
        content: int [N, 4], left, top, width and height of the content in its tile, stored pixels.
    """
    crop, layout = spec.clip.crop_size, spec.layout
    scale = spec.clip.scale(spec.stored_size)
    y, x = content[:, 1] + top / scale, content[:, 0] + left / scale  # the crop's corner in its tile, stored pixels
    zeros = np.zeros(len(y), np.float32)

    found = iter(jpegs)
    used = (clips.strips >= 0).tolist()
    pictures_of_clips = [[next(found) if uses else blank for uses in slots] for slots in used]
    columns: list[Any] = []
    for s, pictures in enumerate(zip(*pictures_of_clips, strict=True)):
        first, last = clips.first_tile[:, s] * layout.tile_height, clips.last_tile[:, s] * layout.tile_height
        x_first, x_last = (x, x + crop) if cuts_columns(spec) else (zeros, zeros + layout.tile_width)
        columns.append(list(pictures))
        if not spec.whole_strips:
            columns += [corners(first, x_first, np.int32), corners(last, x_last, np.int32)]
    columns += [clips.order.astype(np.int32), flip.astype(np.int32)]
    if spec.resizes:
        return (*columns, corners(y, x, np.float32), corners(y + crop / scale, x + crop / scale, np.float32))
    # crop_mirror_normalize wants the corner as a part of the room there is
    crop_y = y / max(layout.tile_height - crop, 1)
    crop_x = zeros if cuts_columns(spec) else x / max(layout.tile_width - crop, 1)
    return (*columns, crop_y.astype(np.float32), crop_x.astype(np.float32))


def corners(y: np.ndarray, x: np.ndarray, dtype: type) -> np.ndarray:
    """Two columns [N] as N points [N, 2], in one piece of memory."""
    return np.ascontiguousarray(np.stack([y, x], axis=1), dtype)
