"""Time of each rank's steps: which rank delays the others, and whether data or computing delays it."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from res3d_video.pipeline.loader import Batch
from res3d_video.train.ranks import Ranks

WINDOW_STEPS = 50  # over which ranks are compared
STRAGGLES = 0.20  # over the median of the other ranks
RECOVERED = 0.10  # below this a straggler has recovered, and is reported again if it comes back


class Reading(NamedTuple):
    """One rank's numbers since its last reading; floats, as they are gathered with the step's loss."""

    num_steps: float
    wall_s: float  # without evaluations and writing checkpoints
    blocked_s: float  # of it, waiting for other ranks' gradients
    data_wait_s: float  # of it, waiting for clips
    num_replaced: float  # clips that replaced damaged ones
    num_cache_hits: float  # these two for shards behind a URL: tars that were in the cache when they were needed,
    num_cache_misses: float  # and tars that the loader had to wait for


class RankClock:
    """Takes batches and measures the time of this rank's steps.

    With synchronous SGD a step takes equally long on all ranks, because a rank that is early waits in the all_reduce of
    the gradients. So ranks are compared by their own time, that of the step without this wait. The wait begins when
    the rank has computed its last gradient, that of the first layer, and ends when the optimizer begins. A slow loader,
    a slow GPU and anything else that delays a rank between two waits count as its own time. The transfer of the last
    gradients counts as waiting; it is nearly the same on all ranks.

    With gloo on a CPU, both moments are host times. With NCCL the host runs ahead of the GPU, so both are CUDA events
    on the step's stream, which waits for NCCL's stream just before the optimizer. The host never waits for an event:
    it reads those that have completed, so times on a GPU, including waits for clips, are counted a step or two late.

    The wait in the small all_reduce of `OutcomeQueue` counts as own time, equally on all ranks: only the optimizer runs
    between the two collectives, so a rank that is slow in the optimizer alone is not found.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, ranks: Ranks) -> None:
        self._on_gpu = ranks.device.type == "cuda"
        self._underway: deque[tuple[str, Any, Any]] = deque()  # events of a GPU: name of a field, begin, end
        self._ready: Any = None  # when this rank's gradients were there
        self._begun_s = time.perf_counter()  # moved on by pauses
        self._sums = dict.fromkeys(Reading._fields, 0.0)
        if ranks.world_size > 1:
            next(model.parameters()).register_post_accumulate_grad_hook(self._gradients_are_ready)
            optimizer.register_step_pre_hook(self._gradients_are_averaged)

    def take(self, batches: Iterator[Batch]) -> Batch:
        """The next batch of a loader; StopIteration at the end.

        The loader hands a batch over before its copy to the GPU is done, so only CUDA events measure the wait.
        """
        self._collect()
        begun = self._now()
        batch = next(batches)
        self._add("data_wait_s", begun)
        self._sums["num_steps"] += 1
        self._sums["num_replaced"] += batch.num_replaced
        self._sums["num_cache_hits"] += batch.work.num_cache_hits
        self._sums["num_cache_misses"] += batch.work.num_cache_misses
        return batch

    def read(self) -> Reading:
        """The numbers since the last reading; resets them."""
        self._collect()
        now_s = time.perf_counter()
        found = Reading(**self._sums | {"wall_s": max(now_s - self._begun_s, 1e-9)})
        self._begun_s, self._sums = now_s, dict.fromkeys(Reading._fields, 0.0)
        return found

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Do not count the time of the block, which is not training."""
        begun_s = time.perf_counter()
        yield
        self._begun_s += time.perf_counter() - begun_s

    def _collect(self) -> None:
        """Count the events that a GPU has completed."""
        while self._underway and self._underway[0][2].query():
            name, begun, ended = self._underway.popleft()
            self._sums[name] += begun.elapsed_time(ended) / 1000

    def _gradients_are_ready(self, _: object) -> None:
        self._ready = self._now()

    def _gradients_are_averaged(self, *_: object) -> None:
        self._add("blocked_s", self._ready)

    def _now(self) -> Any:
        """The current time in seconds; on a GPU a CUDA event on the current stream."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _add(self, name: str, begun: Any) -> None:
        """Count the time since `begun`; on a GPU later, once its events have completed."""
        if self._on_gpu:
            self._underway.append((name, begun, self._now()))
        else:
            self._sums[name] += self._now() - begun


def column(readings: np.ndarray, name: str) -> np.ndarray:
    """A field of all ranks: float64 [R] of readings [R, 7]."""
    return readings[:, Reading._fields.index(name)]


def own_times(readings: np.ndarray) -> np.ndarray:
    """Seconds of each rank without its waits for others: float64 [R] of readings [R, 7]."""
    return np.maximum(column(readings, "wall_s") - column(readings, "blocked_s"), 0)


def line_of(readings: np.ndarray, hosts: Sequence[str], *, global_batch_size: int) -> dict[str, Any]:
    """The fields of a line of metrics.jsonl about time and ranks; with one rank, without `slowest` and `ranks`.

    Args:
        readings: float64 [R, 7], a `Reading` a rank.
        hosts: Name of each rank's machine.
    """
    num_steps, wall_s, waits_s = (column(readings, name) for name in ("num_steps", "wall_s", "data_wait_s"))
    longest = int(waits_s.argmax())
    line: dict[str, Any] = {
        "clips_per_s": float(num_steps[0] * global_batch_size / wall_s[0]),
        "data_wait_s": float(waits_s[longest]),
        "data_wait": float(waits_s[longest] / wall_s[longest]),
    }
    counts = ("num_replaced", "num_cache_hits", "num_cache_misses")
    ranks: dict[str, list] = {name: column(readings, name).astype(int).tolist() for name in counts}
    of_cache = {name: sum(ranks[name]) for name in counts[1:]}
    if any(of_cache.values()):
        line |= of_cache
    else:  # shards of a local folder
        del ranks["num_cache_hits"], ranks["num_cache_misses"]
    if len(hosts) > 1:
        own_step_s = own_times(readings) / num_steps
        ranks = {"own_step_s": rounded(own_step_s), "data_wait": rounded(waits_s / wall_s)} | ranks
        slowest = int(own_step_s.argmax())
        own = {name: values[slowest] for name, values in ranks.items()}
        line |= {"slowest": {"rank": slowest, "host": hosts[slowest], **own}, "ranks": ranks}
    return line


def rounded(values: np.ndarray) -> list[float]:
    """Values with four significant digits, to keep lines short.

    >>> rounded(np.array([1 / 3, 123456.0]))
    [0.3333, 123500.0]
    """
    return [float(f"{value:.4g}") for value in values]


class Straggler(NamedTuple):
    """A rank that delays the others.

    Attributes:
        own_step_s: Seconds of a step without waiting for others, mean over the window.
        over: Excess over the median of the other ranks; 0.5 for one and a half times the median.
        waits_for: "data" if most of the excess is waiting for clips, else "compute".
    """

    rank: int
    host: str
    own_step_s: float
    over: float
    waits_for: str

    def warning(self) -> str:
        """The line that is printed."""
        what = "its disk, network, cache and --num-threads" if self.waits_for == "data" else "what else runs there"
        return (
            f"warning: rank {self.rank} on {self.host} makes the others wait for its {self.waits_for}: a step takes it "
            f"{self.own_step_s:.3g} s, {self.over:.0%} more than the median of the others; look at {what}"
        )


def compare_ranks(own_s: np.ndarray, data_wait_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each rank's excess over the median of the others, and whether most of it is waiting for clips.

    The median is of the others, because of two ranks the slower one would be half of a median of all.

    Args:
        own_s: float [R, S], R >= 2: seconds of each rank in each step, or group of steps, without waiting for others.
        data_wait_s: float [R, S], the part of it spent waiting for clips.

    Returns:
        float64 [R], 0.25 for a quarter longer than the others, 0 if they took no time; bool [R], whether more than
        half of a rank's excess is waiting for clips.

    >>> compare_ranks(np.array([[1.0, 1], [1, 1], [1, 1], [1, 2]]), np.array([[0.0, 0], [0, 0], [0, 0], [0, 1]]))
    (array([0. , 0. , 0. , 0.5]), array([False, False, False,  True]))
    """
    own_s, data_wait_s = own_s.sum(axis=1), data_wait_s.sum(axis=1)
    others_s, others_wait_s = median_of_others(own_s), median_of_others(data_wait_s)
    excess_s = own_s - others_s
    over = np.divide(excess_s, others_s, out=np.zeros(len(own_s)), where=others_s > 0)
    return over, data_wait_s - others_wait_s > excess_s / 2


def median_of_others(values: np.ndarray) -> np.ndarray:
    """For each of R >= 2 values the median of the others: float64 [R].

    >>> median_of_others(np.array([1.0, 2, 4, 7]))
    array([4., 4., 2., 2.])
    """
    count = len(values)
    others = np.broadcast_to(values, (count, count))[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    return np.median(others, axis=1)


class StragglerWatch:
    """Finds stragglers over the last 50 steps; each is reported once until it has recovered.

    The first readings of a process are ignored, as they include starting up.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self.hosts = hosts  # name of each rank's machine
        self._window: deque[tuple[float, np.ndarray]] = deque()  # of lines: steps; own time and wait for clips [2, R]
        self._num_steps, self._has_begun = 0.0, False
        self._known: set[int] = set()

    def add(self, readings: np.ndarray) -> list[Straggler]:
        """Add the readings of a line, float64 [R, 7]; returns the new stragglers."""
        if not self._has_begun or len(readings) < 2:
            self._has_begun = True
            return []
        num_steps = column(readings, "num_steps")[0]
        self._window.append((num_steps, np.stack([own_times(readings), column(readings, "data_wait_s")])))
        while self._num_steps + num_steps - self._window[0][0] >= WINDOW_STEPS:
            num_steps -= self._window.popleft()[0]
        self._num_steps += num_steps
        if self._num_steps < WINDOW_STEPS:
            return []
        own_s, data_wait_s = np.stack([times_s for _, times_s in self._window], axis=2)  # [R, lines]
        over, is_data = compare_ranks(own_s, data_wait_s)
        slow = set(np.flatnonzero(over > STRAGGLES).tolist())
        new = slow - self._known
        self._known = slow | (self._known - set(np.flatnonzero(over < RECOVERED).tolist()))
        step_s, found = own_s.sum(axis=1) / self._num_steps, []
        for rank in sorted(new):
            waits_for = "data" if is_data[rank] else "compute"
            found.append(Straggler(rank, self.hosts[rank], float(step_s[rank]), float(over[rank]), waits_for))
        return found
