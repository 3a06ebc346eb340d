"""Our loader and its peers on the same clips, each in a process of its own, in rounds; and what that comes to."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from res3d_video.pipeline.errors import kind_and_line, one_line
from res3d_video.pipeline.index import open_index
from res3d_video.pipeline.loader import MEAN
from res3d_video.tools.bench.lanes import loader_cost, warmup_batches
from res3d_video.tools.bench.machine import markdown, table
from res3d_video.tools.bench.measure import (
    BatchSource,
    BenchError,
    Child,
    Measurement,
    Order,
    ProcessTree,
    Spread,
    measure,
    turns_of,
    wait_until_idle,
)
from res3d_video.tools.bench.peers import (
    BATCHES_AHEAD,
    OURS,
    Peer,
    PeerConfig,
    files_note,
    make_files,
    peers_named,
    requests,
)
from res3d_video.train.terminal import progress

MIN_PSNR_DB = 25.0  # two lossy codecs apart; another frame of a moving scene is below it
MAX_PSNR_DB = 99.0  # every pixel the same
CHECKED_CLIPS = 4  # of the first batch
COUNTED_STEPS = 4
IDLE_CORES, IDLE_WINDOW_S, IDLE_TIMEOUT_S = 0.05, 0.1, 15.0
ANSWER_TIMEOUT_S = 300.0  # beyond the seconds of a round
NO_FFMPEG = ("Could not load libtorchcodec", "Failed to import libspdl")


@dataclass
class Row:
    """A source of batches and everything measured of it.

    Attributes:
        decoder: With its version and what it decodes.
        workers: Their number and kind.
        decoded_to_used: None where the library does not say.
        bytes_per_clip: Read for a clip; None until it is measured, or where the system does not say.
    """

    name: str
    decoder: str
    workers: str
    decoded_to_used: float | None = None
    bytes_per_clip: float | None = None
    rounds: list[Measurement] = field(default_factory=list)

    @property
    def clips_per_s(self) -> Spread:
        return Spread.of([one.clips_per_s for one in self.rounds])

    def summary(self) -> dict[str, Any]:
        """For JSON; bytes and seconds."""
        return {
            "decoder": self.decoder,
            "workers": self.workers,
            "clips_per_s": asdict(self.clips_per_s),
            "cores": asdict(Spread.of([one.cores for one in self.rounds])),
            "bytes_per_clip": self.bytes_per_clip,
            "decoded_to_used": self.decoded_to_used,
            "rounds": [asdict(one) | {"clips_per_s": one.clips_per_s, "cores": one.cores} for one in self.rounds],
        }


HEADER = ["", "decoder", "workers", "clips/s", "ours/it", "kB/clip", "decoded/used"]


@dataclass
class Comparison:
    """What was found.

    Attributes:
        ours: Our loader, an engine a row; the first is what others are compared to.
        peers: Those that ran to the end.
        absent: Name -> why it has no row.
        psnr: Name -> the lowest PSNR of its first clips against ours, dB.
        read: What the peers read, for people.
    """

    ours: list[Row] = field(default_factory=list)
    peers: list[Row] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    psnr: dict[str, float] = field(default_factory=dict)
    read: str = ""

    @property
    def fastest(self) -> Row | None:
        """Of the peers, by the median."""
        return max(self.peers, key=lambda row: row.clips_per_s.median, default=None)

    @property
    def ratio(self) -> float | None:
        """Our median to that of the fastest peer."""
        return self.ratio_to(self.fastest) if self.fastest else None

    def ratio_to(self, row: Row) -> float:
        """Our median to that of a row."""
        return self.ours[0].clips_per_s.median / row.clips_per_s.median

    def cells(self) -> list[list[str]]:
        """Of the table: ours, then the peers from the fastest on."""
        return [
            [
                row.name,
                row.decoder,
                row.workers,
                str(row.clips_per_s),
                "" if row is self.ours[0] else f"{self.ratio_to(row):.2f}",
                "–" if row.bytes_per_clip is None else f"{row.bytes_per_clip / 1000:.1f}",
                "–" if row.decoded_to_used is None else f"{row.decoded_to_used:.2f}",
            ]
            for row in [*self.ours, *sorted(self.peers, key=lambda row: -row.clips_per_s.median)]
        ]

    def notes(self) -> list[str]:
        """What the table does not say; those that did not run for the same reason are one line."""
        reasons = {
            reason: ", ".join(name for name, own in self.absent.items() if own == reason)
            for reason in self.absent.values()
        }
        checked = ", ".join(f"{name} {psnr_text(psnr)}" for name, psnr in self.psnr.items())
        return [
            *(f"{names} did not run: {reason}" for reason, names in reasons.items()),
            *([f"the same frames and crops as {self.ours[0].name}, lowest PSNR: {checked}"] if checked else []),
            self.read,
        ]

    def sentence(self) -> str:
        """The result in a line."""
        ours = self.ours[0]
        text = f"{ours.name} gives {ours.clips_per_s.median:.0f} clips/s"
        if self.fastest is None:
            return text
        return (
            f"{text}, {self.ratio:.2f} times the {self.fastest.clips_per_s.median:.0f} of {self.fastest.name}, "
            f"the fastest of {len(self.peers)} peers"
        )

    def table(self) -> list[str]:
        """Lines for a console."""
        return ["", *table(HEADER, self.cells()), "", *self.notes()]

    def markdown(self) -> list[str]:
        """Lines for a page."""
        return [*markdown(HEADER, self.cells()), "", *(f"- {note}" for note in self.notes())]

    def summary(self) -> dict[str, Any]:
        """For JSON, every round included."""
        return {
            "ours": {row.name: row.summary() for row in self.ours},
            "peers": {row.name: row.summary() for row in self.peers},
            "did_not_run": self.absent,
            "psnr_db": self.psnr,
            "read": self.read,
            "fastest_peer": self.fastest and self.fastest.name,
            "ratio": self.ratio,
            "sentence": self.sentence(),
        }


def psnr_text(psnr: float) -> str:
    """
    >>> psnr_text(31.26), psnr_text(MAX_PSNR_DB)
    ('31.3 dB', 'every pixel the same')
    """
    return f"{psnr:.1f} dB" if psnr < MAX_PSNR_DB else "every pixel the same"


def compare(config: PeerConfig, order: Order, *, names: str, repeats: int, quiet: bool) -> Comparison:
    """Make the peers' files, open every source in a process of its own, compare its clips with ours, then measure.

    A peer that is missing, gives other clips than ours or fails on the way becomes a line of the result.

    Args:
        names: "all", or peers with commas.

    Raises:
        BenchError: Our own loader fails, or the files cannot be made.
        UserError: There is no such peer.
    """
    candidates = OURS | peers_named(names)
    found = Comparison(read=files_note(open_index(config.data_dir)))
    found.absent = {name: reason for name, peer in candidates.items() if (reason := why_absent(peer, config))}
    candidates = {name: peer for name, peer in candidates.items() if name not in found.absent}
    if candidates.keys() - OURS:
        with progress("H.264 files", unit="segments", quiet=quiet) as tell:
            make_files(config, report=tell)
    rows: dict[str, Row] = {}
    with ExitStack() as stack:
        processes: dict[str, Child] = {}
        expected: np.ndarray | None = None
        with progress("opening", unit="sources", quiet=quiet) as tell:
            for name, peer in candidates.items():
                child = stack.enter_context(Child(name, serve, peer.source, config))
                with noting_failure(name, child, found):
                    clips = child.receive(timeout_s=ANSWER_TIMEOUT_S)
                    expected = clips if expected is None else expected
                    if name not in OURS:
                        found.psnr[name] = checked_psnr(expected, clips)
                    rows[name], processes[name] = row_of(name, peer, config), child
                tell(len(rows), len(candidates), name)
        lanes = list(processes)
        with progress("measuring", unit="rounds", quiet=quiet) as tell:
            for repeat, name in turns_of(lanes, repeats=repeats):
                if name in found.absent:
                    continue
                # Nobody works ahead any more, for full queues of one are made at the expense of another.
                wait_until_idle(ProcessTree().cpu_s, cores=IDLE_CORES, window_s=IDLE_WINDOW_S, timeout_s=IDLE_TIMEOUT_S)
                with noting_failure(name, processes[name], found):
                    timeout_s = ANSWER_TIMEOUT_S + (order.seconds or 0)
                    rows[name].rounds.append(processes[name].ask(warmed(order, name, config), timeout_s=timeout_s))
                    tell(repeat + 1, repeats, f"{name} {rows[name].rounds[-1].clips_per_s:.0f} clips/s")
    ran = [row for name, row in rows.items() if name not in found.absent]
    for row in ran:
        read, clips = [one.read_bytes for one in row.rounds], sum(one.num_clips for one in row.rounds)
        if row.bytes_per_clip is None and None not in read:
            row.bytes_per_clip = sum(filter(None, read)) / clips
    found.ours, found.peers = [r for r in ran if r.name in OURS], [r for r in ran if r.name not in OURS]
    return found


def why_absent(peer: Peer, config: PeerConfig) -> str | None:
    """Why a peer cannot run here, one line; None where nothing is known against it."""
    if peer.version is None:
        return 'not installed; pip install "res3d-video[peers]"'
    return "needs a GPU to decode H.264" if peer.needs_gpu and not config.on_gpu else None


@contextmanager
def noting_failure(name: str, child: Child, found: Comparison) -> Iterator[None]:
    """A peer that fails is noted as absent, with the reason, and its process ended; our own loader must not fail."""
    try:
        yield
    except BenchError as error:
        if name in OURS:
            raise BenchError(f"{name}: {error}") from None
        found.absent[name] = str(error)
        child.close()


def checked_psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The lowest PSNR of some clips against ours, dB.

    Args:
        ours, theirs: float [n, 3, T, H, W], 0 to 255.

    Raises:
        BenchError: They are other clips.
    """
    if ours.shape != theirs.shape:
        raise BenchError(f"its clips are not ours (shape {theirs.shape}, not {ours.shape})")
    error = float(((ours - theirs) ** 2).mean(axis=(1, 2, 3, 4)).max())
    psnr = min(10 * np.log10(255**2 / error), MAX_PSNR_DB) if error else MAX_PSNR_DB
    if psnr < MIN_PSNR_DB:
        raise BenchError(f"its clips are not ours (PSNR {psnr:.1f} dB, must be >= {MIN_PSNR_DB:.0f})")
    return psnr


def row_of(name: str, peer: Peer, config: PeerConfig) -> Row:
    """The row of a source before its rounds, with what some of its clips cost."""
    plan, steps = config.plan(), range(COUNTED_STEPS)
    if name in OURS:
        cost, stored = loader_cost(plan, steps=steps), plan.index.codec
        if stored == "h264" and not config.on_gpu:
            peer = replace(peer, decoder="PyAV")  # of every engine
        decoder = f"{peer.decoder} {peer.version}, {'JPEG' if stored == 'filmstrip' else 'H.264'}"
        return Row(name, decoder, f"{config.loader.num_threads} threads", cost.decoded_to_used, cost.bytes_per_clip)
    row = Row(name, f"{peer.decoder} {peer.version}, H.264", f"{config.num_workers} {peer.workers}")
    if peer.num_decoded:
        clips = [clip for step in steps for clip in requests(config, plan, step)]
        row.decoded_to_used = sum(map(peer.num_decoded, clips)) / sum(len(clip.frames) for clip in clips)
    return row


def warmed(order: Order, name: str, config: PeerConfig) -> Order:
    """The order with more batches of warm-up than can wait ready."""
    ready = BATCHES_AHEAD * config.num_workers + 1
    if name in OURS:
        ready = warmup_batches(config.loader, codec=open_index(config.data_dir).codec, on_gpu=config.on_gpu)
    return replace(order, warmup_batches=max(order.warmup_batches, ready))


def serve(connection: Connection, source: BatchSource, config: PeerConfig) -> None:
    """A source's process: send its first clips, 0 to 255, then measure on request until told to stop or left alone."""
    torch.set_num_threads(1)  # torch only copies here, and its pool would take the cores of the decoders

    def finish() -> None:
        if config.on_gpu:
            torch.cuda.synchronize(config.device)  # sync: the clips counted must be there

    try:
        with closing(source(config)) as batches:
            connection.send(next(batches)[:CHECKED_CLIPS].float().cpu().numpy() + np.float32(MEAN))
            while (order := connection.recv()) is not None:
                connection.send(measure(batches, order, finish=finish))
    except EOFError:
        return  # the parent is gone
    except Exception as error:  # whatever a peer's library raises is a line of the result
        connection.send(BenchError(reason(error)))


def reason(error: Exception) -> str:
    """An error's kind and what it says, or the way out where a library does not find FFmpeg.

    >>> reason(RuntimeError("first\\nsecond"))
    'RuntimeError: first second'
    """
    if any(words in f"{error} {error.__cause__}" for words in NO_FFMPEG):
        return (
            "it finds no FFmpeg that it can load; apt-get install ffmpeg, and where torch has no CUDA "
            'pip install "torchcodec<0.14"'
        )
    return one_line(error) if isinstance(error, BenchError) else kind_and_line(error)
