"""A turn: what one lane cost for some seconds; whose turn it is, and when nothing else is going on."""

import time
from dataclasses import dataclass

from pipeline.reader import ReadWork
from tools.bench.gpu import GpuUse
from tools.bench.measure import Memory, wait_until_idle

IDLE_CORES, IDLE_WINDOW_S, IDLE_TIMEOUT_S = 0.1, 0.03, 5.0


@dataclass(frozen=True)
class Turn:
    """One lane's turn.

    Attributes:
        repeat: Which round of turns, 0-based.
        wall_s: Until all of its work was done, on the GPU too.
        cpu_s: Of this process and its children.
        data_wait_s: That the host waited for batches.
        plan_steps: First step of the plan that was taken, and the first that was not; None without a loader.
        work: What was read for the batches taken.
        disk_bytes: Fetched from storage; None where unknown.
        thread_s: CPU seconds by group of threads.
        gpu: What NVML says; None on a CPU.
        memory: Before and after; counted in clips of all lanes.
        busy_before: Cores that this process kept busy although nothing was asked of it, right before the turn.
    """

    lane: str
    repeat: int
    num_steps: int
    num_clips: int
    wall_s: float
    cpu_s: float
    data_wait_s: float
    plan_steps: tuple[int, int] | None
    work: ReadWork
    disk_bytes: int | None
    thread_s: dict[str, float]
    gpu: GpuUse | None
    memory: tuple[Memory, Memory]
    busy_before: float

    @property
    def clips_per_s(self) -> float:
        return self.num_clips / self.wall_s

    @property
    def ms_per_step(self) -> float:
        return 1000 * self.wall_s / self.num_steps

    @property
    def cores(self) -> float:
        """Cores kept busy, on average."""
        return self.cpu_s / self.wall_s

    @property
    def data_wait(self) -> float:
        """Share of the time."""
        return self.data_wait_s / self.wall_s


def turns_of(lanes: list[str], *, repeats: int) -> list[tuple[int, str]]:
    """(repeat, lane) in the order of the turns: every repeat begins one lane further on, so none is always first.

    >>> [lane for _, lane in turns_of(["a", "b", "c"], repeats=3)]
    ['a', 'b', 'c', 'b', 'c', 'a', 'c', 'a', 'b']
    """
    return [(repeat, lanes[(repeat + place) % len(lanes)]) for repeat in range(repeats) for place in range(len(lanes))]


def settle() -> float:
    """Wait until this process does nothing: queues are full, nothing decodes ahead.

    Returns:
        Cores still busy after five seconds of waiting, or what little is left before.
    """
    return wait_until_idle(time.process_time, cores=IDLE_CORES, window_s=IDLE_WINDOW_S, timeout_s=IDLE_TIMEOUT_S)
