"""tools/bench/measure.py: whose turn it is, and when nothing else is going on."""

import itertools
from collections.abc import Iterable

import pytest

from res3d_video.tools.bench import measure
from res3d_video.tools.bench.measure import settle, turns_of


def test_every_lane_has_every_turn_once_and_none_is_always_first() -> None:
    order = turns_of(["a", "b", "c"], repeats=6)
    assert sorted(order) == [(repeat, lane) for repeat in range(6) for lane in "abc"]
    assert [lane for _, lane in order[::3]] == ["a", "b", "c", "a", "b", "c"]


class Clock:
    """Time that passes in `sleep` alone, while the process works on so many cores, a number a sleep."""

    def __init__(self, cores: Iterable[float]) -> None:
        self.cores, self.now_s, self.cpu_s = iter(cores), 0.0, 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.cpu_s += seconds * next(self.cores)

    def monotonic(self) -> float:
        return self.now_s

    perf_counter = monotonic

    def process_time(self) -> float:
        return self.cpu_s


@pytest.mark.parametrize(
    ("cores", "left", "waits_s"),
    [([2.0, 0.5, 0.05, 1.0], 0.05, 3 * measure.IDLE_WINDOW_S), (itertools.repeat(1.0), 1.0, measure.IDLE_TIMEOUT_S)],
)
def test_settling_waits_until_little_is_done_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, cores: Iterable[float], left: float, waits_s: float
) -> None:
    clock = Clock(cores)
    monkeypatch.setattr(measure, "time", clock)
    assert settle() == pytest.approx(left)
    assert clock.now_s == pytest.approx(waits_s, abs=1.5 * measure.IDLE_WINDOW_S)
