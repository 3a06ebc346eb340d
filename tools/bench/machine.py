"""Facts about the machine: hardware, versions, CPU time of threads, bytes from the disk, and the engines of a GPU."""

import importlib
import os
import platform
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from res3d_video.tools.bench.measure import load_psutil

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "simplejpeg", "av", "spdl", "torchcodec", "numpy")
DALI_WORKERS, UNNAMED = "DALI threads", "other threads"
SOFTWARE_DECODERS = "software decoders"  # Python threads of the simple engine
LOADER_THREAD = "clip-loader"  # name of a ClipLoader's thread


def installed(*packages: str) -> str | None:
    """Version of the first package that is installed; None if none is."""
    for package in packages:
        with suppress(PackageNotFoundError):
            return version(package)
    return None


def machine() -> dict[str, Any]:
    """Hardware, operating system, and versions of the installed packages that decode and train."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)", info.read_text(), re.MULTILINE) if info.is_file() else None
    found = {package: installed(package) for package in PACKAGES}
    versions = {"python": platform.python_version()} | {name: number for name, number in found.items() if number}
    return {
        "cpu": model[1] if model else platform.machine(),
        "num_cpus": os.cpu_count(),
        "num_cpus_allowed": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "versions": versions,
    }


def machine_lines(facts: dict[str, Any]) -> list[str]:
    """What `machine` returns, as two lines."""
    hardware = f"{facts['cpu']}, {facts['num_cpus_allowed']} of {facts['num_cpus']} CPUs, {facts['system']}"
    if "gpu" in facts:
        hardware = f"{facts['gpu']}; {hardware}"
    return [hardware, ", ".join(f"{name} {number}" for name, number in facts["versions"].items())]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; all columns but the first are aligned to the right.

    >>> markdown(["", "clips/s"], [["x|y", "565"]])
    ['| | clips/s |', '|---|---:|', '| x\\\\|y | 565 |']
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [header, *rows]]
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in cells]
    return [lines[0], "|---|" + "---:|" * (len(header) - 1), *lines[1:]]


def thread_seconds() -> dict[int, tuple[str, float]]:
    """Id of each thread of this process -> its group, and its CPU seconds since it started."""
    python, found = {thread.native_id: thread.name for thread in threading.enumerate()}, {}
    for thread in load_psutil().Process().threads():
        try:
            name = python.get(thread.id) or Path(f"/proc/self/task/{thread.id}/comm").read_text().strip()
        except OSError:  # it has ended
            continue
        found[thread.id] = (thread_group(name, is_python=thread.id in python), thread.user_time + thread.system_time)
    return found


def thread_group(name: str, *, is_python: bool = False) -> str:
    """The group that a thread belongs to.

    Args:
        name: Python's name for the thread if `is_python`, else Linux's.

    >>> thread_group("[DALI][TP1]Exec"), thread_group("python")
    ('DALI threads', 'other threads')
    >>> thread_group("clip-loader", is_python=True), thread_group("decoder_1", is_python=True)
    ('clip-loader', 'software decoders')
    """
    if is_python:
        return SOFTWARE_DECODERS if re.fullmatch(r"decoder_\d+", name) else name
    return DALI_WORKERS if re.match(r"\[DALI\]\[TP\d*\]", name) else UNNAMED


def seconds_by_group(before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]) -> dict[str, float]:
    """CPU seconds of each group between two results of `thread_seconds`; threads that have ended do not count.

    >>> seconds_by_group({1: ("a", 2.0)}, {1: ("a", 2.5), 2: ("b", 0.25), 3: ("a", 1.0)})
    {'a': 1.5, 'b': 0.25}
    """
    found: dict[str, float] = {}
    for number, (group, seconds) in after.items():
        found[group] = found.get(group, 0.0) + seconds - before.get(number, (group, 0.0))[1]
    return found


def drop_from_cache(paths: Iterable[Path]) -> None:
    """Drop files from the page cache; pages that a process has mapped and read stay there."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages that are not on the disk yet would stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_from_disk() -> int | None:
    """Bytes that came from the disk for this process, with read-ahead; None if the system does not say."""
    psutil = load_psutil()
    try:
        return psutil.Process().io_counters().read_bytes
    except (psutil.Error, OSError, NotImplementedError):  # some containers hide it
        return None


SAMPLE_EVERY_S = 0.2  # NVML's own numbers are means over a sixth of a second to a second

# Name of a reading -> how to get it from NVML. sm, jpeg and dec are in percent of the time.
READINGS: dict[str, Callable[[Any, Any], float]] = {
    "sm": lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "jpeg": lambda nvml, gpu: nvml.nvmlDeviceGetJpgUtilization(gpu)[0],
    "dec": lambda nvml, gpu: nvml.nvmlDeviceGetDecoderUtilization(gpu)[0],
    "memory_bytes": lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    "clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "power_w": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
}


class GpuMeter:
    """Reads utilization, memory, clock and power of a GPU from NVML.

    Args:
        uuid: NVML's name of the device, "GPU-…".

    Attributes:
        missing: Name of a reading that is not available here -> why; all of them without NVML.
    """

    def __init__(self, uuid: str) -> None:
        self.missing: dict[str, str] = {}
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            self.missing = dict.fromkeys(READINGS, 'nvidia-ml-py is not installed; pip install "res3d-video[bench]"')
            return
        try:
            self._nvml.nvmlInit()
            self._gpu = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        except self._nvml.NVMLError as error:
            self.missing = dict.fromkeys(READINGS, str(error))
        self.sample()  # fills `missing`

    def sample(self) -> dict[str, float]:
        """The readings that are available; one that fails is missing from then on."""
        found = {}
        for name, read in READINGS.items():
            if name in self.missing:
                continue
            try:
                found[name] = read(self._nvml, self._gpu)
            except (AttributeError, self._nvml.NVMLError) as error:
                self.missing[name] = str(error)
        return found

    @contextmanager
    def watch(self) -> Iterator[dict[str, float]]:
        """Read several times a second; the dict is filled with the means when the block ends."""
        samples: list[dict[str, float]] = []
        means: dict[str, float] = {}
        over = threading.Event()

        def keep_sampling() -> None:
            while not over.wait(SAMPLE_EVERY_S):
                samples.append(self.sample())

        thread = threading.Thread(target=keep_sampling, name="gpu-meter", daemon=True)
        thread.start()
        try:
            yield means
        finally:
            over.set()
            thread.join()
            samples.append(self.sample())
            means |= {name: fmean(one[name] for one in samples if name in one) for name in samples[0]}


def meter_of(device: "torch.device") -> GpuMeter | None:
    """The meter of a device of torch; None for a CPU."""
    import torch  # slow to import, and study.py --help imports this module

    return GpuMeter(f"GPU-{torch.cuda.get_device_properties(device).uuid}") if device.type == "cuda" else None
