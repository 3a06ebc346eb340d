"""tools/bench/turns.py: whose turn it is, and when nothing else is going on."""

import threading

import pytest

from tools.bench import turns
from tools.bench.turns import settle, turns_of


def test_every_lane_has_every_turn_once_and_none_is_always_first() -> None:
    order = turns_of(["a", "b", "c"], repeats=6)
    assert sorted(order) == [(repeat, lane) for repeat in range(6) for lane in "abc"]
    assert [lane for _, lane in order[::3]] == ["a", "b", "c", "a", "b", "c"]


def test_settling_waits_for_a_thread_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "IDLE_TIMEOUT_S", 0.2)
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        assert settle() > turns.IDLE_CORES
    finally:
        over.set()
        thread.join()
    assert settle() < turns.IDLE_CORES
