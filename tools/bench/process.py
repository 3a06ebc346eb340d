"""Processes of their own; above all one for a way to read clips, which lives for the whole benchmark.

So CPU time and memory are its alone, and between measurements it stands still.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Self

from tools.bench.measure import BenchError, Measurement, Order, Way, measure
from train.terminal import no_interrupts

CLOSE_TIMEOUT_S = 10.0


class Child:
    """A process that answers one request after another.

    Args:
        name: Begins its error messages; "" for none.
        serve: Runs there with the process's end of a connection and `args`; importable by name.
    """

    def __init__(self, name: str, serve: Callable[..., None], *args: Any, daemon: bool = False) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *args), name=name or None, daemon=daemon)
        with no_interrupts():
            self._process.start()
        theirs.close()

    def ask(self, request: Any) -> Any:
        """Send a request and wait for its answer.

        Raises:
            BenchError: It is the answer, or the process died.
        """
        with suppress(OSError):  # it may be gone already, which `receive` says
            self._connection.send(request)
        return self.receive()

    def receive(self) -> Any:
        """Wait for something that the process says of itself; raises as `ask`."""
        prefix = f"{self.name}: " if self.name else ""
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise BenchError(f"{prefix}its process ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, BenchError):
            raise BenchError(f"{prefix}{answer}")
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


class MeasuredProcess(Child):
    """A way in a process of its own: opened once, measured as often as one likes.

    Args:
        way: Opens with `setup` and gives endless batches; importable by name.
        cores: CPUs that it may run on; None leaves them as they are.
        cuda: CUDA device to wait for at the end of a measurement.
    """

    def __init__(
        self, name: str, way: Way, setup: Any, *, cores: Sequence[int] | None = None, cuda: str | None = None
    ) -> None:
        super().__init__(name, _serve, way, setup, cores, cuda)

    def wait_ready(self) -> None:
        """Block until the way is open.

        Raises:
            BenchError: It could not be opened.
        """
        self.receive()

    def measure(self, order: Order) -> Measurement:
        """One measurement.

        Raises:
            BenchError: The way failed, or its process died.
        """
        return self.ask(order)


def _serve(connection: Connection, way: Way, setup: Any, cores: Sequence[int] | None, cuda: str | None) -> None:
    """The process: open the way, say so, measure on request until told to stop or left alone."""
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
