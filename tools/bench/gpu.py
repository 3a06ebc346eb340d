"""What NVML says of a GPU while something runs: SM, JPEG and video engines, memory. What it does not know is None."""

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SAMPLE_EVERY_S = 0.2  # NVML's own numbers are means over a sixth of a second to a second

# reading -> how NVML gives it; percent of time, and bytes
READINGS: dict[str, Callable[[Any, Any], float]] = {
    "sm": lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "jpeg": lambda nvml, gpu: nvml.nvmlDeviceGetJpgUtilization(gpu)[0],
    "dec": lambda nvml, gpu: nvml.nvmlDeviceGetDecoderUtilization(gpu)[0],
    "memory_used": lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    "clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "power_w": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
}


@dataclass(frozen=True)
class GpuUse:
    """A GPU during some time.

    Attributes:
        sm: Mean share of the time in which a kernel ran, percent.
        jpeg, dec: Mean use of the JPEG and of the video decoders, percent.
        memory_used: Of all processes, bytes, at the end.
        num_samples: Readings that the means are of.
        clock_mhz, power_w: Mean clock of the SMs, and power.
    """

    sm: float | None = None
    jpeg: float | None = None
    dec: float | None = None
    memory_used: int | None = None
    num_samples: int = 0
    clock_mhz: float | None = None
    power_w: float | None = None

    @classmethod
    def of(cls, samples: list[dict[str, float]]) -> "GpuUse":
        """Means of some readings; a reading that is in none of them stays None.

        >>> GpuUse.of([{"sm": 90.0, "memory_used": 5}, {"sm": 100.0, "memory_used": 7}])
        GpuUse(sm=95.0, jpeg=None, dec=None, memory_used=7, num_samples=2, clock_mhz=None, power_w=None)
        """
        names = [name for name in READINGS if name != "memory_used"]
        means = {name: fmean(values) for name in names if (values := [s[name] for s in samples if name in s])}
        memory = [int(sample["memory_used"]) for sample in samples if "memory_used" in sample]
        return cls(**means, memory_used=memory[-1] if memory else None, num_samples=len(samples))


class GpuMeter:
    """Reads one GPU by NVML.

    Args:
        uuid: "GPU-…", as NVML names the device.
        nvml: The pynvml module; None loads it.

    Attributes:
        missing: Reading -> why it cannot be had; a machine without NVML lacks them all.
        driver: Its version.
    """

    def __init__(self, uuid: str, *, nvml: Any = None) -> None:
        self.missing: dict[str, str] = {}
        self.driver = "unknown"
        try:
            self._nvml: Any = nvml or importlib.import_module("pynvml")
        except ImportError:
            self.missing = dict.fromkeys(READINGS, 'nvidia-ml-py is not installed; pip install "res3d-video[bench]"')
            return
        try:
            self._nvml.nvmlInit()
            self.driver = self._nvml.nvmlSystemGetDriverVersion()
            self._gpu = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        except self._nvml.NVMLError as error:
            self.missing = dict.fromkeys(READINGS, str(error))
            return
        self.sample()  # finds out what is missing

    def sample(self) -> dict[str, float]:
        """The readings that can be had now; one that fails is not asked for again."""
        found = {}
        for name, read in READINGS.items():
            if name in self.missing:
                continue
            try:
                found[name] = read(self._nvml, self._gpu)
            except (AttributeError, self._nvml.NVMLError) as error:
                self.missing[name] = str(error)
        return found

    def num_engines(self) -> dict[str, int | None]:
        """How many JPEG and video decoders the GPU has: those of a MIG instance that is the whole GPU.

        None where NVML does not say.
        """
        try:
            profile = self._nvml.NVML_GPU_INSTANCE_PROFILE_7_SLICE
            whole = self._nvml.nvmlDeviceGetGpuInstanceProfileInfo(self._gpu, profile)
            return {"num_jpeg": whole.jpegCount, "num_dec": whole.decoderCount}
        except Exception:  # no NVML, an old one, or a GPU that cannot be divided
            return {"num_jpeg": None, "num_dec": None}

    @contextmanager
    def watch(self) -> Iterator[list[dict[str, float]]]:
        """Readings of the block's time, several a second; the last one when it ends."""
        samples: list[dict[str, float]] = []
        over = threading.Event()

        def keep_sampling() -> None:
            while not over.wait(SAMPLE_EVERY_S):
                samples.append(self.sample())

        thread = threading.Thread(target=keep_sampling, name="gpu-meter", daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            over.set()
            thread.join()
            samples.append(self.sample())


def gpu_uuid(device: "torch.device") -> str:
    """The name by which NVML knows one of torch's CUDA devices."""
    import torch  # commands that only print their help read this file, too

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
