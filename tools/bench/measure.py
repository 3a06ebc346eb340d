"""Measures how fast batches come, and with how many cores; processes that do so on request."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

from res3d_video.pipeline.errors import UserError, kind_and_line, one_line
from res3d_video.train.terminal import no_interrupts

IDLE_CORES, IDLE_WINDOW_S, IDLE_TIMEOUT_S = 0.1, 0.1, 10.0  # Linux counts CPU time in ticks of 10 ms
CLOSE_TIMEOUT_S = 10.0
NO_FFMPEG = ("Could not load libtorchcodec", "Failed to import libspdl")


class BenchError(UserError):
    """A benchmark cannot continue; the message is one line."""


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest value of the rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        """As text; medians below 100 with one decimal.

        >>> str(Spread.of([211.4, 190, 226])), str(Spread(9.25, 8.0, 11.0))
        ('211 [190..226]', '9.2 [8.0..11.0]')
        """
        digits = 0 if self.median >= 100 else 1
        return f"{self.median:.{digits}f} [{self.min:.{digits}f}..{self.max:.{digits}f}]"


@dataclass(frozen=True)
class Order:
    """How long to measure: a number of batches or, if it is None, a number of seconds."""

    num_batches: int | None
    seconds: float | None
    warmup_batches: int = 0


@dataclass(frozen=True)
class Measurement:
    """What some batches cost. `cpu_s` is of this process and its children; `wall_s` includes the work on the GPU."""

    num_batches: int
    num_clips: int
    wall_s: float
    cpu_s: float

    @property
    def clips_per_s(self) -> float:
        return self.num_clips / self.wall_s

    @property
    def cores(self) -> float:
        """Mean number of busy cores."""
        return self.cpu_s / self.wall_s


def measure(take: Callable[[], int], order: Order, *, finish: Callable[[], None]) -> Measurement:
    """Take batches as fast as they come.

    Args:
        take: Takes a batch and returns its number of clips.
        finish: Waits until the work of all batches is done; a GPU may still be busy when `take` returns.
    """
    for _ in range(order.warmup_batches):
        take()
    finish()
    tree, num_clips, num_batches, wall_s = ProcessTree(), 0, 0, 0.0
    cpu_before, started = tree.cpu_s(), time.perf_counter()
    while num_batches < (order.num_batches or 1) or (not order.num_batches and wall_s < (order.seconds or 0)):
        num_clips += take()
        num_batches += 1
        wall_s = time.perf_counter() - started
    finish()
    return Measurement(num_batches, num_clips, time.perf_counter() - started, tree.cpu_s() - cpu_before)


def schedule(lanes: list[str], *, repeats: int) -> list[tuple[int, str]]:
    """The order to measure in, as (round, lane): each round starts with another lane, so that none is always first.

    >>> [lane for _, lane in schedule(["a", "b", "c"], repeats=3)]
    ['a', 'b', 'c', 'b', 'c', 'a', 'c', 'a', 'b']
    """
    return [(repeat, lanes[(repeat + place) % len(lanes)]) for repeat in range(repeats) for place in range(len(lanes))]


def settle(cpu_s: Callable[[], float] = time.process_time) -> None:
    """Wait until queues are full and nothing is decoded any more, but at most IDLE_TIMEOUT_S.

    Args:
        cpu_s: Returns the CPU time so far, seconds; by default that of this process.
    """
    deadline, busy = time.monotonic() + IDLE_TIMEOUT_S, IDLE_CORES
    while busy >= IDLE_CORES and time.monotonic() < deadline:
        before, started = cpu_s(), time.perf_counter()
        time.sleep(IDLE_WINDOW_S)
        busy = (cpu_s() - before) / (time.perf_counter() - started)


class ProcessTree:
    """CPU time and memory of this process and its present children."""

    def __init__(self) -> None:
        psutil = load_psutil()
        self._gone = psutil.NoSuchProcess
        me = psutil.Process()
        self._processes = [me, *me.children(recursive=True)]
        self._cpu_s: dict[int, float] = {}

    def cpu_s(self) -> float:
        """User and system time of all processes, seconds; for a child that has ended, its last known time."""
        for process in self._processes:
            with suppress(self._gone):
                times = process.cpu_times()
                self._cpu_s[process.pid] = times.user + times.system
        return sum(self._cpu_s.values())

    def own_bytes(self) -> int:
        """Resident memory without files and shared memory, in which a leak would show."""
        own = 0
        for process in self._processes:
            with suppress(self._gone):
                info = process.memory_info()
                own += info.rss - info.shared
        return own


def load_psutil() -> Any:
    """The psutil module; raises BenchError if it is not installed."""
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        raise BenchError('psutil is not installed; pip install "res3d-video[bench]"') from None
    return psutil


Service = Callable[..., AbstractContextManager[Callable[[Any], Any]]]  # gives a function: request -> answer


class Child:
    """A process that opens `service(*args)` and answers requests with it, one after another.

    Args:
        service: Importable by name. An exception in it ends the process.
    """

    def __init__(self, name: str, service: Service, *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=answer_requests, args=(theirs, service, *args), name=name)
        with no_interrupts():
            self._process.start()
        theirs.close()

    def ask(self, request: Any, *, timeout_s: float | None = None) -> Any:
        """Send a request and wait for its answer.

        Raises:
            BenchError: The request failed, the process has died, or it does not answer in time.
        """
        with suppress(OSError):  # it may be gone already, which `poll` below finds out
            self._connection.send(request)
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
        """End the process; kill it if it does not respond."""
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
            self._process.terminate()  # nobody needs its answer any more
        self.close()


def answer_requests(connection: Connection, service: Service, *args: Any) -> None:
    """The process of a `Child`: answer requests until one is None; an exception is sent as a BenchError."""
    try:
        with service(*args) as answer:
            while (request := connection.recv()) is not None:
                connection.send(answer(request))
    except EOFError:
        return  # the parent is gone
    except Exception as error:  # libraries raise anything; the parent decides what to do
        connection.send(BenchError(reason(error)))


def reason(error: Exception) -> str:
    """Type and message of an exception; what to install, if a library has not found FFmpeg.

    >>> reason(RuntimeError("first\\nsecond"))
    'RuntimeError: first second'
    """
    if any(words in f"{error} {error.__cause__}" for words in NO_FFMPEG):
        return (
            "it finds no FFmpeg that it can load; apt-get install ffmpeg, and where torch has no CUDA "
            'pip install "torchcodec<0.14"'
        )
    return one_line(error) if isinstance(error, BenchError) else kind_and_line(error)
