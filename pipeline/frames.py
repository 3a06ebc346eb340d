"""Decodes stored frames in software, with libjpeg-turbo or FFmpeg in threads: the loader's engine without DALI, and the
decoder of all tools that show frames."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from res3d_video.pipeline.augment import NONE, Augmentation, recolor
from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.codecs import UndecodableError
from res3d_video.pipeline.index import ShardError, ShardIndex
from res3d_video.pipeline.plan import Plan, PlannedClips
from res3d_video.pipeline.reader import FrameFiles, ReadStep

Result = TypeVar("Result")


def decode_frames(
    index: ShardIndex, sample: int, frames: np.ndarray | None = None, *, files: FrameFiles | None = None
) -> np.ndarray:
    """Stored frames of a sample.

    Args:
        frames: int [F], never decreasing; None for all.
        files: To keep tars open between calls.

    Returns:
        uint8 RGB [F, tile_height, tile_width, 3]; the content lies where `index.content` says.

    Raises:
        ShardError: One of them is damaged or does not decode.
    """
    wanted = np.arange(index.num_frames[sample]) if frames is None else np.asarray(frames, np.int64)
    codec, files = index.stored_as, files or FrameFiles(index)
    parts, most = [], min(codec.max_frames, len(wanted))
    for first in range(0, len(wanted), most):  # a JPEG's height has an end
        data, order = read_frames(index, sample, wanted[first : first + most], files=files)
        try:
            parts.append(codec.decode(data)[order])
        except UndecodableError as error:
            raise damaged(index, sample, str(error)) from None
    return np.concatenate(parts)


def read_frames(
    index: ShardIndex, sample: int, frames: np.ndarray, *, files: FrameFiles
) -> tuple[list[np.ndarray], np.ndarray]:
    """`decode_frames` without decoding: the decoder's input, and the position of each frame in its output."""
    located = index.stored_as.locate(frames[None], blank=np.zeros(1, bool))
    data, faults = files.read(np.array([sample]), located)
    if faults:
        raise damaged(index, sample, faults[0])
    return data[0], located.order[0]


def damaged(index: ShardIndex, sample: int, why: str) -> ShardError:
    """The error for a damaged sample; training replaces such samples instead."""
    where = f"{index.key(sample)}: {why}, in {index.tars[int(index.tar[sample])]} of {index.data_dir}"
    return ShardError(f"{where}; tools/check_shards.py says more, building again mends it")


class Pool:
    """Threads that decode."""

    def __init__(self, num_threads: int) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="decoder")

    def map(self, function: Callable[..., Result], *items: Iterable[Any]) -> list[Result]:
        """`function` of each item, several at a time; an `UndecodableError` names all that do not decode."""
        underway = [self._threads.submit(function, *item) for item in zip(*items, strict=True)]
        failed = {n: error for n, one in enumerate(underway) if isinstance(error := one.exception(), UndecodableError)}
        if failed:
            raise UndecodableError(str(next(iter(failed.values()))), clips=list(failed))
        return [one.result() for one in underway]


class SimpleEngine:
    """Makes clips (value - mean) / std, RGB, of the frames read for a step, without DALI."""

    num_pipelines = 1

    def __init__(self, plan: Plan, *, num_threads: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._plan = plan
        self._mean, self._scale = np.array(mean, np.float32), 1 / np.array(std, np.float32)
        self._pool = Pool(num_threads)

    def clips(self, read: ReadStep) -> torch.Tensor:
        """The clips of a step: float32 [N, T, crop, crop, 3]; an `UndecodableError` names those that do not decode."""
        plan, spec, codec = self._plan, self._plan.spec, self._plan.index.stored_as
        out = np.empty((len(read.clips), spec.num_frames, spec.crop_size, spec.crop_size, 3), np.float32)

        def make(n: int) -> None:
            frames = codec.decode(read.data[n])[read.located.order[n]]
            for row in range(n * plan.num_crops, (n + 1) * plan.num_crops):
                clip = read.clips[row : row + 1]
                pixels = cut_clip(frames, clip, spec, plan.index, augmentation=plan.augmentation, fill=self._mean)
                np.subtract(pixels, self._mean, out=out[row])
                if (self._scale != 1).any():
                    out[row] *= self._scale

        self._pool.map(make, range(len(read.data)))
        return torch.from_numpy(out)


def cut_clip(
    frames: np.ndarray,
    clip: PlannedClips,
    spec: ClipSpec,
    index: ShardIndex,
    *,
    augmentation: Augmentation = NONE,
    fill: np.ndarray | float = 0.0,
) -> np.ndarray:
    """One planned clip of its decoded frames: resized, cropped, recolored, mirrored, a box erased.

    Args:
        frames: uint8 [T, tile_height, tile_width, 3].
        augmentation: Of the plan.
        fill: Value of erased boxes, one or three.

    Returns:
        [T, crop, crop, 3]; uint8, or float32 where it is resized or has other colors.
    """
    left, top = index.content[clip.sample[0], :2].tolist()
    y, x, scale, crop = int(clip.top[0]), int(clip.left[0]), spec.scale(index.size), spec.crop_size
    drawn = clip.augmented[0]
    height, width = (int(drawn["height"]), int(drawn["width"])) if augmentation.resizes else (crop, crop)
    if scale == 1 and (height, width) == (crop, crop):
        pixels = frames[:, top + y : top + y + crop, left + x : left + x + crop]
    else:
        down = resize_weights(top + y / scale, scale * crop / height, inputs=frames.shape[1], outputs=crop)
        across = resize_weights(left + x / scale, scale * crop / width, inputs=frames.shape[2], outputs=crop)
        narrow = np.matmul(across, frames.astype(np.float32))  # [T, tile_height, crop, 3]
        pixels = np.einsum("yh,thxc->tyxc", down, narrow, optimize=True)
    if augmentation.colors:
        pixels = recolor(pixels.astype(np.float32), drawn["color"])
    pixels = pixels[:, :, ::-1] if clip.flip[0] else pixels
    y, x, height, width = drawn["erased"].tolist()
    if augmentation.erasing and height:
        pixels = pixels.copy()
        pixels[:, y : y + height, x : x + width] = np.rint(fill)
    return pixels


def resize_weights(first: float, scale: float, *, inputs: int, outputs: int) -> np.ndarray:
    """Antialiased bilinear resampling of one axis: float32 [outputs, inputs]; edges are replicated.

    Output pixel i lies at first + (i + 0.5) / scale in the input; a triangle as wide as an output pixel weighs inputs.
    """
    radius = max(1.0, 1.0 / scale)
    center = first + (np.arange(outputs)[:, None] + 0.5) / scale
    reach = int(np.ceil(radius)) + 1
    place = np.arange(-reach, inputs + reach)  # pixels past the edges too, which are those at the edges
    weights = np.maximum(0.0, 1.0 - np.abs(place + 0.5 - center) / radius)
    folded = weights[:, reach : reach + inputs].copy()
    folded[:, 0] += weights[:, :reach].sum(axis=1)
    folded[:, -1] += weights[:, reach + inputs :].sum(axis=1)
    return (folded / folded.sum(axis=1, keepdims=True)).astype(np.float32)
