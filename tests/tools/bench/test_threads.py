"""tools/bench/machine.py: CPU time goes to the thread that used it."""

import threading
import time
from pathlib import Path

import pytest

from res3d_video.tools.bench import machine
from res3d_video.tools.bench.machine import seconds_by_group, thread_seconds


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux tells the time of threads")
def test_a_busy_thread_is_found_by_its_python_name() -> None:
    go_on, done = threading.Event(), threading.Event()

    def work() -> None:
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass
        done.set()
        go_on.wait()

    before = thread_seconds()
    thread = threading.Thread(target=work, name="busy one")
    thread.start()
    done.wait()
    found = seconds_by_group(before, thread_seconds())
    go_on.set()
    thread.join()
    assert found["busy one"] >= 0.08  # the kernel counts in hundredths of a second
    assert "MainThread" in found


def test_where_the_system_does_not_tell_nothing_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "TASKS", tmp_path / "absent")
    assert thread_seconds() == {}
