"""Peers that read one WebDataset tar from end to end and draw their own clips: random start, crop and flip.

They cannot follow our plan, for they meet samples in the order of the tar, shuffled in a buffer, not in the plan's.
"""

import io
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
import torch
import webdataset
from nvidia.dali import Pipeline, fn, math
from nvidia.dali.plugin.pytorch import DALIGenericIterator
from nvidia.dali.types import DALIDataType
from torch import Tensor
from torch.utils.data import IterableDataset

from pipeline.clip import frame_indices, num_starts
from pipeline.loader import MEAN
from pipeline.plan import crop_room
from pipeline.shard import open_index
from pipeline.step_reader import ReadWork
from tools.bench.peers.clip_readers import read_frames
from tools.bench.peers.contest import Contest, content_scale
from tools.bench.peers.copies import FRAMES_PART, tar_path
from tools.bench.peers.pools import batches_of

SHUFFLE_BUFFER = 256  # compressed samples, some 50 kB each, of each worker; DALI's default is 1024


@contextmanager
def webdataset_pyav(contest: Contest) -> Iterator[Iterator[Tensor]]:
    """webdataset in torch's DataLoader, a batch a worker: shuffle compressed samples, decode a random clip by PyAV."""
    drawn = DrawnBatches(contest)
    with batches_of(drawn, contest, stop=drawn.stop) as batches:
        yield batches


class DrawnBatches(IterableDataset[Tensor]):
    """Whole batches, uint8 [N, T, H, W, 3], from a worker's own endless way through the tar, until stopped."""

    def __init__(self, contest: Contest) -> None:
        self._contest, self._stopped = contest, torch.multiprocessing.Event()

    def stop(self) -> None:
        """Every worker ends after the batch in its hands."""
        self._stopped.set()

    def __iter__(self) -> Iterator[Tensor]:
        # Another way through the tar for each worker; resampled makes it endless.
        tar = tar_path(self._contest.copies, self._contest.samples)
        samples = webdataset.WebDataset(str(tar), resampled=True, shardshuffle=False).shuffle(SHUFFLE_BUFFER)
        clips = samples.map(ClipDrawer(self._contest, seed=torch.initial_seed()))
        batches = clips.batched(self._contest.batch_size, collation_fn=np.stack)
        return (torch.from_numpy(batch) for batch in itertools.takewhile(lambda _: not self._stopped.is_set(), batches))


class ClipDrawer:
    """Makes a random clip, uint8 [T, H, W, 3], of a sample of the tar of H.264 files; counts what it cost.

    Args:
        seed: Of starts, crops and flips.
    """

    def __init__(self, contest: Contest, *, seed: int) -> None:
        index = open_index(contest.data_dir)
        self._spec, self._scale, self._size = contest.plan().stored_spec, content_scale(contest.spec, index), index.size
        self._height, self._width = contest.picture_size(index)
        self._random, self._start_step = np.random.default_rng(seed), contest.start_step
        self.cost = ReadWork()

    def __call__(self, sample: dict[str, Any]) -> np.ndarray:
        facts, spec = json.loads(sample["json"]), self._spec
        content = np.array([facts["content"]])
        down, sideways = (int(places[0]) for places in crop_room(content, spec, stored_size=self._size))
        num_frames = facts["num_frames"]
        places = -(-int(num_starts(spec, video_frames=num_frames)) // self._start_step)
        start = int(self._random.integers(places)) * self._start_step
        wanted = frame_indices(start, spec, video_frames=num_frames)
        with av.open(io.BytesIO(sample["mp4"]), format="mp4") as container:
            frames, num_decoded, _ = read_frames(container, wanted, width=self._width, height=self._height)
        self.cost += ReadWork(1, len(frames), num_decoded, num_decoded, len(sample["mp4"]))  # a tar is read whole
        x, y = (round(edge * self._scale) for edge in facts["content"][:2])
        x, y = x + self._random.integers(sideways), y + self._random.integers(down)
        clip = frames[:, y : y + spec.crop_size, x : x + spec.crop_size]
        return clip[:, :, ::-1] if self._random.integers(2) else clip


def webdataset_cost(contest: Contest, steps: range) -> ReadWork:
    """What webdataset + PyAV reads and decodes for as many clips as some steps have, counted while it does."""
    draw = ClipDrawer(contest, seed=contest.seed)
    samples = webdataset.WebDataset(str(tar_path(contest.copies, contest.samples)), resampled=True, shardshuffle=False)
    for sample in itertools.islice(samples, len(steps) * contest.batch_size):
        draw(sample)
    return draw.cost


@contextmanager
def dali_video(contest: Contest) -> Iterator[Iterator[Tensor]]:
    """DALI by its documentation: readers.webdataset, decoders.video, crop_mirror_normalize, DALIGenericIterator."""
    clips = (
        out[0]["clips"] for out in DALIGenericIterator([dali_video_pipeline(contest)], ["clips"])
    )  # [N, T, H, W, 3], endless
    yield (batch.permute(0, 4, 1, 2, 3) for batch in clips)


def dali_video_pipeline(contest: Contest) -> Any:
    """The graph: a random clip of each sample, [T, H, W, 3] on the contest's device, 128 subtracted.

    `decoders.video` decodes H.264 on a GPU only; on a CPU the graph works for copies in MJPEG, VP8 or VP9.
    """
    index, spec = open_index(contest.data_dir), contest.plan().stored_spec
    tar = tar_path(contest.copies, contest.samples)
    resized = content_scale(contest.spec, index) != 1
    pipe = Pipeline(
        batch_size=contest.batch_size,
        num_threads=contest.num_workers,
        device_id=(torch.device(contest.device).index or 0) if contest.on_gpu else None,
        seed=contest.seed,
    )
    with pipe:
        reader: Any = fn.readers.webdataset(
            paths=[str(tar)],
            index_paths=[str(tar.with_suffix(".idx"))],
            ext=["mp4", FRAMES_PART],
            dtypes=[DALIDataType.UINT8, DALIDataType.INT32],
            random_shuffle=True,
        )
        video, num_frames = reader
        starts = math.max(fn.reshape(num_frames, shape=[]) - (spec.span - 1), 1)  # possible first frames
        places = (starts + (contest.start_step - 1)) // contest.start_step
        drawn = math.floor(fn.random.uniform(range=[0.0, 1.0]) * places) * contest.start_step
        frames: Any = fn.decoders.video(
            video,
            device="mixed" if contest.on_gpu else "cpu",
            start_frame=fn.cast(drawn, dtype=DALIDataType.INT32),
            sequence_length=spec.num_frames,
            stride=spec.frame_stride,
            pad_mode="edge",
        )
        if resized:
            frames = fn.resize(frames, size=list(contest.picture_size(index)), antialias=True)
        clips = fn.crop_mirror_normalize(
            frames,
            crop=[spec.crop_size] * 2,
            crop_pos_x=fn.random.uniform(range=[0.0, 1.0]),
            crop_pos_y=fn.random.uniform(range=[0.0, 1.0]),
            mirror=fn.random.coin_flip(),
            mean=[MEAN] * 3,
            std=[1.0] * 3,
            dtype=DALIDataType.FLOAT16 if contest.on_gpu else DALIDataType.FLOAT,
            output_layout="FHWC",
        )
        pipe.set_outputs(clips)
    pipe.build()
    return pipe
