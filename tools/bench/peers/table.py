"""The peers of our loader, one row each: how it is opened, checked, tuned and counted, and when it is missing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.errors import UserError
from pipeline.shard import choices
from pipeline.step_reader import ReadWork
from tools.bench.measure import Way
from tools.bench.peers.clip_readers import (
    ClipReader,
    pyav_clip,
    pyav_cost,
    torchcodec_clip,
    torchcodec_cuda_clip,
    torchcodec_missing,
)
from tools.bench.peers.contest import Contest
from tools.bench.peers.pools import in_dataloader, in_threads
from tools.bench.peers.streams import dali_video, webdataset_cost, webdataset_pyav


@dataclass(frozen=True)
class Peer:
    """Another way to read clips.

    Attributes:
        way: Opens with a `Contest` and gives endless batches [N, 3, T, H, W], the mean subtracted.
        read: How it reads one planned clip; None for a peer that draws its own.
        cost: What some steps read and decode; None where the library does not tell.
        workers: What `num_workers` is, for people.
        tuned: What else was chosen for it.
        missing: Why it cannot run here, one line, or None.
    """

    name: str
    way: Way
    read: ClipReader | None
    cost: Callable[[Contest, range], ReadWork] | None
    workers: str
    tuned: str
    missing: Callable[[Contest], str | None] = lambda contest: None


def worker_choices(num_cpus: int) -> tuple[int, ...]:
    """Numbers of workers that a peer is tried with: as many as CPUs, and half as many more to fill the gaps.

    >>> worker_choices(2), worker_choices(16), worker_choices(1)
    ((2, 3), (16, 24), (1, 2))
    """
    return num_cpus, num_cpus + -(-num_cpus // 2)


def torchcodec_cuda_missing(contest: Contest) -> str | None:
    """NVDEC needs a GPU."""
    return torchcodec_missing() if contest.on_gpu else "decodes on a GPU, and this run is on the CPU"


def dali_missing(contest: Contest) -> str | None:
    """DALI's CPU decoder knows no H.264."""
    return None if contest.on_gpu else "decodes H.264 on a GPU only; on a CPU DALI knows VP8, VP9 and MJPEG"


OPENED = "a file opened for each clip, one decoder thread a file"
PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="PyAV threads",
            way=partial(in_threads, pyav_clip),
            read=pyav_clip,
            cost=pyav_cost,
            workers="threads",
            tuned=f"{OPENED}, one thread for its conversion to RGB, a clip a thread, 2 batches ahead",
        ),
        Peer(
            name="PyAV DataLoader",
            way=partial(in_dataloader, pyav_clip),
            read=pyav_clip,
            cost=pyav_cost,
            workers="processes",
            tuned=f"{OPENED}, one thread for its conversion to RGB, a batch a process, 2 batches ahead each",
        ),
        Peer(
            name="torchcodec DataLoader",
            way=partial(in_dataloader, torchcodec_clip),
            read=torchcodec_clip,
            cost=None,
            workers="processes",
            tuned=f"{OPENED}, seek_mode approximate, a batch a process, 2 batches ahead each",
            missing=lambda contest: torchcodec_missing(),
        ),
        Peer(
            name="torchcodec threads",
            way=partial(in_threads, torchcodec_clip),
            read=torchcodec_clip,
            cost=None,
            workers="threads",
            tuned=f"{OPENED}, seek_mode approximate, a clip a thread, 2 batches ahead",
            missing=lambda contest: torchcodec_missing(),
        ),
        Peer(
            name="torchcodec CUDA",
            way=partial(in_threads, torchcodec_cuda_clip, decodes_on_gpu=True),
            read=torchcodec_cuda_clip,
            cost=None,
            workers="threads",
            tuned="a file opened for each clip, NVDEC, seek_mode approximate, a clip a thread, 2 batches ahead",
            missing=torchcodec_cuda_missing,
        ),
        Peer(
            name="webdataset PyAV",
            way=webdataset_pyav,
            read=None,
            cost=webdataset_cost,
            workers="processes",
            tuned="one tar, shuffled in a buffer of 256 samples a process, PyAV as above, a batch a process; "
            "draws its own clips",
        ),
        Peer(
            name="DALI video",
            way=dali_video,
            read=None,
            cost=None,
            workers="threads",
            tuned="readers.webdataset, decoders.video with start_frame, sequence_length and stride, otherwise DALI's "
            "defaults; draws its own clips",
            missing=dali_missing,
        ),
    )
}


def peers_named(names: str) -> list[Peer]:
    """The peers of a command line: all, or names with commas, in any case.

    Raises:
        ValueError: There is no such peer.

    >>> [peer.name for peer in peers_named("pyav threads,DALI video")]
    ['PyAV threads', 'DALI video']
    """
    if names == "all":
        return list(PEERS.values())
    by_name = {name.lower(): peer for name, peer in PEERS.items()}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name.lower() not in by_name:
            raise UserError(f"peer {name!r} does not exist; choose all, or with commas {choices(list(PEERS))}")
    return [by_name[name.lower()] for name in wanted]
