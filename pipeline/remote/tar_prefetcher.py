"""Fetches the tars of a plan's coming steps before they are needed, in threads of its own."""

import contextlib
import copy
import functools
import threading
from typing import TYPE_CHECKING

from res3d_video.pipeline.plan import Plan
from res3d_video.pipeline.remote.errors import RemoteError

if TYPE_CHECKING:
    from res3d_video.pipeline.remote.tars import RemoteTars

IDLE_S = 0.1  # between two looks whether the reader has moved
JOIN_S = 1.0  # for a thread to end; one that waits for a server ends by itself, later
NUM_THREADS = 4


class TarPrefetcher:
    """The tars of one rank's coming steps.

    Args:
        rows: The rank's rows of each global batch.
        tar_bytes: Sizes of all tars.
        most_bytes: Of those that are fetched ahead, about.
        num_steps: How far ahead.
    """

    def __init__(
        self, tars: "RemoteTars", plan: Plan, *, rows: slice, tar_bytes: list[int], most_bytes: float, num_steps: int
    ) -> None:
        self._tars, self._rows, self._tar_bytes = tars, rows, tar_bytes
        self._most_bytes, self._num_steps = most_bytes, num_steps
        self._plan = copy.deepcopy(plan, {id(plan.index): plan.index})  # plans keep orders; threads must not share them
        self._tars_of = functools.lru_cache(num_steps + 1)(self.tars_of)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, step: int) -> None:
        """Begin with the tars of a step."""
        self.end()
        self._stop, self._step = threading.Event(), step
        self._planned_step, self._coming, self._tried = -1, dict[int, int](), set[int]()
        for i in range(NUM_THREADS if self._num_steps else 0):
            name = f"tar-prefetcher-{i}"
            self._threads.append(threading.Thread(target=self._run, args=(self._stop,), name=name, daemon=True))
            self._threads[-1].start()

    def move(self, step: int) -> None:
        """The reader is at this step now."""
        self._step = step

    def end(self) -> None:
        """Stop fetching."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_S)
        self._threads = []

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            number = self._next()
            if number is None:
                stop.wait(IDLE_S)
                continue
            with contextlib.suppress(RemoteError):  # the reader will meet it too, and has somebody to tell
                file = self._tars.open(number, stop=stop, is_needed=False)
                if file is not None:
                    file.close()

    def _next(self) -> int | None:
        """The tar to fetch next; None when nothing is to be done now."""
        with self._lock:
            if self._planned_step != self._step:
                self._planned_step = self._step
                self._coming = self._tars_from(self._step)
                self._tried &= self._coming.keys()
            for number in self._coming:
                if number not in self._tried:
                    self._tried.add(number)
                    if not self._tars.touch(number):
                        return number
            return None

    def _tars_from(self, step: int) -> dict[int, int]:
        """The tars of a step and of those after it, as far as there is room; number -> bytes."""
        end, last = step + self._num_steps + 1, self._plan.num_steps
        coming: dict[int, int] = {}
        for coming_step in range(step, end if last is None else min(end, last)):
            if sum(coming.values()) > self._most_bytes:
                break
            coming |= {number: self._tar_bytes[number] for number in self._tars_of(coming_step)}
        return coming

    def tars_of(self, step: int) -> list[int]:
        """The tars of this rank's clips of a step, each once, in the order of the clips."""
        clips = self._plan.batch(step)[self._rows]
        return list(dict.fromkeys(self._plan.index.tar_of(clips.sample).tolist()))
