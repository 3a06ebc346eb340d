"""Our loader and its peers take turns on the same clips: files are made, peers checked and tuned, then measured."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.loader import MEAN
from pipeline.shard import ShardIndex
from pipeline.step_reader import ReadWork
from tools.bench.machine import markdown, table
from tools.bench.measure import BenchError, Measurement, Order, ProcessTree, Spread, wait_until_idle
from tools.bench.ours import NAMES
from tools.bench.peers.contest import Contest, our_cost, our_loader, our_warmup
from tools.bench.peers.copies import copies_note, make_copies, make_tar
from tools.bench.peers.pools import BATCHES_AHEAD
from tools.bench.peers.table import Peer, peers_named, worker_choices
from tools.bench.process import MeasuredProcess
from tools.bench.turns import turns_of
from train.terminal import progress

MIN_PSNR_DB = 25.0  # two lossy codecs apart; another frame of a moving scene is below it
LEAST_ERROR = 1e-9  # squared, for pixels that are the very same
COST_STEPS = 4
TRIALS, TRIAL_SECONDS = 2, 3.0  # of each number of workers, before the fastest is taken
IDLE_CORES, IDLE_WINDOW_S, IDLE_TIMEOUT_S = 0.05, 0.1, 15.0


@dataclass
class Lane:
    """A way and everything measured of it.

    Attributes:
        setting: How many workers it has, for people.
        tuned: What else was chosen for it, for people.
        cost: None where the library does not tell.
    """

    name: str
    setting: str
    tuned: str
    cost: ReadWork | None
    turns: list[Measurement] = field(default_factory=list)

    @property
    def clips_per_s(self) -> Spread:
        return Spread.of([turn.clips_per_s for turn in self.turns])

    @property
    def cores(self) -> Spread:
        return Spread.of([turn.cores for turn in self.turns])

    @property
    def own_bytes(self) -> int:
        """The most memory of its own that its process and their children held."""
        return max(memory.own for turn in self.turns for memory in turn.memory)

    def summary(self) -> dict[str, Any]:
        """For JSON; bytes and seconds."""
        return {
            "setting": self.setting,
            "tuned": self.tuned,
            "clips_per_s": asdict(self.clips_per_s),
            "cores": asdict(self.cores),
            "decoded_to_used": self.cost and self.cost.decoded_to_used,
            "bytes_per_clip": self.cost and self.cost.bytes_per_clip,
            "own_bytes": self.own_bytes,
            "turns": [asdict(turn) | {"clips_per_s": turn.clips_per_s, "cores": turn.cores} for turn in self.turns],
        }


@dataclass
class Comparison:
    """What a comparison found.

    Attributes:
        peers: Those that ran to the end.
        absent: Peer -> why it has no number.
        trials: Peer -> number of workers -> clips/s, by which the number was chosen.
        psnr: Peer -> the lowest PSNR of its clips against ours, dB; only peers that follow the plan.
        read: What the peers read, for people.
    """

    ours: Lane
    peers: list[Lane] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    trials: dict[str, dict[int, Spread]] = field(default_factory=dict)
    psnr: dict[str, float] = field(default_factory=dict)
    read: str = ""

    @property
    def lanes(self) -> dict[str, Spread | str]:
        """Each peer's clips/s, or why it has none."""
        return {lane.name: lane.clips_per_s for lane in self.peers} | self.absent

    @property
    def fastest(self) -> Lane | None:
        """Of the peers, by the median."""
        return max(self.peers, key=lambda lane: lane.clips_per_s.median, default=None)

    @property
    def ratio(self) -> float | None:
        """Our median to that of the fastest peer."""
        return self.ours.clips_per_s.median / self.fastest.clips_per_s.median if self.fastest else None

    def rows(self) -> list[list[str]]:
        """The table's: our lane, the peers from the fastest on, those without a number."""
        by_speed = sorted(self.peers, key=lambda lane: -lane.clips_per_s.median)
        ours = self.ours.clips_per_s.median
        measured = [
            [
                lane.name,
                lane.setting,
                str(lane.clips_per_s),
                "" if lane is self.ours else f"{ours / lane.clips_per_s.median:.2f}",
                f"{lane.cores.median:.2f}",
                f"{lane.cost.decoded_to_used:.2f}" if lane.cost else "–",
                f"{lane.cost.bytes_per_clip * lane.clips_per_s.median / 1e6:.1f}" if lane.cost else "–",
                f"{lane.own_bytes / 1e6:.0f}",
            ]
            for lane in [self.ours, *by_speed]
        ]
        return measured + [[name, "did not run", *["–"] * 6] for name in self.absent]

    def notes(self) -> list[str]:
        """What the table does not say: reasons, trials, checks."""
        trials = (
            f"{name}: " + ", ".join(f"{workers} workers {spread} clips/s" for workers, spread in found.items())
            for name, found in self.trials.items()
        )
        checks = ", ".join(f"{name} {psnr_text(psnr)}" for name, psnr in self.psnr.items())
        return [
            *(f"{name} did not run: {reason}" for name, reason in self.absent.items()),
            *(f"{lane.name}: {lane.tuned}" for lane in [self.ours, *self.peers]),
            *(f"trials of {line}" for line in trials),
            *([f"the same frames and crops as ours, lowest PSNR of the first batch: {checks}"] if checks else []),
            *([self.read] if self.read else []),
        ]

    def table(self) -> list[str]:
        """Lines for a console."""
        return ["", *table(HEADER, self.rows()), "", *self.notes()]

    def markdown(self) -> list[str]:
        """Lines for a page."""
        return [*markdown(HEADER, self.rows()), "", *(f"- {note}" for note in self.notes())]

    def summary(self) -> dict[str, Any]:
        """For JSON, every turn included."""
        return {
            "ours": {"name": self.ours.name, **self.ours.summary()},
            "peers": {lane.name: lane.summary() for lane in self.peers},
            "did_not_run": self.absent,
            "trials": {
                name: {workers: asdict(spread) for workers, spread in found.items()}
                for name, found in self.trials.items()
            },
            "psnr_db": self.psnr,
            "read": self.read,
            "fastest_peer": self.fastest and self.fastest.name,
            "ratio": self.ratio,
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """The verdict."""
        said = f"our loader takes {self.ours.clips_per_s.median:.0f} clips/s out of {self.ours.name}"
        if self.fastest and self.ratio:
            others = f", the fastest of {len(self.peers)} peers" if len(self.peers) > 1 else ""
            said += f", {self.ratio:.2f} times the {self.fastest.clips_per_s.median:.0f} of {self.fastest.name}{others}"
        return "; ".join([said, *(f"{name} did not run: {reason}" for name, reason in self.absent.items())])


HEADER = ["", "workers", "clips/s", "ours to it", "cores", "decoded/used", "MB/s", "own MB"]


def compare(
    contest: Contest,
    index: ShardIndex,
    order: Order,
    *,
    names: str,
    repeats: int,
    cores: Sequence[int] | None,
    quiet: bool,
) -> Comparison:
    """Make the peers' files, check and tune each peer, then take turns in rotated order, each in its own process.

    A peer that is missing, reads other clips than ours or fails on the way becomes a line of the result.

    Args:
        names: "all", or peers with commas.
        cores: CPUs that every way is pinned to; None leaves them as they are.

    Raises:
        BenchError: Our own loader fails, or the files cannot be made.
        ValueError: There is no such peer.
    """
    wanted, num_cpus = peers_named(names), len(cores) if cores else contest.num_workers
    threads, cost = contest.loader.num_threads, our_cost(contest, range(COST_STEPS))
    ours = Lane(NAMES[index.codec], f"{threads} threads", str(contest.loader), cost)
    found = Comparison(ours, read=copies_note(index))
    found.absent = {peer.name: reason for peer in wanted if (reason := peer.missing(contest))}
    present = [peer for peer in wanted if peer.name not in found.absent]
    if present:
        prepare(contest, index, num_cpus=num_cpus, quiet=quiet)
    for peer in check(present, contest, found):
        trial = replace(order, seconds=None if order.num_batches else min(order.seconds or 0, TRIAL_SECONDS))
        with noting_failure(peer.name, found):
            found.trials[peer.name] = tune(peer, contest, trial, num_cpus=num_cpus, cores=cores, quiet=quiet)
    take_turns([peer for peer in present if peer.name in found.trials], contest, order, found, repeats, cores, quiet)
    return found


def prepare(contest: Contest, index: ShardIndex, *, num_cpus: int, quiet: bool) -> None:
    """The H.264 files and the tar of them."""
    with progress("H.264 files", unit="segments", quiet=quiet) as tell:
        make_copies(
            index,
            contest.samples.tolist(),
            contest.copies,
            workers=num_cpus,
            report=tell,
        )
    make_tar(index, contest.samples, contest.copies)


def check(peers: Sequence[Peer], contest: Contest, found: Comparison) -> list[Peer]:
    """The peers whose planned clips are ours, and those that draw their own; the others are noted in `found`."""
    passed = []
    for peer in peers:
        if peer.read is None:
            passed.append(peer)
            continue
        try:
            psnr = found.psnr[peer.name] = worst_psnr(peer, contest)
        except Exception as error:  # whatever a peer's library raises is a line of the result
            found.absent[peer.name] = one_line(error)
            continue
        if psnr >= MIN_PSNR_DB:
            passed.append(peer)
        else:
            found.absent[peer.name] = (
                f"its clips are not ours (PSNR {psnr:.1f} dB, at least {MIN_PSNR_DB:.0f} is wanted); "
                f"remove {contest.copies}"
            )
    return passed


def worst_psnr(peer: Peer, contest: Contest) -> float:
    """The lowest PSNR, in dB, of a peer's clips against ours in the first batch."""
    assert peer.read
    plan = contest.plan()
    planned = plan.batch(0)
    with our_loader(contest) as batches:
        ours = next(batches).float().cpu().numpy().transpose(0, 2, 3, 4, 1) + MEAN  # [N, T, H, W, 3]
    theirs = np.stack([peer.read(contest, plan, planned, n).cpu().numpy() for n in range(len(planned))])
    errors = ((ours - theirs) ** 2).mean(axis=(1, 2, 3, 4))
    return float(10 * np.log10(255**2 / max(*errors, LEAST_ERROR)))


def psnr_text(psnr: float) -> str:
    """
    >>> psnr_text(31.26), psnr_text(10 * np.log10(255**2 / LEAST_ERROR))
    ('31.3 dB', 'every pixel the same')
    """
    return "every pixel the same" if psnr >= 10 * np.log10(255**2 / LEAST_ERROR) else f"{psnr:.1f} dB"


def tune(
    peer: Peer, contest: Contest, order: Order, *, num_cpus: int, cores: Sequence[int] | None, quiet: bool
) -> dict[int, Spread]:
    """Clips/s by number of workers, in short trials that take turns.

    Raises:
        BenchError: The peer does not run.
    """
    numbers = worker_choices(num_cpus)
    rates: dict[int, list[float]] = {workers: [] for workers in numbers}
    with ExitStack() as stack, progress(f"tuning {peer.name}", unit="rounds", quiet=quiet) as tell:
        processes = {workers: stack.enter_context(opened(peer, contest, workers, cores)) for workers in numbers}
        for process in processes.values():
            process.wait_ready()
        for trial in range(TRIALS):
            for workers in numbers if trial % 2 == 0 else numbers[::-1]:
                stand_still()
                rates[workers].append(processes[workers].measure(warmed(order, workers)).clips_per_s)
            last = ", ".join(f"{workers} workers {found[-1]:.0f}" for workers, found in rates.items())
            tell(trial + 1, TRIALS, f"{last} clips/s")
    return {workers: Spread.of(found) for workers, found in rates.items()}


def take_turns(
    peers: Sequence[Peer],
    contest: Contest,
    order: Order,
    found: Comparison,
    repeats: int,
    cores: Sequence[int] | None,
    quiet: bool,
) -> None:
    """Measure our loader and the tuned peers; `found` gets their lanes, or why a peer has none."""
    with ExitStack() as stack:
        gpu = contest.device if contest.on_gpu else None
        own, warmup = found.ours.name, max(order.warmup_batches, our_warmup(contest))
        ours = stack.enter_context(MeasuredProcess(own, our_loader, contest, cores=cores, cuda=gpu))
        lanes, processes, orders = {own: found.ours}, {own: ours}, {own: replace(order, warmup_batches=warmup)}
        for peer in peers:
            workers = fastest(found.trials[peer.name])
            cost = peer.cost(contest, range(COST_STEPS)) if peer.cost else None
            lanes[peer.name] = Lane(peer.name, f"{workers} {peer.workers}", peer.tuned, cost)
            processes[peer.name] = stack.enter_context(opened(peer, contest, workers, cores))
            orders[peer.name] = warmed(order, workers)
        for name in list(processes):
            with noting_failure(name, found):
                processes[name].wait_ready()
        with progress("taking turns", unit="turns", quiet=quiet) as tell:
            for repeat, name in turns_of(list(lanes), repeats=repeats):
                if name in found.absent:
                    continue
                stand_still()
                with noting_failure(name, found):
                    lanes[name].turns.append(processes[name].measure(orders[name]))
                    tell(repeat + 1, repeats, f"{name} {lanes[name].turns[-1].clips_per_s:.0f} clips/s")
        found.peers = [lane for name, lane in lanes.items() if name != own and name not in found.absent]


@contextmanager
def noting_failure(name: str, found: Comparison) -> Iterator[None]:
    """A peer that fails is noted as absent, with the reason; our own loader must not fail."""
    try:
        yield
    except BenchError as error:
        if name == found.ours.name:
            raise
        found.absent[name] = str(error).removeprefix(f"{name}: ")


def opened(peer: Peer, contest: Contest, workers: int, cores: Sequence[int] | None) -> MeasuredProcess:
    """The peer with so many workers, in a process of its own."""
    gpu = contest.device if contest.on_gpu else None
    return MeasuredProcess(peer.name, peer.way, replace(contest, num_workers=workers), cores=cores, cuda=gpu)


def warmed(order: Order, workers: int) -> Order:
    """The order with enough batches of warm-up to empty every worker's queue.

    >>> warmed(Order(None, 2.0, warmup_batches=8), 16).warmup_batches
    33
    """
    return replace(order, warmup_batches=max(order.warmup_batches, BATCHES_AHEAD * workers + 1))


def fastest(trials: dict[int, Spread]) -> int:
    """The number of workers whose median is highest."""
    return max(trials, key=lambda workers: trials[workers].median)


def stand_still() -> None:
    """Wait until no way works ahead any more, for its queues would fill up at the next one's expense."""
    wait_until_idle(ProcessTree().cpu_s, cores=IDLE_CORES, window_s=IDLE_WINDOW_S, timeout_s=IDLE_TIMEOUT_S)


def one_line(error: Exception) -> str:
    """An error's kind and first line."""
    lines = str(error).strip().splitlines() or ["no message"]
    return lines[0] if isinstance(error, BenchError) else f"{type(error).__name__}: {lines[0]}"
