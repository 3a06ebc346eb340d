"""tools/bench/measure.py: when nothing else is going on, and processes that answer."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from res3d_video.tools.bench import measure as module
from res3d_video.tools.bench.measure import BenchError, Child, reason, settle
from tests.tools.bench.made import Clock


def test_settling_waits_until_little_is_done_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, busy = ([2.0, 0.5, 0.05, 1.0], 3 * module.IDLE_WINDOW_S), (itertools.repeat(1.0), module.IDLE_TIMEOUT_S)
    for cores, waits_s in (quiet, busy):
        clock = Clock(cores)
        monkeypatch.setattr(module, "time", clock)
        settle(lambda clock=clock: clock.cpu_s)
        assert clock.now_s == pytest.approx(waits_s, abs=1.5 * module.IDLE_WINDOW_S)


@contextmanager
def says_nothing() -> Iterator[None]:
    time.sleep(1000)
    yield


@contextmanager
def dies() -> Iterator[None]:
    os._exit(3)
    yield


def test_a_process_that_says_nothing_or_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.1)
    with Child("silent", says_nothing) as child, pytest.raises(BenchError, match="no answer for 0 seconds"):
        child.ask("request", timeout_s=0.2)
    with Child("dead", dies) as child, pytest.raises(BenchError, match="its process ended with exit code 3"):
        child.ask("request", timeout_s=60)


@pytest.mark.parametrize("text", ["Could not load libtorchcodec. Likely causes:\n1. …", "Failed to import libspdl."])
def test_a_missing_ffmpeg_becomes_the_way_out(text: str) -> None:
    assert reason(RuntimeError(text)).startswith("it finds no FFmpeg that it can load; apt-get install ffmpeg")
