"""Commands as processes that start at once: forked from one that has loaded torch, DALI and the commands.

Loading them, and what the first step of a training loads, takes six seconds of a core. A test of what a command does as
a program of its own starts it here; a test of how it is started, of torchrun, or of signals while packages load, does
not. No line of the script has run before the fork.
"""

import atexit
import fcntl
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any
from unittest.mock import patch

CHECKOUT = Path(__file__).resolve().parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [__name__, "torch._dynamo", "torch.utils.tensorboard", "res3d_video.train.trainer", "res3d_video.tools.evaluate",
     "res3d_video.train.evaluation.extraction", "res3d_video.train.paper.thumos14_features"]
)  # fmt: skip


def warm_context() -> Any:
    """The context of processes that start so."""
    with patch.dict(os.environ, PYTHONPATH=str(CHECKOUT)):  # its packages are this checkout's
        multiprocessing.forkserver.ensure_running()
    return CONTEXT


class Warm:
    """`python SCRIPT WORDS…`, begun in the checkout; for use like a `subprocess.Popen`. `terminal` is the file number
    of one that becomes its own; without it, `communicate` returns what is printed."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, terminal: int | None = None
    ) -> None:
        assert command[0] == sys.executable
        context = warm_context()
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        streams = [file.fileno() for file in self._files] if terminal is None else [terminal] * 2
        self._process: Any = context.Process(target=_Script(command[1:], dict(environment or os.environ), streams))
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a warm command", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> list[str]:
        """What it has printed on both streams, when it has ended."""
        self.wait(timeout)
        return [os.pread(file.fileno(), 1 << 24, 0).decode() for file in self._files]


class _Script:
    """What a new process does."""

    def __init__(self, words: Sequence[str], environment: dict[str, str], streams: list[int]) -> None:
        self.words, self.environment, self.streams = list(words), environment, streams

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"streams": [DupFd(stream) for stream in self.streams]}

    def __call__(self) -> None:
        out, err = (stream.detach() for stream in self.streams)
        if os.isatty(out):
            os.setsid()
            fcntl.ioctl(out, termios.TIOCSCTTY, 0)
            os.dup2(out, 0)
            sys.stdin = open(0)  # noqa: SIM115
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = sys.__stdout__ = open(1, "w", buffering=1, closefd=False)  # type: ignore[misc]  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, closefd=False)  # type: ignore[misc]  # noqa: SIM115
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(CHECKOUT)
        sys.argv = self.words
        sys.path.insert(0, str((CHECKOUT / self.words[0]).parent))
        try:
            runpy.run_path(self.words[0], run_name="__main__")
        finally:
            atexit._run_exitfuncs()


def run_warm(command: Sequence[str], *, world_size: int = 1) -> subprocess.CompletedProcess[str]:
    """Run it to the end, in so many processes of one run; what they print, one after the other."""
    processes = [Warm(command, environment=os.environ | place) for place in places(world_size)]
    try:
        printed = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    out, err = ("".join(stream) for stream in zip(*printed, strict=True))
    return subprocess.CompletedProcess(command, max((process.wait() for process in processes), key=abs), out, err)


def places(world_size: int) -> list[dict[str, str]]:
    """The variables by which torchrun tells each process its place; none for one process."""
    if world_size == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        run = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(world_size)}
    return [run | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]
