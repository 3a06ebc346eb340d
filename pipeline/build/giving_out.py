"""Who makes which tar next: tries again what failed, gives out again what takes too long. No clock, no IO."""

from collections import Counter, deque
from dataclasses import dataclass
from statistics import median

FEW = 3  # finished tars, before it is clear how long one takes


@dataclass(frozen=True)
class Patience:
    """When a tar is given to a second worker: after `factor` times the median, and not before `least_s`."""

    factor: float = 3.0
    least_s: float = 60.0


class GivingOut:
    """The state of work that several workers do; times are seconds of any clock.

    A piece of work may be with two workers at once; the first to finish it counts.
    """

    def __init__(self, names: list[str], *, max_attempts: int, patience: Patience | None = None) -> None:
        self._waiting = deque(names)
        self._max_attempts, self._patience = max_attempts, patience or Patience()
        self._given: dict[str, float] = {}  # when it was last given out
        self._workers: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self._durations_s: list[float] = []
        self._finished: set[str] = set()
        self.failed: dict[str, str] = {}

    @property
    def is_over(self) -> bool:
        """Whether everything is finished or has failed for good."""
        return not self._waiting and not self.in_work

    @property
    def in_work(self) -> set[str]:
        """What some worker has and none has finished."""
        return {name for name, count in self._workers.items() if count > 0 and name not in self._finished}

    def give(self, *, now_s: float) -> str | None:
        """What a free worker is to do: what waits; else what another one has had for too long; None if neither."""
        name = self._waiting.popleft() if self._waiting else self._slowest(now_s)
        if name is not None:
            self._given[name] = now_s
            self._workers[name] += 1
        return name

    def finish(self, name: str, *, now_s: float) -> bool:
        """A worker has finished it; True if it is the first one."""
        self._workers[name] -= 1
        if name in self._finished:
            return False
        self._finished.add(name)
        self.failed.pop(name, None)
        self._durations_s.append(now_s - self._given[name])
        return True

    def fail(self, name: str, reason: str) -> None:
        """A worker has failed or died; the work is done again, unless another worker still has it."""
        self._workers[name] -= 1
        self._attempts[name] += 1
        self._reasons[name] = reason
        if name in self._finished or self._workers[name]:
            return
        if self._attempts[name] < self._max_attempts:
            self._waiting.append(name)
        else:
            self.failed[name] = self._reasons[name]

    def _slowest(self, now_s: float) -> str | None:
        alone = [n for n in self.in_work if self._workers[n] == 1 and self._attempts[n] < self._max_attempts]
        if not alone or len(self._durations_s) < FEW:
            return None
        name = min(alone, key=lambda name: (self._given[name], name))
        limit_s = max(self._patience.least_s, self._patience.factor * median(self._durations_s))
        return name if now_s - self._given[name] > limit_s else None
