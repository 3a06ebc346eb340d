"""A process that answers one request after another, and the CPUs that processes run on."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

from res3d_video.tools.bench.measure import BenchError
from res3d_video.train.terminal import no_interrupts

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
