"""The ways to read clips that bench_loader compares: our loader, and PyAV seeking in H.264 copies of the same segments.

Both give the same planned clips as float32 [N, 3, T, H, W] with 128 subtracted. PyAV is tuned as one who uses it would:
one decoder thread a file and all cores kept busy, by threads or by torch's DataLoader; bench_loader takes the faster.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import ffmpeg
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.clip import ClipSpec, frame_indices
from pipeline.filmstrip import clip_strips, max_slots
from pipeline.loader import ClipLoader, LoaderSettings
from pipeline.plan import PlannedClips, TrainPlan
from pipeline.reference import decode_sample
from pipeline.shard import ShardIndex, open_index
from pipeline.transcode import ffmpeg_exe
from tools.bench.measure import BenchError

GOP, CRF, FPS = 8, 20, 25
MEAN = 128.0  # of the paper, section 3
MIN_PSNR_DB = 25.0  # two lossy codecs apart; another frame of a moving scene is below it
BATCHES_AHEAD = 2  # as the loader's own prefetch


@dataclass(frozen=True)
class Contest:
    """What every way reads; two ways of one contest deliver the same clips in the same order.

    Attributes:
        samples: int64 [n], rows of the index.
        device, num_threads: Of our loader; `num_threads` are DALI's.
        copies: Folder of the H.264 copies, for PyAV.
        num_workers: Threads or processes of PyAV.
    """

    data_dir: Path
    samples: np.ndarray
    spec: ClipSpec
    batch_size: int
    seed: int
    device: str
    num_threads: int
    copies: Path
    num_workers: int

    def plan(self) -> TrainPlan:
        """Random starts, crops and flips, without end."""
        index = open_index(self.data_dir)
        return TrainPlan(index, self.samples, self.spec, global_batch_size=self.batch_size, seed=self.seed)


@contextmanager
def filmstrips(contest: Contest) -> Iterator[Iterator[Tensor]]:
    """Our loader."""
    plan = contest.plan()
    with ClipLoader(
        plan.index, plan, device=contest.device, settings=LoaderSettings(num_threads=contest.num_threads), mean=MEAN
    ) as loader:
        yield (batch.clips for batch in loader)


@contextmanager
def pyav_threads(contest: Contest) -> Iterator[Iterator[Tensor]]:
    """PyAV in a pool of threads, a clip each, two batches ahead; it decodes and converts without the GIL."""
    plan = contest.plan()
    shape = batch_shape(plan)

    def start(step: int) -> tuple[np.ndarray, list[Future[None]]]:
        clips, out = plan.batch(step), np.empty(shape, np.float32)

        def fill(n: int) -> None:
            np.subtract(read_clip(plan, clips, n, copies=contest.copies), np.float32(MEAN), out=out[n])

        return out, [pool.submit(fill, n) for n in range(len(clips))]

    def batches() -> Iterator[Tensor]:
        underway = [start(step) for step in range(BATCHES_AHEAD)]
        for step in itertools.count(BATCHES_AHEAD):
            out, futures = underway.pop(0)
            for future in futures:
                future.result()
            underway.append(start(step))
            yield torch.from_numpy(out).permute(0, 4, 1, 2, 3)  # [N, 3, T, H, W]

    with ThreadPoolExecutor(contest.num_workers) as pool:
        yield batches()
        pool.shutdown(cancel_futures=True)


@contextmanager
def pyav_dataloader(contest: Contest) -> Iterator[Iterator[Tensor]]:
    """PyAV in torch's DataLoader, a batch a worker; bytes cross over, for floats would take four times the memory."""
    workers, steps = contest.num_workers, Steps()
    loader = DataLoader(
        PlannedBatches(contest), batch_size=None, sampler=steps, num_workers=workers, prefetch_factor=BATCHES_AHEAD
    )
    batches = (batch.float().sub_(MEAN).permute(0, 4, 1, 2, 3) for batch in loader)  # [N, 3, T, H, W]
    try:
        yield batches
    finally:
        steps.stopped = True
        for _ in batches:
            pass  # workers told to stop in the middle of a batch abort, so let them finish what they were given


class Steps(Sampler[int]):
    """0, 1, 2, … until stopped."""

    def __init__(self) -> None:
        self.stopped = False

    def __iter__(self) -> Iterator[int]:
        return itertools.takewhile(lambda step: not self.stopped, itertools.count())


class PlannedBatches(Dataset[Tensor]):
    """Item `step` is a whole batch: uint8 [N, T, H, W, 3]."""

    def __init__(self, contest: Contest) -> None:
        self._plan, self._copies = contest.plan(), contest.copies

    def __getitem__(self, step: int) -> Tensor:
        clips, out = self._plan.batch(step), np.empty(batch_shape(self._plan), np.uint8)
        for n in range(len(clips)):
            out[n] = read_clip(self._plan, clips, n, copies=self._copies)
        return torch.from_numpy(out)


WAYS = {"pyav threads": pyav_threads, "pyav DataLoader": pyav_dataloader}


@dataclass(frozen=True)
class ReadCost:
    """What some clips cost to read: frames delivered and decoded, compressed bytes given to the decoder."""

    num_clips: int
    num_frames: int
    num_decoded: int
    num_bytes: int

    @property
    def decoded_to_used(self) -> float:
        return self.num_decoded / self.num_frames

    @property
    def bytes_per_clip(self) -> float:
        return self.num_bytes / self.num_clips


def batch_shape(plan: TrainPlan) -> tuple[int, ...]:
    """[N, T, H, W, 3]."""
    size = plan.spec.crop_size
    return plan.global_batch_size, plan.spec.num_frames, size, size, 3


def read_clip(plan: TrainPlan, clips: PlannedClips, n: int, *, copies: Path) -> np.ndarray:
    """Clip `n` of some planned ones from its segment's copy: uint8 [T, H, W, 3] RGB, cropped and flipped."""
    frames, _, _ = read_clip_frames(plan, clips, n, copies=copies)
    index, spec, sample = plan.index, plan.spec, int(clips.sample[n])
    x, y = (round(int(edge) * content_scale(plan)) for edge in index.content[sample, :2])
    x, y = x + int(clips.left[n]), y + int(clips.top[n])
    clip = frames[:, y : y + spec.crop_size, x : x + spec.crop_size]
    return clip[:, :, ::-1] if clips.flip[n] else clip


def read_clip_frames(plan: TrainPlan, clips: PlannedClips, n: int, *, copies: Path) -> tuple[np.ndarray, int, int]:
    """Whole frames of clip `n`, resized if the plan says so, and the numbers of decoded frames and of bytes."""
    index, sample, scale = plan.index, int(clips.sample[n]), content_scale(plan)
    wanted = frame_indices(int(clips.start[n]), plan.stored_spec, video_frames=int(index.num_frames[sample]))
    width, height = round(index.layout.tile_width * scale), round(index.layout.tile_height * scale)
    return read_frames(copy_path(copies, index, sample), wanted, width=width, height=height)


def content_scale(plan: TrainPlan) -> float:
    """Pixels of a resized frame to one of a stored frame."""
    return 1.0 if plan.spec.resize is None else plan.spec.resize / plan.index.size


def read_frames(path: Path, wanted: np.ndarray, *, width: int, height: int) -> tuple[np.ndarray, int, int]:
    """Open a copy, seek to the keyframe before the first wanted frame and decode to the last.

    Args:
        wanted: int64 [T], frame numbers, never decreasing.
        width, height: To scale frames to, pixels.

    Returns:
        uint8 [T, height, width, 3] RGB; frames decoded; bytes of the packets that held them.

    Raises:
        BenchError: Seeking did not lead to a wanted frame.
    """
    needed, last = set(wanted.tolist()), int(wanted[-1])
    # One thread for each conversion: by default every frame starts several, and a clip costs twice as much.
    convert: dict[str, Any] = {"format": "rgb24", "width": width, "height": height, "threads": 1}
    shown: dict[int, np.ndarray] = {}
    num_decoded = num_bytes = 0
    with av.open(str(path), format="mp4") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        assert stream.time_base
        ticks = 1 / (FPS * stream.time_base)  # of the container's clock to a frame
        container.seek(int(wanted[0] * ticks), stream=stream)
        for packet in container.demux(stream):
            num_bytes += packet.size
            for frame in packet.decode():
                num_decoded += 1
                number = round((frame.pts or 0) / ticks)
                if number in needed:
                    shown[number] = frame.to_ndarray(**convert)
            if last in shown:
                break
    if missing := needed - shown.keys():
        raise BenchError(f"{path}: frame {min(missing)} is not found by seeking; remove the file")
    return np.stack([shown[number] for number in wanted.tolist()]), num_decoded, num_bytes


def copies_folder(cache: Path, index: ShardIndex) -> Path:
    """Where the copies of these very shards lie in a cache of many."""
    return cache / f"{index.name}-{index.fingerprint[:12]}-gop{GOP}-crf{CRF}"


def copy_path(copies: Path, index: ShardIndex, sample: int) -> Path:
    """The H.264 copy of a sample."""
    return copies / f"{index.key(sample)}.mp4"


def make_copies(
    index: ShardIndex,
    samples: Sequence[int],
    copies: Path,
    *,
    workers: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Encode the H.264 copies that are not there yet: GOP 8, closed, no B-frames, yuv420p, as large as a tile.

    Raises:
        BenchError: A sample is damaged, or ffmpeg does not encode.
    """
    copies.mkdir(parents=True, exist_ok=True)
    absent = [int(sample) for sample in samples if not copy_path(copies, index, int(sample)).is_file()]
    with ThreadPoolExecutor(workers) as pool:
        try:
            for done, _ in enumerate(pool.map(lambda sample: make_copy(index, sample, copies), absent), start=1):
                report(done, len(absent))
        finally:
            pool.shutdown(cancel_futures=True)


def make_copy(index: ShardIndex, sample: int, copies: Path) -> None:
    """Encode one copy from the segment's stored frames; it appears under its name when it is whole."""
    try:
        frames = decode_sample(index, sample)  # [F, tile_height, tile_width, 3]
    except ValueError as error:
        raise BenchError(f"{error}; run tools/check_shards.py {index.data_dir}") from None
    path = copy_path(copies, index, sample)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    source = ffmpeg.input(
        "pipe:0", format="rawvideo", pix_fmt="rgb24", video_size=(frames.shape[2], frames.shape[1]), framerate=FPS
    )
    output = source.filter("scale", out_color_matrix="bt601", out_range="limited").output(
        str(unfinished),
        format="mp4",
        vcodec="libx264",
        crf=CRF,
        g=GOP,
        keyint_min=GOP,
        sc_threshold=0,
        bf=0,
        flags="+cgop",
        pix_fmt="yuv420p",
        colorspace="smpte170m",
        movflags="+faststart",
        threads=1,
        loglevel="error",
    )
    try:
        output.overwrite_output().run(cmd=ffmpeg_exe(), input=frames.tobytes(), quiet=True)
        unfinished.rename(path)
    except ffmpeg.Error as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise BenchError(f"{path.name}: ffmpeg does not encode ({lines[-1]})") from None
    finally:
        unfinished.unlink(missing_ok=True)


def worst_psnr(contest: Contest) -> float:
    """The lowest PSNR, in dB, of PyAV's clips against the loader's in the first batch."""
    plan = contest.plan()
    planned = plan.batch(0)
    with filmstrips(contest) as batches:
        ours = next(batches).float().cpu().numpy().transpose(0, 2, 3, 4, 1) + MEAN  # [N, T, H, W, 3]
    errors = []
    for n in range(len(planned)):
        difference = ours[n] - read_clip(plan, planned, n, copies=contest.copies)
        errors.append(float((difference**2).mean()))
    return float(10 * np.log10(255**2 / max(*errors, 1e-9)))


def check_peer(contest: Contest) -> float:
    """`worst_psnr`, if it is good enough.

    Raises:
        BenchError: PyAV's clips are not the loader's.
    """
    psnr = worst_psnr(contest)
    if psnr < MIN_PSNR_DB:
        raise BenchError(
            f"PyAV's clips are not the loader's (PSNR {psnr:.1f} dB, at least {MIN_PSNR_DB:.0f} is wanted); "
            f"remove {contest.copies}"
        )
    return psnr


def filmstrip_cost(contest: Contest, steps: range) -> ReadCost:
    """What our loader reads and decodes for some steps, tiles counted as frames."""
    plan = contest.plan()
    index, total = plan.index, ReadCost(0, 0, 0, 0)
    slots = max_slots(plan.stored_spec, index.layout)
    for step in steps:
        clips = plan.batch(step)
        frames = frame_indices(clips.start, plan.stored_spec, video_frames=index.num_frames[clips.sample])
        located = clip_strips(frames, index.layout, num_slots=slots, whole_strips=contest.device != "cpu")
        used = located.strips >= 0
        strips = (index.first_strip[clips.sample][:, None] + located.strips)[used]
        total = ReadCost(
            total.num_clips + len(clips),
            total.num_frames + frames.size,
            total.num_decoded + int((located.last_tile - located.first_tile)[used].sum()),
            total.num_bytes + int(index.strip_size[strips].sum()),
        )
    return total


def pyav_cost(contest: Contest, steps: range) -> ReadCost:
    """What PyAV reads and decodes for some steps, counted while it does."""
    plan, total = contest.plan(), ReadCost(0, 0, 0, 0)
    for step in steps:
        clips = plan.batch(step)
        for n in range(len(clips)):
            frames, num_decoded, num_bytes = read_clip_frames(plan, clips, n, copies=contest.copies)
            total = ReadCost(
                total.num_clips + 1,
                total.num_frames + len(frames),
                total.num_decoded + num_decoded,
                total.num_bytes + num_bytes,
            )
    return total
