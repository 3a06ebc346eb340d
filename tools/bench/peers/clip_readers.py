"""How a peer reads one planned clip from the H.264 file of its segment, a library a function.

Every reader takes (contest, plan, clips, n) and gives clip `n` of the planned ones, cropped and flipped: uint8
[T, H, W, 3] RGB. It opens the file for every clip, for a real dataset has more files than can be kept open.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from pipeline.clip import frame_indices
from pipeline.plan import PlannedClips, TrainPlan
from pipeline.step_reader import ReadWork
from tools.bench.measure import BenchError
from tools.bench.peers.contest import Contest, content_scale
from tools.bench.peers.copies import copy_path

ClipReader = Callable[[Contest, TrainPlan, PlannedClips, int], Tensor]


def pyav_clip(contest: Contest, plan: TrainPlan, clips: PlannedClips, n: int) -> Tensor:
    """By PyAV: seek to the keyframe before the clip and decode to its last frame."""
    frames, _, _ = pyav_pictures(contest, plan, clips, n)
    return cropped(torch.from_numpy(frames), plan, clips, n)


def torchcodec_clip(contest: Contest, plan: TrainPlan, clips: PlannedClips, n: int) -> Tensor:
    """By torchcodec, on the CPU."""
    return cropped(torchcodec_pictures(contest, plan, clips, n, device="cpu"), plan, clips, n)


def torchcodec_cuda_clip(contest: Contest, plan: TrainPlan, clips: PlannedClips, n: int) -> Tensor:
    """By torchcodec, decoded by NVDEC; it lies on the contest's CUDA device."""
    return cropped(torchcodec_pictures(contest, plan, clips, n, device=contest.device), plan, clips, n)


def place_of(contest: Contest, plan: TrainPlan, clips: PlannedClips, n: int) -> tuple[Path, np.ndarray]:
    """The file that clip `n` is in, and the frames of it: int64 [T], never decreasing."""
    index, sample = plan.index, int(clips.sample[n])
    wanted = frame_indices(int(clips.start[n]), plan.stored_spec, video_frames=int(index.num_frames[sample]))
    return copy_path(contest.copies, index, sample), wanted


def cropped(frames: Tensor, plan: TrainPlan, clips: PlannedClips, n: int) -> Tensor:
    """The clip in whole pictures [T, height, width, 3], cropped and flipped as planned."""
    scale = content_scale(plan.spec, plan.index)
    x, y = (round(int(edge) * scale) for edge in plan.index.content[int(clips.sample[n]), :2])
    x, y = x + int(clips.left[n]), y + int(clips.top[n])
    clip = frames[:, y : y + plan.spec.crop_size, x : x + plan.spec.crop_size]
    return clip.flip(2) if clips.flip[n] else clip


def pyav_pictures(contest: Contest, plan: TrainPlan, clips: PlannedClips, n: int) -> tuple[np.ndarray, int, int]:
    """Whole pictures of clip `n`, resized if the plan says so, and the numbers of decoded frames and of bytes."""
    path, wanted = place_of(contest, plan, clips, n)
    height, width = contest.picture_size(plan.index)
    with av.open(str(path), format="mp4") as container:
        try:
            return read_frames(container, wanted, width=width, height=height)
        except LookupError as error:
            raise BenchError(f"{path}: {error}; remove the file") from None


def read_frames(container: Any, wanted: np.ndarray, *, width: int, height: int) -> tuple[np.ndarray, int, int]:
    """Seek to the keyframe before the first wanted frame and decode to the last.

    Args:
        container: PyAV's, open.
        wanted: int64 [T], frame numbers, never decreasing.
        width, height: To scale frames to, pixels.

    Returns:
        uint8 [T, height, width, 3] RGB; frames decoded; bytes of the packets that held them.

    Raises:
        LookupError: Seeking did not lead to a wanted frame.
    """
    needed, last = set(wanted.tolist()), int(wanted[-1])
    # One thread for each conversion: by default every frame starts several, and a clip costs twice as much.
    convert: dict[str, Any] = {"format": "rgb24", "width": width, "height": height, "threads": 1}
    shown: dict[int, np.ndarray] = {}
    num_decoded = num_bytes = 0
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    ticks = 1 / (stream.average_rate * stream.time_base)  # of the container's clock to a frame; the rate is constant
    container.seek(round(int(wanted[0]) * ticks), stream=stream)
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
        raise LookupError(f"frame {min(missing)} is not found by seeking")
    return np.stack([shown[number] for number in wanted.tolist()]), num_decoded, num_bytes


def pyav_cost(contest: Contest, steps: range) -> ReadWork:
    """What PyAV reads and decodes for some steps, counted while it does."""
    plan, total = contest.plan(), ReadWork()
    for step in steps:
        clips = plan.batch(step)
        for n in range(len(clips)):
            frames, num_decoded, num_bytes = pyav_pictures(contest, plan, clips, n)
            total += ReadWork(1, len(frames), num_decoded, num_decoded, num_bytes)
    return total


def torchcodec_pictures(contest: Contest, plan: TrainPlan, clips: PlannedClips, n: int, *, device: str) -> Tensor:
    """Whole pictures of clip `n`, resized if the plan says so: uint8 [T, height, width, 3] on `device`.

    The files have a constant frame rate, so seek_mode "approximate" gives the frames of "exact" and does not scan the
    file first; docs/decisions/0007-fair-peers.md has the difference.

    Raises:
        BenchError: A GPU was asked for and the CPU decoded.
    """
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    path, wanted = place_of(contest, plan, clips, n)
    resized = content_scale(plan.spec, plan.index) != 1
    decoder = VideoDecoder(
        str(path),
        dimension_order="NHWC",
        num_ffmpeg_threads=1,
        device=device,
        seek_mode="approximate",
        transforms=[Resize(contest.picture_size(plan.index))] if resized else None,
    )
    frames = decoder.get_frames_at(wanted.tolist()).data
    if device != "cpu" and decoder.cpu_fallback:
        raise BenchError(f"torchcodec decodes on the CPU instead: {decoder.cpu_fallback}")
    return frames


def torchcodec_missing() -> str | None:
    """Why torchcodec cannot decode here, one line; None when it can."""
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(torch.zeros(1, dtype=torch.uint8))  # loads FFmpeg, where the import has not done so
    except ModuleNotFoundError:
        return "torchcodec is not installed; pip install torchcodec, and FFmpeg 4 to 8 with its shared libraries"
    except (ImportError, OSError, RuntimeError) as error:
        return torchcodec_way_out(f"{error} {error.__cause__}", cuda_torch=torch.version.cuda is not None)
    return None


def torchcodec_way_out(message: str, *, cuda_torch: bool) -> str | None:
    """What to do about torchcodec's error, which may have a hundred lines; None if its libraries did load.

    >>> torchcodec_way_out("Failed to open input buffer: Invalid data found", cuda_torch=False)
    >>> torchcodec_way_out("Could not load libtorchcodec. Likely causes: …", cuda_torch=True)
    'torchcodec does not load; install FFmpeg 4 to 8 with its shared libraries: apt-get install ffmpeg'
    """
    if "ould not load" not in message:
        return None
    if not cuda_torch and any(name in message for name in ("libnvrtc", "_cuda.so")):
        return (
            "torchcodec is built for CUDA and this torch is not; pip install torchcodec==0.13.0, "
            "the last one on PyPI for the CPU, or a newer one from PyTorch's own index of CPU wheels"
        )
    return "torchcodec does not load; install FFmpeg 4 to 8 with its shared libraries: apt-get install ffmpeg"
