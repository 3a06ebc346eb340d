"""tools/bench/gpu.py: NVML's readings, and a line for each that it does not give."""

import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from res3d_video.tools.bench.gpu import READINGS, GpuMeter, GpuUse, gpu_uuid


class NVMLError(Exception):
    pass


def fake_nvml(**changes: object) -> SimpleNamespace:
    """A pynvml with one GPU, without video decoders unless `changes` says so."""

    def refuse(gpu: object) -> None:
        raise NVMLError("Not Supported")

    functions = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.95",
        "nvmlDeviceGetHandleByUUID": lambda uuid: f"handle of {uuid}",
        "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=97, memory=40),
        "nvmlDeviceGetJpgUtilization": lambda gpu: [93, 20000],
        "nvmlDeviceGetDecoderUtilization": refuse,
        "NVML_CLOCK_SM": 1,
        "nvmlDeviceGetClockInfo": lambda gpu, kind: 1980 * kind,
        "nvmlDeviceGetPowerUsage": lambda gpu: 650_500,
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=3 << 30, total=80 << 30),
    }
    return SimpleNamespace(**functions | changes)


def test_what_nvml_gives_is_read_and_what_it_refuses_is_named() -> None:
    meter = GpuMeter("GPU-1", nvml=fake_nvml())
    assert meter.missing == {"dec": "Not Supported"}
    assert meter.sample() == {
        "sm": 97, "jpeg": 93, "memory_used": 3 << 30, "clock_mhz": 1980, "power_w": 650.5,
    }  # fmt: skip
    assert meter.driver == "580.95"


def test_the_engines_are_counted_where_nvml_says_how_many_there_are() -> None:
    whole = {
        "NVML_GPU_INSTANCE_PROFILE_7_SLICE": 4,
        "nvmlDeviceGetGpuInstanceProfileInfo": lambda gpu, profile: SimpleNamespace(jpegCount=7, decoderCount=profile),
    }
    assert GpuMeter("GPU-1", nvml=fake_nvml(**whole)).num_engines() == {"num_jpeg": 7, "num_dec": 4}
    assert GpuMeter("GPU-1", nvml=fake_nvml()).num_engines() == {"num_jpeg": None, "num_dec": None}


def test_a_function_that_an_older_nvml_lacks_is_not_available() -> None:
    nvml = fake_nvml()
    del nvml.nvmlDeviceGetJpgUtilization
    assert set(GpuMeter("GPU-1", nvml=nvml).missing) == {"jpeg", "dec"}


def test_without_a_driver_or_the_package_nothing_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise NVMLError("NVML Shared Library Not Found")

    broken = GpuMeter("GPU-1", nvml=fake_nvml(nvmlInit=no_driver))
    assert broken.missing == dict.fromkeys(READINGS, "NVML Shared Library Not Found")
    assert broken.sample() == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert all('pip install "res3d-video[bench]"' in reason for reason in GpuMeter("GPU-1").missing.values())


def test_watching_reads_on_until_the_block_ends() -> None:
    asked, enough = [], threading.Event()

    def rates(gpu: object) -> SimpleNamespace:
        asked.append(gpu)
        if len(asked) >= 4:
            enough.set()
        return SimpleNamespace(gpu=len(asked))

    meter = GpuMeter("GPU-1", nvml=fake_nvml(nvmlDeviceGetUtilizationRates=rates))
    with meter.watch() as samples:
        assert enough.wait(timeout=30)
    assert [sample["sm"] for sample in samples] == list(range(2, len(asked) + 1))  # the first found out what is there
    assert len(samples) >= 4
    assert "gpu-meter" not in {thread.name for thread in threading.enumerate()}


def test_means_are_of_the_readings_there_are() -> None:
    assert GpuUse.of([]) == GpuUse()
    assert GpuUse.of([{"jpeg": 80.0}, {"jpeg": 90.0, "sm": 10.0}]) == GpuUse(10.0, 85.0, None, None, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_nvml_knows_the_gpu_that_torch_uses() -> None:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    meter = GpuMeter(gpu_uuid(torch.device("cuda", 0)))
    held = torch.zeros(1 << 28, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    sample = meter.sample()
    assert 0 <= sample["sm"] <= 100
    assert sample["memory_used"] >= held.numel()
