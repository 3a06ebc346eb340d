"""Plans of clips that a test names, what a batch's pixels show, and shards with a damaged sample."""

import itertools
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from res3d_video.pipeline.augment import NONE
from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.loader import Batch, ClipLoader
from res3d_video.pipeline.plan import PlannedClips, TrainPlan, stored_clip
from res3d_video.pipeline.schema import CRC32, OFFSET, SIZE
from res3d_video.tools.numbered import number_of, read_bits, read_numbers

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_GPU])]


class GridPlan:
    """A plan of clips that a test names: (sample, start, top, left, flip)."""

    augmentation, num_crops, canonical_groups = NONE, 1, 0

    def __init__(self, index: ShardIndex, spec: ClipSpec, clips: list[tuple], *, batch_size: int) -> None:
        self.index, self.spec = index, spec
        self.stored_spec = stored_clip(spec, frame_step=index.frame_step)
        self.global_batch_size = batch_size
        self.num_steps = -(-len(clips) // batch_size)
        self.identity = "grid"
        self._clips = clips + clips[-1:] * (self.num_steps * batch_size - len(clips))

    def batch(self, step: int) -> PlannedClips:
        rows = self._clips[step * self.global_batch_size : (step + 1) * self.global_batch_size]
        sample, start, top, left, flip = (np.array(column) for column in zip(*rows, strict=True))
        count, weight = np.arange(len(rows)), np.ones(len(rows), np.float32)
        return PlannedClips(count, sample, start, 0 * count, top, left, flip.astype(bool), weight)

    def replacement(self, clip: PlannedClips, attempt: int) -> None:
        return None


def sample_of_length(index: ShardIndex, num_frames: int) -> int:
    return int(np.flatnonzero(index.num_frames == num_frames)[0])


def stored_numbers(index: ShardIndex, sample: int) -> list[int]:
    """The frame numbers that a sample's stored frames show."""
    left, top, width, height = index.content[sample]
    frames = decode_frames(index, sample)[:, top : top + height, left : left + width]
    return [number_of(read_bits(frame, scale=width / 171, grey=128)) for frame in frames]


def shown(batch: Batch, plan: GridPlan, step: int) -> list[list[int]]:
    """The frame numbers that a batch's pixels show."""
    planned, scale = plan.batch(step), (plan.spec.resize or 128) / 128
    clips = batch.clips.float().cpu().numpy()
    return [
        read_numbers(clip, left=left / scale, scale=scale, flip=flip)
        for clip, left, flip in zip(clips, planned.left.tolist(), planned.flip.tolist(), strict=True)
    ]


def train_plan(index: ShardIndex, *, global_batch_size: int = 12, seed: int = 0) -> TrainPlan:
    return TrainPlan(
        index, index.samples_of("1", "train"), ClipSpec(4, 2), global_batch_size=global_batch_size, seed=seed
    )


def take(loader: ClipLoader, count: int) -> list[Batch]:
    return list(itertools.islice(loader, count))


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.clips, b.clips) and torch.equal(a.labels, b.labels) and np.array_equal(a.samples, b.samples)


def damaged_copy(
    index: ShardIndex, folder: Path, sample: int, *, fix_checksum: bool, most: int | None = None
) -> ShardIndex:
    """A copy in which every stored frame of a sample, or the first ones, is overwritten; with `fix_checksum` only its
    form, or decoding, can tell."""
    shutil.copytree(index.data_dir, folder)
    frames, path = np.array(index.frames), folder / index.tars[index.tar[sample]]
    content = bytearray(path.read_bytes())
    for row in range(int(index.first_frame[sample]), int(index.first_frame[sample + 1]))[:most]:
        at, size = int(index.offset[sample]) + int(frames[row, OFFSET]), int(frames[row, SIZE])
        content[at : at + size] = bytes(size)
        if fix_checksum:
            frames[row, CRC32] = zlib.crc32(bytes(size))
    path.write_bytes(content)
    np.save(folder / "index/frames.npy", frames)
    return open_index(folder)
