"""Run the trainings of a study: one at a time on each device, none of them twice."""

import fcntl
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from res3d_video.train.evaluation.confusion import SCORES
from res3d_video.train.study.results import is_done
from res3d_video.train.study.runs import StudyRun

LOG = "log.txt"


@dataclass(frozen=True)
class Slot:
    """A place for one training at a time.

    Attributes:
        environment: Variables of its processes, beside those of this one: which GPU, how many compute threads.
        device: auto, cpu or cuda, for the commands.
        num_threads: Decoding threads.
    """

    environment: Mapping[str, str]
    device: str = "auto"
    num_threads: int = 2


@dataclass(frozen=True)
class Finished:
    """How a run ended; `failed` is the reason in a line, None when it has its scores."""

    run: StudyRun
    failed: str | None = None


class Pool:
    """Trains and scores runs as the commands do by hand: train/main.py, then tools/evaluate.py, in a run's folder.

    A run whose scores are there is not run again. One that was cut off goes on from its last checkpoint; if its process
    has outlived the study that began it, it is waited for, for it holds the lock of its folder.

    Args:
        out: Folder of the study.
        clips: Of each test video.
        checkout: Folder that the commands start in.
        slots: At least one.
    """

    def __init__(self, out: Path, *, clips: int, checkout: Path, slots: Sequence[Slot]) -> None:
        self.out, self.clips, self.checkout = out, clips, checkout
        self.slots: SimpleQueue[Slot] = SimpleQueue()
        for slot in slots:
            self.slots.put(slot)
        self.num_slots = len(slots)
        self._guard = threading.Lock()
        self._children: set[subprocess.Popen] = set()
        self._stopped = False

    def work(self, runs: Sequence[StudyRun], *, say: Callable[[str], None]) -> Iterator[Finished]:
        """Do what is not done yet; yields runs as they end.

        Args:
            say: Told in a line about a run that has to be waited for.
        """
        with ThreadPoolExecutor(self.num_slots) as threads:
            waiting = [threads.submit(self._do, run, say) for run in runs]
            try:
                for future in as_completed(waiting):
                    yield future.result()
            finally:  # also when whoever iterates has had enough
                for future in waiting:
                    future.cancel()
                self.stop()

    def stop(self) -> None:
        """Ask the trainings to save and end, as torchrun would; no other begins."""
        with self._guard:
            self._stopped = True
            for child in self._children:
                child.send_signal(signal.SIGTERM)

    def _do(self, run: StudyRun, say: Callable[[str], None]) -> Finished:
        slot = self.slots.get()
        try:
            folder = self.out / run.folder
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / LOG).open("ab") as log, _only_user(folder, say=say) as lock:
                if is_done(self.out, run):
                    return Finished(run)
                common = ["--device", slot.device, "--num-threads", str(slot.num_threads)]
                scores = [
                    "--checkpoint",
                    str(folder / "latest.pt"),
                    "--data",
                    str(run.data),
                    "--clips",
                    str(self.clips),
                ]
                commands = [
                    ["res3d_video.train.main", *run.arguments(self.out), *common],
                    ["res3d_video.tools.evaluate", *scores, "--json", str(folder / SCORES), *common],
                ]
                for command in commands:
                    if not self._call(command, slot, log=log, lock=lock):
                        return Finished(run, f"{folder / LOG}: {last_line(folder / LOG)}")
            return Finished(run, None if is_done(self.out, run) else f"{run.folder}: stopped before its end")
        except OSError as error:
            return Finished(run, f"{run.folder}: {error}")
        finally:
            self.slots.put(slot)

    def _call(self, module_and_arguments: list[str], slot: Slot, *, log: IO[bytes], lock: IO) -> bool:
        """Run a command to its end; whether it succeeded, and nobody has asked to stop."""
        assigned = [f"{name}={value}" for name, value in slot.environment.items()]
        words = ["env", *assigned, sys.executable, "-m", *module_and_arguments]
        with self._guard:
            if self._stopped:
                return False
            log.write(f"$ {' '.join(words[1:])}\n".encode())
            log.flush()
            child = subprocess.Popen(
                words, cwd=self.checkout, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=(lock.fileno(),),  # the lock lasts as long as the command, even if this process is killed
                start_new_session=True,  # Ctrl-C is for this process, which asks them to save
            )  # fmt: skip
            self._children.add(child)
        code = child.wait()
        with self._guard:
            self._children.discard(child)
            return code == 0 and not self._stopped


@contextmanager
def _only_user(folder: Path, *, say: Callable[[str], None]) -> Iterator[IO]:
    """The lock of a run's folder; waits for whoever has it."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder}: a process of an earlier study is still at work there; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def last_line(path: Path) -> str:
    """The last line of a log that says something."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
