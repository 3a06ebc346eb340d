"""Compares our loader with its peers on the same clips, each in a process of its own, in alternating rounds."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from res3d_video.pipeline.index import open_index
from res3d_video.pipeline.loader import MEAN
from res3d_video.tools.bench.lanes import warmup_batches
from res3d_video.tools.bench.measure import (
    BenchError,
    Child,
    Measurement,
    Order,
    ProcessTree,
    Spread,
    measure,
    schedule,
    settle,
)
from res3d_video.tools.bench.peers import (
    BATCHES_AHEAD,
    OURS,
    Peer,
    PeerConfig,
    files_note,
    make_files,
    peers_named,
)
from res3d_video.train.terminal import progress, text_table

MIN_PSNR_DB = 25.0  # of the same frames in two lossy codecs; other frames of a moving scene have less
CHECKED_CLIPS = 4  # of the first batch
ANSWER_TIMEOUT_S = 300.0  # beyond the seconds of a round
FIRST_CLIPS = "first clips"  # a request


@dataclass
class Row:
    """A source of batches and its rounds.

    Attributes:
        decoder: The decoder, its version, and what it decodes.
        workers: Number and kind of workers, such as "2 threads".
    """

    name: str
    decoder: str
    workers: str
    rounds: list[Measurement] = field(default_factory=list)

    @property
    def clips_per_s(self) -> Spread:
        return Spread.of([one.clips_per_s for one in self.rounds])

    def summary(self) -> dict[str, Any]:
        """The row in the JSON file."""
        return {
            "decoder": self.decoder,
            "workers": self.workers,
            "clips_per_s": asdict(self.clips_per_s),
            "cores": asdict(Spread.of([one.cores for one in self.rounds])),
            "rounds": [asdict(one) for one in self.rounds],
        }


@dataclass
class Comparison:
    """The result.

    Attributes:
        ours: A row for each engine of our loader; the first is the one that others are compared with.
        peers: A row for each peer that ran to the end.
        absent: Name of a peer that has no row -> why.
        read: A sentence on what the peers read.
    """

    ours: list[Row] = field(default_factory=list)
    peers: list[Row] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    read: str = ""

    def report(self) -> list[str]:
        """A table, ours first and then the peers by speed; the peers that did not run; and the result in a line."""
        ours, peers = self.ours[0], sorted(self.peers, key=lambda row: -row.clips_per_s.median)
        rate = ours.clips_per_s.median
        rows = [
            [row.name, row.decoder, row.workers, str(row.clips_per_s), f"{rate / row.clips_per_s.median:.2f}"]
            for row in [*self.ours, *peers]
        ]
        last = f"{ours.name} gives {rate:.0f} clips/s"
        if peers:
            fastest = peers[0].clips_per_s.median
            last += (
                f", {rate / fastest:.2f} times the {fastest:.0f} of {peers[0].name}, the fastest of {len(peers)} peers"
            )
        absent = [f"{name} did not run: {reason}" for name, reason in self.absent.items()]
        return ["", *text_table(["", "decoder", "workers", "clips/s", "ours/it"], rows), "", *absent, self.read, last]

    def summary(self) -> dict[str, Any]:
        """The value of `peers` in the JSON file."""
        return {
            "ours": {row.name: row.summary() for row in self.ours},
            "peers": {row.name: row.summary() for row in self.peers},
            "did_not_run": self.absent,
            "read": self.read,
        }


def compare(config: PeerConfig, *, names: str, quiet: bool) -> Comparison:
    """Make the peers' files, open every source in a process of its own, compare its clips with ours, then measure.

    A peer that is not installed, gives other clips than ours, or fails, becomes a line of the result.

    Args:
        names: "all", or a list like "SPDL,torchcodec".

    Raises:
        BenchError: Our own loader fails, or the files cannot be made.
        UserError: There is no such peer.
    """
    candidates, settings = OURS | peers_named(names), config.settings
    found = Comparison(read=files_note(open_index(settings.data)))
    for name, peer in candidates.items():
        if peer.version is None:
            found.absent[name] = 'not installed; pip install "res3d-video[peers]"'
        elif peer.needs_gpu and not settings.on_gpu:
            found.absent[name] = "needs a GPU to decode H.264"
    candidates = {name: peer for name, peer in candidates.items() if name not in found.absent}
    if candidates.keys() - OURS:
        with progress("H.264 files", unit="segments", quiet=quiet) as tell:
            make_files(config, report=tell)
    sources: dict[str, tuple[Row, Child, Order]] = {}
    with ExitStack() as stack:
        expected: np.ndarray | None = None
        with progress("opening", unit="sources", quiet=quiet) as tell:
            for name, peer in candidates.items():
                child = stack.enter_context(Child(name, opened, peer, config))
                with noting_failure(name, child, found):
                    clips = child.ask(FIRST_CLIPS, timeout_s=ANSWER_TIMEOUT_S)
                    expected = clips if expected is None else expected
                    check_same(expected, clips)
                    sources[name] = row_of(name, peer, config), child, warmed(name, config)
                tell(len(sources), len(candidates), name)
        with progress("measuring", unit="rounds", quiet=quiet) as tell:
            for repeat, name in schedule(list(sources), repeats=settings.repeats):
                if name in found.absent:
                    continue
                row, child, order = sources[name]
                settle(ProcessTree().cpu_s)  # until then, other sources still fill their queues
                with noting_failure(name, child, found):
                    row.rounds.append(child.ask(order, timeout_s=ANSWER_TIMEOUT_S + (order.seconds or 0)))
                    tell(repeat + 1, settings.repeats, f"{name} {row.rounds[-1].clips_per_s:.0f} clips/s")
    ran = [row for name, (row, _, _) in sources.items() if name not in found.absent]
    found.ours, found.peers = [r for r in ran if r.name in OURS], [r for r in ran if r.name not in OURS]
    return found


@contextmanager
def noting_failure(name: str, child: Child, found: Comparison) -> Iterator[None]:
    """If a peer fails in the block, note it as absent and end its process; a failure of our own loader is an error."""
    try:
        yield
    except BenchError as error:
        if name in OURS:
            raise BenchError(f"{name}: {error}") from None
        found.absent[name] = str(error)
        child.close()


def check_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Compare clips by PSNR, float [n, 3, T, H, W] from 0 to 255; raises BenchError if they are not the same."""
    if ours.shape != theirs.shape:
        raise BenchError(f"its clips are not ours (shape {theirs.shape}, not {ours.shape})")
    error = ((ours - theirs) ** 2).mean(axis=(1, 2, 3, 4)).max()
    psnr = 10 * np.log10(255**2 / max(error, 1e-9))
    if psnr < MIN_PSNR_DB:
        raise BenchError(f"its clips are not ours (PSNR {psnr:.1f} dB, must be >= {MIN_PSNR_DB:.0f})")


def row_of(name: str, peer: Peer, config: PeerConfig) -> Row:
    """The row of a source, still without rounds."""
    if name not in OURS:
        return Row(name, f"{peer.decoder} {peer.version}, H.264", f"{config.num_workers} {peer.workers}")
    stored = open_index(config.settings.data).codec
    if stored == "h264" and not config.settings.on_gpu:
        peer = replace(peer, decoder="PyAV")  # both engines use it
    decoder = f"{peer.decoder} {peer.version}, {'JPEG' if stored == 'filmstrip' else 'H.264'}"
    return Row(name, decoder, f"{config.settings.loader.num_threads} threads")


def warmed(name: str, config: PeerConfig) -> Order:
    """How long to measure, with a warm-up of one batch more than can be ready."""
    settings, ready = config.settings, BATCHES_AHEAD * config.num_workers + 1
    if name in OURS:
        ready = warmup_batches(settings.loader, codec=open_index(settings.data).codec, on_gpu=settings.on_gpu)
    return replace(settings.order, warmup_batches=ready)


@contextmanager
def opened(peer: Peer, config: PeerConfig) -> Iterator[Callable[[Order | str], Measurement | np.ndarray]]:
    """A source in its process: measures an `Order`, or gives its first clips, 0 to 255."""
    torch.set_num_threads(1)  # torch only copies here, and its pool would take the cores of the decoders

    def finish() -> None:
        if config.settings.on_gpu:
            torch.cuda.synchronize(config.settings.device)  # sync: the clips counted must be there

    with closing(peer.source(config)) as batches:

        def answer(request: Order | str) -> Measurement | np.ndarray:
            if isinstance(request, Order):
                return measure(lambda: len(next(batches)), request, finish=finish)
            return next(batches)[:CHECKED_CLIPS].float().cpu().numpy() + np.float32(MEAN)

        yield answer
