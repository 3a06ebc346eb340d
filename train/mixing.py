"""Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899): the two clips of a pair become mixtures of both.

Rows 2i and 2i + 1 of the global batch are a pair. Batches are shuffled, so partners are random; they are on the same
rank, and their random numbers depend on seed and step only. So runs on 1, 2 or 8 ranks, and resumed ones, are equal.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from res3d_video.train.config import TrainConfig

MIXING_STREAM = 3  # of Philox under (seed, step); those of the plan, under (seed, epoch), are 0 to 2


class Mixing(NamedTuple):
    """How the N clips of a rank are mixed; equal for both clips of a pair.

    Attributes:
        share: float32 [N], the part of a clip, and of its label, that remains its own.
        box: int64 [N, 4], top, left, bottom, right of the box taken from the partner; zeros blend the whole clip.
    """

    share: np.ndarray
    box: np.ndarray


def draw_mixing(step: int, config: TrainConfig, *, rows: slice) -> Mixing | None:
    """Random mixing of the pairs of a step; None if nothing is mixed. With both on, half of the pairs use CutMix.

    Args:
        rows: A rank's rows of the global batch, whole pairs.
    """
    mixup, cutmix, crop_size = config.mixup, config.cutmix, config.clip.crop_size
    if not (mixup or cutmix):
        return None
    rng = np.random.Generator(np.random.Philox(key=[config.seed, step], counter=[0, 0, 0, MIXING_STREAM]))
    num_pairs = config.global_batch_size // 2
    blended = rng.beta(mixup, mixup, num_pairs) if mixup else np.ones(num_pairs)
    kept = rng.beta(cutmix, cutmix, num_pairs) if cutmix else np.ones(num_pairs)
    is_cut = rng.random(num_pairs) < (0.5 if mixup else 1.0) if cutmix else np.zeros(num_pairs, bool)
    center = rng.random((num_pairs, 2)) * crop_size
    half = np.sqrt(1 - kept)[:, None] * crop_size / 2
    box = np.rint(np.concatenate([center - half, center + half], axis=1)).clip(0, crop_size).astype(np.int64)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    box[~is_cut | (area == 0)] = 0
    share = np.where(is_cut, 1 - area / crop_size**2, blended).astype(np.float32)
    return Mixing(np.repeat(share, 2)[rows], np.repeat(box, 2, axis=0)[rows])


def partners(values: Tensor) -> Tensor:
    """Each row's partner: [N, …].

    >>> partners(torch.arange(4)).tolist()
    [1, 0, 3, 2]
    """
    return values.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def mix_clips(clips: Tensor, share: Tensor, box: Tensor) -> Tensor:
    """Mixtures of clips [N, C, T, H, W] and their partners; all frames of a clip are mixed alike.

    Args:
        share, box: As in `Mixing`, on the clips' device.

    Returns:
        Of the same type, in channels_last_3d.
    """
    frames = clips.permute(0, 2, 3, 4, 1)  # [N, T, H, W, C], in one piece of memory
    top, left, bottom, right = box[:, :, None].unbind(1)  # [N, 1] each
    y, x = (torch.arange(size, device=clips.device) for size in frames.shape[2:4])
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None]  # [N, H, W]
    own = torch.where((bottom > top)[:, :, None], (~inside).float(), share[:, None, None])
    mixed = partners(frames).lerp(frames, own[:, None, :, :, None].to(clips.dtype))
    return mixed.permute(0, 4, 1, 2, 3)
