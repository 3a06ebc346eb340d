"""tools/bench/machine.py: what NVML gives, CPU time of threads, and files that leave the page cache."""

import mmap
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from res3d_video.tools.bench import machine
from res3d_video.tools.bench.machine import READINGS, GpuMeter, seconds_by_group, thread_seconds
from tests.until import until

pytest.importorskip("psutil", reason="the benchmarks need psutil")


class NVMLError(Exception):
    pass


def refuse(*_: object) -> None:
    raise NVMLError("Not Supported")


def meter_with(monkeypatch: pytest.MonkeyPatch, **changes: object) -> GpuMeter:
    """A meter of a made-up GPU without video decoders; a function that is None does not exist."""
    functions = {
        "NVMLError": NVMLError, "nvmlInit": lambda: None, "nvmlDeviceGetHandleByUUID": lambda uuid: f"handle of {uuid}",
        "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=97, memory=40),
        "nvmlDeviceGetJpgUtilization": lambda gpu: [93, 20000], "nvmlDeviceGetDecoderUtilization": refuse,
        "NVML_CLOCK_SM": 1, "nvmlDeviceGetClockInfo": lambda gpu, kind: 1980 * kind,
        "nvmlDeviceGetPowerUsage": lambda gpu: 650_500,
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=3 << 30, total=80 << 30),
    }  # fmt: skip
    found = {name: value for name, value in (functions | changes).items() if value is not None}
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**found))  # type: ignore[arg-type]
    return GpuMeter("GPU-1")


def test_what_nvml_gives_is_read_and_what_it_refuses_or_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = meter_with(monkeypatch)
    assert meter.missing == {"dec": "Not Supported"}
    assert meter.sample() == {"sm": 97, "jpeg": 93, "memory_bytes": 3 << 30, "clock_mhz": 1980, "power_w": 650.5}
    assert set(meter_with(monkeypatch, nvmlDeviceGetJpgUtilization=None).missing) == {"jpeg", "dec"}


def test_without_a_driver_or_the_package_nothing_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = meter_with(monkeypatch, nvmlInit=refuse)
    assert broken.missing == dict.fromkeys(READINGS, "Not Supported")
    assert broken.sample() == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert all('pip install "res3d-video[bench]"' in reason for reason in GpuMeter("GPU-1").missing.values())


def test_watching_reads_on_until_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def rates(gpu: object) -> SimpleNamespace:
        asked.append(gpu)
        return SimpleNamespace(gpu=len(asked))

    with meter_with(monkeypatch, nvmlDeviceGetUtilizationRates=rates).watch() as means:
        until(lambda: len(asked) >= 4)
    assert means["sm"] == (2 + len(asked)) / 2  # of 2, 3, …; the first found out what is there
    assert "dec" not in means
    assert "gpu-meter" not in {thread.name for thread in threading.enumerate()}


def test_a_busy_thread_is_found_by_its_python_name() -> None:
    go_on, done = threading.Event(), threading.Event()

    def work() -> None:
        end_s = time.thread_time() + 0.1
        while time.thread_time() < end_s:
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


def test_a_file_that_was_dropped_is_read_from_disk(tmp_path: Path) -> None:
    path, before = tmp_path / "shard.tar", machine.bytes_from_disk()
    path.write_bytes(os.urandom(100 * mmap.PAGESIZE))
    machine.drop_from_cache([path])
    path.read_bytes()
    after = machine.bytes_from_disk()
    if before is None or after is None or before == after:
        pytest.skip(f"{tmp_path}: its file system keeps files in memory, or the system does not count")
    assert after - before >= 100 * mmap.PAGESIZE
