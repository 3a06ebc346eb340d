"""Probes videos in separate processes, so that a video that crashes or stalls FFmpeg costs only that process.

PyAV runs FFmpeg's libraries inside the calling process. Here that is a worker with limits, which is reused while it
answers and killed when it does not. A traceback of a worker is a bug in this project, not a fault of the video: it is
raised again in the process that asked.
"""

import contextlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.pipeline.errors import VideoFailure
from res3d_video.pipeline.ingest.limits import MB, MESSAGE_BYTES, Guard, Limits, ended_by
from res3d_video.pipeline.ingest.probe import Timeline, VideoFacts, probe, read_timeline

# Makes a worker import res3d_video from where this process has it, whatever is installed.
THIS_CODE = (
    "code = sys.modules['res3d_video'] = type(sys)('res3d_video'); "
    f"code.__path__ = [{str(Path(__file__).resolve().parents[2])!r}]"
)
START = "from res3d_video.pipeline.ingest.inspector import serve; serve()"
MAX_ANSWER_BYTES = 256 * 2**20  # the times of five million frames
END_S = 0.2  # a worker's pipe closes just before it is gone


class Inspector(contextlib.AbstractContextManager["Inspector"]):
    """Answers questions about videos, from any number of threads, until the end of its `with` block."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._idle: list[Worker] = []

    def probe(self, path: Path, guard: Guard) -> VideoFacts:
        """`probe.probe` in a worker.

        Raises:
            VideoFailure: As `probe.probe`; or the worker crashed or exceeded a limit.
            RuntimeError: The worker failed by a bug; with its traceback.
        """
        facts = self._ask("probe", path, guard)
        return VideoFacts(**{**facts, "notes": tuple(facts["notes"])})

    def timeline(self, path: Path, guard: Guard) -> Timeline | None:
        """`probe.read_timeline` in a worker; raises like `probe`."""
        found = self._ask("timeline", path, guard)
        if found is None:
            return None
        times, keyframes = (np.array(found[name], np.int64) for name in ("times", "keyframes"))
        return Timeline(times, keyframes, Fraction(found["time_base"]))

    def _ask(self, what: str, path: Path, guard: Guard) -> Any:
        left_s = guard.left_s(path)
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = Worker()
        try:
            answer = worker.ask(what, path, guard, timeout_s=left_s)
        except TimeoutError:
            worker.end()
            raise guard.exceeded("max_wall_s", path, "took too long") from None
        except EOFError:
            code = worker.end()
            if code == -signal.SIGXCPU:
                raise guard.exceeded("max_cpu_s", path, "took too long to read") from None
            if code > 0 and "Traceback (most recent call last)" in worker.messages:
                raise RuntimeError(f"{path}: the process that read it failed\n{worker.messages}") from None
            raise VideoFailure("probe", f"{path.name}: the process that read it {ended_by(code)}") from None
        except BaseException:
            worker.end()
            raise
        self._idle.append(worker)
        if "found" not in answer:
            raise VideoFailure(answer["stage"], answer["reason"])
        return answer["found"]

    def __exit__(self, *_: object) -> None:
        while self._idle:
            self._idle.pop().end()


class Worker:
    """A process that inspects one video after another; lines of JSON go to it and come back.

    Attributes:
        messages: Its standard error, after it has ended.
    """

    messages = ""

    def __init__(self) -> None:
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {THIS_CODE}; {START}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout

    def ask(self, what: str, path: Path, guard: Guard, *, timeout_s: float) -> dict[str, Any]:
        """The answer to one question.

        Raises:
            TimeoutError: No answer in time.
            EOFError: The worker ended, or its answer is not valid.
        """
        home = None if guard.home is None else str(guard.home)
        question = {"what": what, "path": str(path), "home": home, "limits": asdict(guard.limits)}
        try:
            self._to.write(json.dumps(question).encode() + b"\n")
            self._to.flush()
        except BrokenPipeError:
            raise EOFError from None
        end, answer = time.monotonic() + timeout_s, bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                if not selector.select(max(end - time.monotonic(), 0)):
                    raise TimeoutError
                chunk = os.read(self._from.fileno(), 2**20)
                if not chunk or len(answer) > MAX_ANSWER_BYTES:
                    raise EOFError
                answer += chunk
        try:
            return dict(json.loads(answer))
        except (ValueError, TypeError):
            raise EOFError from None

    def end(self) -> int:
        """Let the worker end, or kill it; returns its exit code."""
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._messages.seek(0)
        self.messages = self._messages.read(MESSAGE_BYTES).decode(errors="replace")
        self._from.close()
        self._messages.close()
        return code


def serve() -> None:
    """The main loop of a worker: answer questions until its standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MESSAGE_BYTES, MESSAGE_BYTES))  # libraries' messages go to a file
    memory_mb = 0
    for line in sys.stdin.buffer:
        question = json.loads(line)
        limits = Limits(**question["limits"])
        if limits.max_memory_mb != memory_mb:
            memory_mb = limits.max_memory_mb
            limit_memory(memory_mb)
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + limits.max_cpu_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
        guard = Guard(limits, home=None if question["home"] is None else Path(question["home"]))
        sys.stdout.buffer.write(answer_to(question["what"], Path(question["path"]), guard))
        sys.stdout.buffer.flush()


def answer_to(what: str, path: Path, guard: Guard) -> bytes:
    """A worker's answer, one line of JSON: {"found"}, or {"stage", "reason"} of a failure."""
    answer: dict[str, Any]
    try:
        try:
            found = probe(path, guard) if what == "probe" else read_timeline(path, guard)
        except MemoryError:
            raise guard.exceeded("max_memory_mb", path, "needs more memory to read") from None
        answer = {"found": found and asdict(found)}
    except VideoFailure as failure:
        answer = {"stage": failure.stage, "reason": failure.reason}
    # In a timeline, arrays become lists and the time base a string.
    return json.dumps(answer, default=lambda v: v.tolist() if isinstance(v, np.ndarray) else str(v)).encode() + b"\n"


def limit_memory(memory_mb: int) -> None:
    """Limit this process's address space to its current size plus `memory_mb`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory_mb * MB, resource.RLIM_INFINITY))
