"""Other loaders that read the same clips. A peer is a function that yields batches, and an entry of `PEERS`.

Peers read one H.264 file per segment: the stored file of h264 shards, or a copy that is encoded from filmstrips.
They give the clips of our plan: the same frames, crops and flips.
"""

import io
import itertools
import tarfile
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from res3d_video.pipeline.clip import frame_indices
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardIndex, choices, open_index
from res3d_video.pipeline.loader import MEAN, ClipLoader
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.tools.bench.machine import installed
from res3d_video.tools.bench.measure import BenchError
from res3d_video.tools.bench.run import Settings
from res3d_video.tools.samples import write_mp4

BATCHES_AHEAD = 2  # of a pool of threads, and of each process of a DataLoader, where it is torch's default
GOP, CRF, FPS = 8, 20, 25  # of the copies of filmstrips


@dataclass(frozen=True)
class PeerConfig:
    """What every peer and our loader reads, and how.

    Attributes:
        files: Folder of the H.264 files for the peers.
        num_workers: Number of threads or processes of a peer.
    """

    settings: Settings
    files: Path
    num_workers: int

    def plan(self) -> TrainPlan:
        """The endless plan of all sources, with random starts, crops and flips."""
        return self.settings.plan(open_index(self.settings.data))


BatchSource = Callable[[PeerConfig], Generator[Tensor]]  # endless batches [N, 3, T, H, W] with the mean subtracted


@dataclass(frozen=True)
class ClipRequest:
    """A planned clip for a peer.

    Attributes:
        path: H.264 file of the segment, named after the sample's key.
        frames: T frame numbers, never decreasing; a short video repeats its last one.
        size: Height and width to scale frames to, pixels; None keeps them as stored.
        x, y, side: Left and top edge of the square crop in the scaled frame, and its size, pixels.
    """

    path: Path
    frames: list[int]
    size: tuple[int, int] | None
    x: int
    y: int
    side: int
    flip: bool

    def cut(self, pictures: Tensor) -> Tensor:
        """The crop of whole frames, uint8 [T, H, W, 3], flipped if planned: uint8 [T, side, side, 3]."""
        clip = pictures[:, self.y : self.y + self.side, self.x : self.x + self.side]
        return clip.flip(2) if self.flip else clip


def requests(config: PeerConfig, plan: TrainPlan, step: int) -> list[ClipRequest]:
    """The clips of a step."""
    index, clips, scale = plan.index, plan.batch(step), plan.spec.scale(plan.index.size)
    frames = frame_indices(clips.start, plan.stored_spec, video_frames=index.num_frames[clips.sample])
    height, width = (round(side * scale) for side in index.tile_size)
    edges = [[round(int(edge) * scale) for edge in index.content[sample, :2]] for sample in clips.sample]
    return [
        ClipRequest(
            path=config.files / f"{index.key(int(clips.sample[n]))}.mp4",
            frames=frames[n].tolist(),
            size=None if scale == 1 else (height, width),
            x=edges[n][0] + int(clips.left[n]),
            y=edges[n][1] + int(clips.top[n]),
            side=plan.spec.crop_size,
            flip=bool(clips.flip[n]),
        )
        for n in range(len(clips))
    ]


def delivered(batch: Tensor, config: PeerConfig) -> Tensor:
    """A batch as a trainer takes it, with the mean subtracted.

    Args:
        batch: uint8 [N, T, H, W, 3]; for a GPU in pinned memory, or already there.

    Returns:
        [N, 3, T, H, W] in channels_last_3d; float16 on a GPU, float32 on a CPU.
    """
    if config.settings.on_gpu:
        values = batch.to(config.settings.device, non_blocking=True).half().sub_(MEAN)
    else:  # one pass in one thread: torch's own threads would take the cores of the decoders
        values = torch.from_numpy(np.subtract(batch.numpy(), np.float32(MEAN), dtype=np.float32))
    return values.permute(0, 4, 1, 2, 3)


def our_loader(config: PeerConfig, *, engine: Literal["dali", "simple"]) -> Generator[Tensor]:
    """Our loader, with one of its engines."""
    plan, settings = config.plan(), replace(config.settings.loader, engine=engine)
    with ClipLoader(plan.index, plan, device=config.settings.device, settings=settings, mean=MEAN) as loader:
        for batch in loader:
            yield batch.clips


# How one clip is read. The file is opened for each clip, because real datasets have too many files to keep them open.


def read_pyav(request: ClipRequest) -> Tensor:
    """PyAV: seek to the keyframe before the clip and decode to its last frame."""
    needed, shown = set(request.frames), dict[int, np.ndarray]()
    # One thread per conversion: by default each frame starts several, and a clip costs twice as much.
    convert: dict[str, Any] = {"format": "rgb24", "threads": 1}
    if request.size:
        convert |= {"height": request.size[0], "width": request.size[1]}
    container: Any
    with av.open(str(request.path), format="mp4") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        ticks = 1 / (stream.average_rate * stream.time_base)  # of the container's clock per frame
        container.seek(round(request.frames[0] * ticks), stream=stream)
        for frame in container.decode(stream):
            number = round((frame.pts or 0) / ticks)
            if number in needed:
                shown[number] = frame.to_ndarray(**convert)
            if number >= request.frames[-1]:
                break
    if needed - shown.keys():
        raise BenchError(f"{request.path}: frame {min(needed - shown.keys())} is not found by seeking")
    return torch.from_numpy(np.stack([shown[number] for number in request.frames]))


def read_torchcodec(request: ClipRequest, device: str = "cpu") -> Tensor:
    """torchcodec, which decodes with FFmpeg on a CPU and with NVDEC on a GPU.

    The files have a constant frame rate, so seek_mode "approximate" gives the same frames as "exact" without scanning
    the file first; docs/decisions/0007-fair-peers.md has the difference in speed.
    """
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    decoder = VideoDecoder(
        str(request.path),
        dimension_order="NHWC",
        num_ffmpeg_threads=1,
        device=device,
        seek_mode="approximate",
        transforms=[Resize(request.size)] if request.size else None,
    )
    frames = decoder.get_frames_at(request.frames).data
    if device != "cpu" and decoder.cpu_fallback:
        raise BenchError(f"torchcodec decodes on the CPU instead: {decoder.cpu_fallback}")
    return frames


def read_spdl(request: ClipRequest) -> Tensor:
    """SPDL; a filter drops the frames that are not needed before the conversion to RGB."""
    import spdl.io

    demuxer = spdl.io.Demuxer(str(request.path))
    num, den = demuxer.video_codec.frame_rate
    window = max(request.frames[0] - 0.5, 0) * den / num, (request.frames[-1] + 0.5) * den / num
    wanted, place = np.unique(request.frames, return_inverse=True)
    chosen = f"st(0,round(t*{num}/{den}));" + "+".join(f"eq(ld(0),{number})" for number in wanted)
    scale = "scale=h={}:w={},".format(*request.size) if request.size else ""
    frames = spdl.io.decode_packets(
        demuxer.demux_video(window), filter_desc=f"select='{chosen}',{scale}format=pix_fmts=rgb24"
    )
    return torch.from_numpy(spdl.io.to_numpy(spdl.io.convert_frames(frames))[place])


# How all cores are kept busy.


def in_threads(config: PeerConfig, *, read: Callable[..., Tensor], on_device: bool = False) -> Generator[Tensor]:
    """A clip per thread, two batches ahead. FFmpeg decodes and converts without the GIL.

    Args:
        read: Reads the whole frames of a request, uint8 RGB [T, height, width, 3].
        on_device: Whether `read` takes the device as an argument, and returns frames there.
    """
    plan, spec, settings = config.plan(), config.settings.clip, config.settings
    shape = (settings.batch_size, spec.num_frames, spec.crop_size, spec.crop_size, 3)
    device, pinned = settings.device if on_device else "cpu", settings.on_gpu and not on_device
    read = partial(read, device=str(device)) if on_device else read
    pool = ThreadPoolExecutor(config.num_workers)

    def start(step: int) -> tuple[Tensor, list[Future[None]]]:
        batch = torch.empty(shape, dtype=torch.uint8, device=device, pin_memory=pinned)

        def fill(n: int, request: ClipRequest) -> None:
            batch[n] = request.cut(read(request))

        return batch, [pool.submit(fill, n, request) for n, request in enumerate(requests(config, plan, step))]

    try:
        underway = deque(start(step) for step in range(BATCHES_AHEAD))
        for step in itertools.count(BATCHES_AHEAD):
            batch, futures = underway.popleft()
            for future in futures:
                future.result()
            underway.append(start(step))
            yield delivered(batch, config)
    finally:
        pool.shutdown(cancel_futures=True)


class PyavBatches(Dataset[Tensor]):
    """Step of the plan -> its batch, uint8 [N, T, H, W, 3]."""

    def __init__(self, config: PeerConfig) -> None:
        self._config, self._plan = config, config.plan()

    def __getitem__(self, step: int) -> Tensor:
        return torch.stack([request.cut(read_pyav(request)) for request in requests(self._config, self._plan, step)])


def pyav_dataloader(config: PeerConfig) -> Generator[Tensor]:
    """torch's DataLoader, a batch per process; the processes pass uint8, because floats need four times the memory."""
    stopped = threading.Event()
    steps: Any = itertools.takewhile(lambda _: not stopped.is_set(), itertools.count())
    received = iter(
        DataLoader(
            PyavBatches(config),
            batch_size=None,
            sampler=steps,
            num_workers=config.num_workers,
            prefetch_factor=BATCHES_AHEAD,
            pin_memory=config.settings.on_gpu,
        )
    )
    try:
        for batch in received:
            yield delivered(batch, config)
    finally:
        stopped.set()
        for _ in received:
            pass  # workers that are stopped in the middle of a batch abort, so let them finish


def spdl_pipeline(config: PeerConfig) -> Generator[Tensor]:
    """SPDL's own pipeline: it reads clips in threads, in order, and joins them to batches."""
    from spdl.pipeline import PipelineBuilder

    plan = config.plan()
    read_spdl(requests(config, plan, 0)[0])  # fails with the cause; the pipeline would only say that a stage failed

    def joined(clips: list[Tensor]) -> Tensor:
        return torch.stack(clips).pin_memory() if config.settings.on_gpu else torch.stack(clips)

    pipeline: Any = (
        PipelineBuilder[ClipRequest, Tensor]()
        .add_source(request for step in itertools.count() for request in requests(config, plan, step))
        .pipe(lambda request: request.cut(read_spdl(request)), concurrency=config.num_workers, output_order="input")
        .aggregate(config.settings.batch_size)
        .pipe(joined)
        .add_sink(BATCHES_AHEAD)
        .build(num_threads=config.num_workers, max_failures=0)
    )
    with pipeline.auto_stop():
        for batch in pipeline:
            yield delivered(batch, config)


def dali_video(config: PeerConfig) -> Generator[Tensor]:
    """DALI's video decoder on the same files: decoders.video, crop_mirror_normalize, DALIGenericIterator.

    It decodes H.264 on a GPU only; on a CPU, the same graph reads MJPEG, VP8 and VP9.
    """
    from nvidia.dali import Pipeline, fn
    from nvidia.dali.plugin.pytorch import DALIGenericIterator
    from nvidia.dali.types import DALIDataType

    plan, settings = config.plan(), config.settings
    side, (height, width) = settings.clip.crop_size, plan.index.tile_size
    scale = plan.spec.scale(plan.index.size)
    down, sideways = (max(round(length * scale) - side, 1) for length in (height, width))

    def inputs(step: int) -> tuple[list[Any], ...]:
        clips = requests(config, plan, step)
        return (
            [np.fromfile(clip.path, np.uint8) for clip in clips],
            [np.array(clip.frames, np.int32) for clip in clips],
            [np.float32(clip.y / down) for clip in clips],
            [np.float32(clip.x / sideways) for clip in clips],
            [np.int32(clip.flip) for clip in clips],
        )

    device_id = (settings.device.index or 0) if settings.on_gpu else None
    pipe = Pipeline(batch_size=settings.batch_size, num_threads=config.num_workers, device_id=device_id)
    with pipe:
        types = [DALIDataType.UINT8, DALIDataType.INT32, DALIDataType.FLOAT, DALIDataType.FLOAT, DALIDataType.INT32]
        video, frames, y, x, flip = fn.external_source(source=inputs, num_outputs=5, dtype=types)
        pictures: Any = fn.decoders.video(video, device="mixed" if settings.on_gpu else "cpu", frames=frames)
        if scale != 1:
            pictures = fn.resize(pictures, size=[round(height * scale), round(width * scale)], antialias=True)
        clips = fn.crop_mirror_normalize(
            pictures,
            crop=[side, side],
            crop_pos_y=y,
            crop_pos_x=x,
            rounding="round",
            mirror=flip,
            mean=[MEAN] * 3,
            std=[1.0] * 3,
            dtype=DALIDataType.FLOAT16 if settings.on_gpu else DALIDataType.FLOAT,
            output_layout="FHWC",
        )
        pipe.set_outputs(clips)
    pipe.build()
    for out in DALIGenericIterator([pipe], ["clips"]):
        yield out[0]["clips"].permute(0, 4, 1, 2, 3)


DECODERS = {  # decoder -> packages on PyPI, any of which has it
    "DALI": ("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
    "simplejpeg": ("simplejpeg",),
    "PyAV": ("av",),
    "SPDL": ("spdl",),
    "torchcodec": ("torchcodec",),
}


@dataclass(frozen=True)
class Peer:
    """A source of batches.

    Attributes:
        source: Importable by name.
        decoder: A key of `DECODERS`.
        workers: Kind of its workers: threads or processes.
        needs_gpu: Whether it can decode H.264 only on a GPU.
    """

    source: BatchSource
    decoder: str
    workers: str = "threads"
    needs_gpu: bool = False

    @property
    def version(self) -> str | None:
        """Version of the decoder; None if it is not installed."""
        return installed(*DECODERS[self.decoder])


OURS = {
    "ours (DALI)": Peer(partial(our_loader, engine="dali"), "DALI"),
    "ours (simple engine)": Peer(partial(our_loader, engine="simple"), "simplejpeg"),
}
PEERS = {
    "SPDL": Peer(spdl_pipeline, "SPDL"),
    "torchcodec": Peer(partial(in_threads, read=read_torchcodec), "torchcodec"),
    "PyAV threads": Peer(partial(in_threads, read=read_pyav), "PyAV"),
    "PyAV DataLoader": Peer(pyav_dataloader, "PyAV", "processes"),
    "torchcodec CUDA": Peer(partial(in_threads, read=read_torchcodec, on_device=True), "torchcodec", needs_gpu=True),
    "DALI video": Peer(dali_video, "DALI", needs_gpu=True),
}


def peers_named(names: str) -> dict[str, Peer]:
    """The peers of a list like "SPDL,torchcodec", in upper or lower case; "all" for all.

    Raises:
        UserError: There is no such peer.

    >>> list(peers_named("pyav threads,SPDL"))
    ['PyAV threads', 'SPDL']
    """
    if names == "all":
        return PEERS
    by_name = {name.lower(): name for name in PEERS}
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name.lower() not in by_name:
            raise UserError(f"peer {name!r} does not exist; choose all, or some of {choices(list(PEERS))}")
    return {by_name[name.lower()]: PEERS[by_name[name.lower()]] for name in chosen}


def files_note(index: ShardIndex) -> str:
    """A sentence on what the peers read."""
    copies = f"H.264 copies (GOP {GOP}, CRF {CRF}, no B-frames)"
    read = copies if index.codec != "h264" else f"the mp4 files of the tars (GOP {index.gop_size}), as ours does"
    return f"peers read {read}; all files are in the page cache"


def make_files(config: PeerConfig, *, report: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Make the H.264 files for the peers.

    Raises:
        BenchError: A sample or a tar is damaged.
    """
    index, samples = open_index(config.settings.data), config.settings.samples.tolist()
    stored = mp4_of_tar if index.codec == "h264" else encoded

    def make(sample: int) -> None:
        try:
            (config.files / f"{index.key(sample)}.mp4").write_bytes(stored(index, sample))
        except (OSError, KeyError, ValueError, tarfile.TarError) as error:
            raise BenchError(f"{index.key(sample)}: {error}; run tools/check_shards.py {index.data_dir}") from None

    with ThreadPoolExecutor(config.num_workers) as pool:
        try:
            for done, _ in enumerate(pool.map(make, samples), start=1):
                report(done, len(samples))
        finally:
            pool.shutdown(cancel_futures=True)


def mp4_of_tar(index: ShardIndex, sample: int) -> bytes:
    """The mp4 of a segment, as stored in the tar of h264 shards."""
    with tarfile.open(index.data_dir / index.tars[int(index.tar[sample])], "r:") as tar:
        return tar.extractfile(f"{index.key(sample)}.mp4").read()  # type: ignore[union-attr]  # plain files


def encoded(index: ShardIndex, sample: int) -> bytes:
    """The stored frames of a segment as an mp4 with closed GOPs and no B-frames, in the stored size."""
    frames, content = decode_frames(index, sample), io.BytesIO()  # [F, tile_height, tile_width, 3]
    gops = {"g": str(GOP), "keyint_min": str(GOP), "sc_threshold": "0", "flags": "+cgop", "bf": "0"}
    size = frames.shape[2], frames.shape[1]
    write_mp4(content, frames, size=size, rate=Fraction(FPS), options={"crf": str(CRF), "threads": "1"} | gops)
    return content.getvalue()
