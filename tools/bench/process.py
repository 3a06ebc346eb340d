"""A way to read clips in a process of its own, which lives for the whole benchmark.

So CPU time and memory are its alone, and between measurements it stands still.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from tools.bench.measure import BenchError, Measurement, Order, Way, measure

CLOSE_TIMEOUT_S = 10.0


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
