"""Fetches the tars of a plan's coming steps before they are needed, in threads of its own."""

import contextlib
import copy
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING

from pipeline.plan import Plan
from pipeline.remote.errors import RemoteError

if TYPE_CHECKING:
    from pipeline.remote.tars import RemoteTars

IDLE_S = 0.1  # between two looks whether the reader has moved
JOIN_S = 1.0  # for a thread to end; one that waits for a server ends by itself, later
NUM_THREADS = 4
SHARE_AHEAD = 0.5  # of the limit, for tars of coming steps; the rest is for those in use


class TarPrefetcher:
    """The tars of one rank's coming steps.

    Args:
        rows: The rank's rows of each global batch.
        tar_bytes: Sizes of all tars.
        limit_bytes: Of the cache.
        num_steps: How far ahead.
    """

    def __init__(
        self,
        tars: "RemoteTars",
        plan: Plan,
        *,
        rows: slice,
        tar_bytes: list[int],
        limit_bytes: int | None,
        num_steps: int,
    ) -> None:
        self._tars, self._rows, self._tar_bytes, self._limit = tars, rows, tar_bytes, limit_bytes
        self._plan = copy.deepcopy(plan, {id(plan.index): plan.index})  # plans keep orders; threads must not share them
        self._num_steps = num_steps
        self._stop = threading.Event()
        self._stop.set()
        self._threads: list[threading.Thread] = []

    def start(self, step: int) -> None:
        """Begin with the tars of a step."""
        self.end()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._step = self._next_step = step
        self._wanted: deque[int] = deque()
        self._horizon: deque[tuple[int, list[int]]] = deque()  # steps planned and not yet read, and their tars
        self._counts: Counter[int] = Counter()  # of tars in the horizon
        self._num_bytes = 0
        if self._num_steps == 0:
            return
        self._threads = [
            threading.Thread(target=self._run, args=(self._stop,), name=f"tar-prefetcher-{i}", daemon=True)
            for i in range(NUM_THREADS)
        ]
        for thread in self._threads:
            thread.start()

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
            while self._horizon and self._horizon[0][0] < self._step:
                self._forget(self._horizon.popleft()[1])
            self._next_step = max(self._next_step, self._step)
            while not self._wanted and self._may_plan():
                self._plan_step(self._next_step)
                self._next_step += 1
            return self._wanted.popleft() if self._wanted else None

    def _may_plan(self) -> bool:
        last = self._plan.num_steps
        return (
            self._next_step <= self._step + self._num_steps
            and (last is None or self._next_step < last)
            and (self._limit is None or self._num_bytes <= SHARE_AHEAD * self._limit)
        )

    def _plan_step(self, step: int) -> None:
        tars = self.tars_of(step)
        for number in tars:
            if not self._counts[number]:
                self._num_bytes += self._tar_bytes[number]
                if not self._tars.touch(number):
                    self._wanted.append(number)
            self._counts[number] += 1
        self._horizon.append((step, tars))

    def _forget(self, tars: list[int]) -> None:
        for number in tars:
            self._counts[number] -= 1
            if not self._counts[number]:
                del self._counts[number]
                self._num_bytes -= self._tar_bytes[number]

    def tars_of(self, step: int) -> list[int]:
        """The tars of this rank's clips of a step, each once, in the order of the clips."""
        clips = self._plan.batch(step)[self._rows]
        return list(dict.fromkeys(self._plan.index.tar_of(clips.sample).tolist()))
