"""Taking batches as fast as they come, in turns, here or in a process of its own: speed, cores, memory."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.reader import ReadWork
from res3d_video.tools.bench.gpu import GpuUse
from res3d_video.train.terminal import no_interrupts

WARMING_SHARE = 0.5  # of the work; buffers and caches still grow there, so slopes leave it out

BatchSource = Callable[[Any], Generator[Any]]  # from a configuration, endless batches


class BenchError(UserError):
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
    """What some batches cost this process and its children.

    Attributes:
        read_bytes: Asked of the system by reading files; None where it does not say.
    """

    num_clips: int
    wall_s: float
    cpu_s: float
    read_bytes: int | None

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


def enough(order: Order, num_batches: int, elapsed_s: float) -> bool:
    """Whether what was ordered is done.

    >>> order = Order(num_batches=None, seconds=2.0, warmup_batches=0)
    >>> [enough(order, 7, seconds) for seconds in (1.9, 2.0)]
    [False, True]
    """
    return num_batches >= order.num_batches if order.num_batches else elapsed_s >= (order.seconds or 0)


class ProcessTree:
    """CPU time and memory of this process and the children that it has now."""

    def __init__(self) -> None:
        self._psutil = load_psutil()
        self._gone = self._psutil.NoSuchProcess
        me = self._psutil.Process()
        self._processes = [me, *me.children(recursive=True)]
        self._cpu_s: dict[int, float] = {}

    def cpu_s(self) -> float:
        """User and system time since the processes began, seconds; a child that has ended keeps what it had."""
        for process in self._processes:
            with suppress(self._gone):
                times = process.cpu_times()
                self._cpu_s[process.pid] = times.user + times.system
        return sum(self._cpu_s.values())

    def read_bytes(self) -> int | None:
        """Bytes read from files so far, from the page cache too; None where the system does not say."""
        try:
            return sum(process.io_counters().read_chars for process in self._processes)
        except (self._psutil.Error, AttributeError):  # a child has ended, or this is not Linux
            return None

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


def wait_until_idle(cpu_s: Callable[[], float], *, cores: float, window_s: float, timeout_s: float) -> float:
    """Wait until something keeps fewer than so many cores busy, or for so long.

    Args:
        cpu_s: Its CPU time so far, seconds.
        window_s: Over which it is watched at a time.

    Returns:
        Cores still busy in the last window.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        before, started = cpu_s(), time.perf_counter()
        time.sleep(window_s)
        busy = (cpu_s() - before) / (time.perf_counter() - started)
        if busy < cores or time.monotonic() > deadline:
            return busy


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


def measure(batches: Iterator[Any], order: Order, *, finish: Callable[[], None]) -> Measurement:
    """Take batches as fast as they come; nothing else is done with them.

    Args:
        finish: Waits until what was delivered is really there (a GPU works on after the call).
    """
    for _ in range(order.warmup_batches):
        next(batches)
    finish()
    tree, num_clips, num_batches = ProcessTree(), 0, 0
    read_before, cpu_before, started = tree.read_bytes(), tree.cpu_s(), time.perf_counter()
    while not num_batches or not enough(order, num_batches, time.perf_counter() - started):
        num_clips += len(next(batches))
        num_batches += 1
    finish()
    wall_s, cpu_s, read = time.perf_counter() - started, tree.cpu_s() - cpu_before, tree.read_bytes()
    return Measurement(num_clips, wall_s, cpu_s, None if read is None or read_before is None else read - read_before)


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
    return round(fitted_slope(done, used), 6)


def fitted_slope(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of the least-squares line; 0 where x does not change.

    >>> fitted_slope(np.array([0.0, 1.0, 2.0]), np.array([5.0, 7.0, 9.0]))
    2.0
    """
    apart = x - x.mean()
    return float((apart * y).sum() / (apart**2).sum()) if apart.any() else 0.0


IDLE_CORES, IDLE_WINDOW_S, IDLE_TIMEOUT_S = 0.1, 0.03, 5.0


@dataclass(frozen=True)
class Turn:
    """One lane's turn.

    Attributes:
        repeat: Which round of turns, 0-based.
        wall_s: Until all of its work was done, on the GPU too.
        cpu_s: Of this process and its children.
        data_wait_s: That the host waited for batches.
        plan_steps: First step of the plan that was taken, and the first that was not; None without a loader.
        work: What was read for the batches taken.
        disk_bytes: Fetched from storage; None where unknown.
        thread_s: CPU seconds by group of threads.
        gpu: What NVML says; None on a CPU.
        memory: Before and after; counted in clips of all lanes.
        busy_before: Cores that this process kept busy although nothing was asked of it, right before the turn.
    """

    lane: str
    repeat: int
    num_steps: int
    num_clips: int
    wall_s: float
    cpu_s: float
    data_wait_s: float
    plan_steps: tuple[int, int] | None
    work: ReadWork
    disk_bytes: int | None
    thread_s: dict[str, float]
    gpu: GpuUse | None
    memory: tuple[Memory, Memory]
    busy_before: float

    @property
    def clips_per_s(self) -> float:
        return self.num_clips / self.wall_s

    @property
    def ms_per_step(self) -> float:
        return 1000 * self.wall_s / self.num_steps

    @property
    def cores(self) -> float:
        """Cores kept busy, on average."""
        return self.cpu_s / self.wall_s

    @property
    def data_wait(self) -> float:
        """Share of the time."""
        return self.data_wait_s / self.wall_s


def turns_of(lanes: list[str], *, repeats: int) -> list[tuple[int, str]]:
    """(repeat, lane) in the order of the turns: every repeat begins one lane further on, so none is always first.

    >>> [lane for _, lane in turns_of(["a", "b", "c"], repeats=3)]
    ['a', 'b', 'c', 'b', 'c', 'a', 'c', 'a', 'b']
    """
    return [(repeat, lanes[(repeat + place) % len(lanes)]) for repeat in range(repeats) for place in range(len(lanes))]


def settle() -> float:
    """Wait until this process does nothing: queues are full, nothing decodes ahead.

    Returns:
        Cores still busy after five seconds of waiting, or what little is left before.
    """
    return wait_until_idle(time.process_time, cores=IDLE_CORES, window_s=IDLE_WINDOW_S, timeout_s=IDLE_TIMEOUT_S)


CLOSE_TIMEOUT_S = 10.0


class Child:
    """A process that answers one request after another.

    Args:
        name: Of the process.
        serve: Runs there with the process's end of a connection and `args`; importable by name.
    """

    def __init__(self, name: str, serve: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *args), name=name)
        with no_interrupts():
            self._process.start()
        theirs.close()

    def ask(self, request: Any, *, timeout_s: float | None = None) -> Any:
        """Send a request and wait for its answer; raises as `receive`."""
        with suppress(OSError):  # it may be gone already, which `receive` says
            self._connection.send(request)
        return self.receive(timeout_s=timeout_s)

    def receive(self, *, timeout_s: float | None = None) -> Any:
        """Wait for something that the process says of itself.

        Raises:
            BenchError: It is what the process says, the process died, or it says nothing for so long.
        """
        try:
            if not self._connection.poll(timeout_s):
                raise BenchError(f"no answer for {timeout_s:.0f} seconds")
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise BenchError(f"its process ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, BenchError):
            raise answer
        return answer

    def close(self) -> None:
        """End the process; kills it when it does not listen."""
        with suppress(OSError):  # it may be gone already
            self._connection.send(None)
        self._connection.close()
        self._process.join(CLOSE_TIMEOUT_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt:
            self._process.terminate()  # its work is of no use any more
        self.close()


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
