"""Fetches the tars of a plan's coming steps before they are needed, in threads of its own."""

import copy
import threading
from collections import Counter, deque
from typing import Protocol

import numpy as np

from pipeline.plan import Plan, TrainPlan
from pipeline.remote.errors import Interrupted, RemoteError
from pipeline.remote.files import pause
from pipeline.remote.settings import RemoteSettings

IDLE_S = 0.1  # between two looks whether the reader has moved
JOIN_S = 1.0  # for a thread to end; one that waits for a server ends by itself, later
SHARE_AHEAD = 0.5  # of the limit, for tars of coming steps; the rest is for those in use


class TarSource(Protocol):
    """Where tars are fetched from; `RemoteTars`."""

    def open(self, number: int, *, stop: threading.Event) -> object: ...

    def touch(self, number: int) -> bool: ...

    def warn_short(self, num_bytes: int) -> None: ...


class TarsAhead:
    """The tars of one rank's coming steps.

    Args:
        rows: The rank's rows of each global batch.
        tar_bytes: Sizes of all tars.
        limit_bytes: Of the cache.
    """

    def __init__(
        self,
        tars: TarSource,
        plan: Plan,
        *,
        rows: slice,
        tar_bytes: list[int],
        limit_bytes: int | None,
        settings: RemoteSettings,
    ) -> None:
        self._tars, self._rows, self._tar_bytes, self._limit = tars, rows, tar_bytes, limit_bytes
        self._plan = copy.deepcopy(plan, {id(plan.index): plan.index})  # plans keep orders; threads must not share them
        self._num_steps, self._num_threads = settings.fetch_ahead, settings.num_fetchers
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
            threading.Thread(target=self._run, args=(self._stop, i), name=f"tars-ahead-{i}", daemon=True)
            for i in range(self._num_threads)
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

    def _run(self, stop: threading.Event, thread: int) -> None:
        try:
            if thread == 0:
                self._warn_if_short()
            while not stop.is_set():
                number = self._next()
                if number is None:
                    pause(stop, IDLE_S)
                    continue
                try:
                    file = self._tars.open(number, stop=stop)
                except Interrupted:
                    raise
                except RemoteError:
                    continue  # the reader will meet it too, and has somebody to tell
                if file is not None:
                    file.close()  # type: ignore[attr-defined]
        except Interrupted:
            return

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

    def _warn_if_short(self) -> None:
        """Find out before it hurts that the plan needs more tars together than the cache may hold."""
        if self._limit is None or not isinstance(self._plan, TrainPlan):
            return
        size, first = self._plan.samples_per_epoch, self._step * self._plan.global_batch_size
        positions = np.arange(size, dtype=np.int64) + first // size * size
        tars = self._plan.index.tar_of(self._plan.samples_at(positions))
        needed = bytes_together(tars, np.array(self._tar_bytes))
        if needed > self._limit:
            self._tars.warn_short(needed)


def bytes_together(tars: np.ndarray, tar_bytes: np.ndarray) -> int:
    """The cache that reads an order of samples without fetching any tar twice.

    A tar is needed from its first sample in that order to its last.

    Args:
        tars: int [N], the tar of each sample, in the order in which samples are read.
        tar_bytes: int [T], sizes of all tars.

    Returns:
        The largest sum of sizes of tars that are needed at the same time.

    >>> bytes_together(np.array([0, 0, 1, 1, 2]), np.array([5, 7, 6])), bytes_together(
    ...     np.array([0, 1, 0, 2, 1]), np.array([5, 7, 6])
    ... )
    (7, 13)
    """
    if not len(tars):
        return 0
    first = np.full(len(tar_bytes), -1)
    last = np.full(len(tar_bytes), -1)
    places = np.arange(len(tars))
    first[tars[::-1]] = places[::-1]
    last[tars] = places
    used = first >= 0
    change = np.zeros(len(tars) + 1, np.int64)
    np.add.at(change, first[used], tar_bytes[used])
    np.add.at(change, last[used] + 1, -tar_bytes[used])
    return int(np.cumsum(change).max())
