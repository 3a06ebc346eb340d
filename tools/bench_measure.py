"""What the benchmarks share: a way to read clips in a process of its own, its speed, cores and memory; tables.

Every way runs in its own process, which lives for the whole benchmark, so that CPU time and memory are its alone, and
between measurements it stands still. Knows nothing of clips: a way is a function that gives batches with a length.
"""

import multiprocessing
import os
import platform
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

MEMORY_EVERY_S = 0.5
WARMING_SHARE = 0.5  # of the work; buffers and caches still grow there, so slopes leave it out
CLOSE_TIMEOUT_S = 10.0

Way = Callable[[Any], AbstractContextManager[Iterator[Any]]]


class BenchError(RuntimeError):
    """A benchmark cannot go on; the message is one line."""


@dataclass(frozen=True)
class Spread:
    """Median and range of some repeats."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        """
        >>> str(Spread.of([211.4, 190, 226]))
        '211 [190..226]'
        """
        return f"{self.median:.0f} [{self.min:.0f}..{self.max:.0f}]"


@dataclass(frozen=True)
class Memory:
    """Memory of a process and its children at one moment.

    Attributes:
        done: Clips (or whatever is counted) delivered so far.
        rss: Resident bytes. Counts the pages of memory-mapped files that were read, which the system may take back.
        own: Resident bytes that are no file's and not shared: what a leak would add to.
    """

    done: int
    rss: int
    own: int


@dataclass(frozen=True)
class Measurement:
    """One measurement of a way."""

    num_clips: int
    wall_s: float
    cpu_s: float
    memory: tuple[Memory, ...]

    @property
    def clips_per_s(self) -> float:
        return self.num_clips / self.wall_s

    @property
    def cores(self) -> float:
        """Cores kept busy, on average."""
        return self.cpu_s / self.wall_s


@dataclass(frozen=True)
class Order:
    """What to measure next: a number of batches, or at least so many seconds."""

    num_batches: int | None
    seconds: float | None
    warmup_batches: int


class ProcessTree:
    """CPU time and memory of this process and the children that it has now."""

    def __init__(self) -> None:
        psutil = load_psutil()
        self._gone = psutil.NoSuchProcess
        me = psutil.Process()
        self._processes = [me, *me.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system time since the processes began, seconds."""
        times = [p.cpu_times() for p in self._processes]
        return sum(t.user + t.system for t in times)

    def memory(self, done: int) -> Memory:
        """Memory now; a child that has ended counts nothing."""
        rss = own = 0
        for process in self._processes:
            try:
                info = process.memory_info()
            except self._gone:
                continue
            rss += info.rss
            own += info.rss - getattr(info, "shared", 0)
        return Memory(done, rss, own)


def load_psutil() -> Any:
    """The psutil module.

    Raises:
        BenchError: It is not installed.
    """
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        raise BenchError('psutil is not installed; pip install "res3d-video[bench]"') from None
    return psutil


def measure(batches: Iterator[Any], order: Order, *, done: int, finish: Callable[[], None]) -> Measurement:
    """Take batches as fast as they come; nothing else is done with them.

    Args:
        done: Clips delivered by earlier measurements.
        finish: Waits until what was delivered is really there (a GPU works on after the call).
    """
    for _ in range(order.warmup_batches):
        done += len(next(batches))
    finish()
    tree = ProcessTree()
    memory, sampled = [tree.memory(done)], time.perf_counter()
    num_clips = num_batches = 0
    cpu_before, started = tree.cpu_s(), time.perf_counter()
    while True:
        num_clips += len(next(batches))
        num_batches += 1
        now = time.perf_counter()
        enough = num_batches >= order.num_batches if order.num_batches else now - started >= (order.seconds or 0)
        if enough:
            break
        if now - sampled >= MEMORY_EVERY_S:
            memory.append(tree.memory(done + num_clips))
            sampled = now
    finish()
    wall_s, cpu_s = time.perf_counter() - started, tree.cpu_s() - cpu_before
    return Measurement(num_clips, wall_s, cpu_s, (*memory, tree.memory(done + num_clips)))


def slope(memory: Sequence[Memory], *, what: str = "own") -> float:
    """Growth in bytes for each thing delivered, by least squares, over the second half; 0 with too few samples.

    >>> slope([Memory(done, 0, 1000 + 3 * done) for done in range(0, 100, 10)])
    3.0
    """
    if not memory:
        return 0.0
    warm = memory[0].done + WARMING_SHARE * (memory[-1].done - memory[0].done)
    done = np.array([m.done for m in memory if m.done >= warm], float)
    used = np.array([getattr(m, what) for m in memory if m.done >= warm], float)
    apart = done - done.mean()
    return round(float((apart * used).sum() / (apart**2).sum()), 6) if apart.any() else 0.0


class MeasuredProcess:
    """A way in a process of its own: opened once, measured as often as one likes.

    Args:
        way: Opens with `setup` and gives endless batches; importable by name.
        cores: CPUs that it may run on; None leaves them as they are.
        cuda: CUDA device to wait for at the end of a measurement.
    """

    def __init__(
        self, name: str, way: Way, setup: Any, *, cores: Sequence[int] | None = None, cuda: str | None = None
    ) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, way, setup, cores, cuda), name=name)
        self._process.start()
        theirs.close()

    def wait_ready(self) -> None:
        """Block until the way is open.

        Raises:
            BenchError: It could not be opened.
        """
        self._receive()

    def measure(self, order: Order) -> Measurement:
        """One measurement.

        Raises:
            BenchError: The way failed, or its process died.
        """
        self._connection.send(order)
        return self._receive()

    def close(self) -> None:
        """End the process; kills it when it does not listen."""
        with suppress(OSError):  # it may be gone already
            self._connection.send(None)
        self._connection.close()
        self._process.join(CLOSE_TIMEOUT_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def __enter__(self) -> "MeasuredProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise BenchError(f"{self.name}: its process ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, BenchError):
            raise BenchError(f"{self.name}: {answer}")
        return answer


def _serve(connection: Connection, way: Way, setup: Any, cores: Sequence[int] | None, cuda: str | None) -> None:
    """The process: open the way, say so, measure on request until told to stop or left alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if cores is not None:
        os.sched_setaffinity(0, cores)

    def finish() -> None:
        if cuda is not None:
            import torch

            torch.cuda.synchronize(cuda)

    try:
        with way(setup) as batches:
            connection.send("ready")
            done = 0
            while (order := connection.recv()) is not None:
                measurement = measure(batches, order, done=done, finish=finish)
                done = measurement.memory[-1].done
                connection.send(measurement)
    except EOFError:
        return  # the parent is gone
    except Exception as error:
        lines = str(error).splitlines() or ["no message"]
        connection.send(BenchError(f"{type(error).__name__}: {lines[0]}"))


def pick_cores(num: int) -> list[int]:
    """The first `num` CPUs that this process may run on.

    Raises:
        BenchError: There are not so many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if num > len(allowed):
        raise BenchError(f"cores: {num} are not there; choose at most {len(allowed)}")
    return allowed[:num]


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keep this thread, and every thread and process that it starts, on some CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def machine(*packages: str) -> dict[str, Any]:
    """Hardware, system and versions, as a benchmark's page needs them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": models[0] if models else platform.machine(),
        "num_cpus": os.cpu_count(),
        "num_cpus_allowed": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "versions": versions,
    }


def machine_lines(facts: dict[str, Any]) -> list[str]:
    """`machine` for people."""
    hardware = f"{facts['cpu']}, {facts['num_cpus_allowed']} of {facts['num_cpus']} CPUs, {facts['system']}"
    if "gpu" in facts:
        hardware = f"{facts['gpu']}; {hardware}"
    return [hardware, ", ".join(f"{name} {number}" for name, number in facts["versions"].items())]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right.

    >>> table(["way", "clips/s"], [["a", "9"], ["long", "10"]])
    ['way   clips/s', 'a           9', 'long       10']
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
