"""tools/bench/results.py: every branch of the sentence, on made-up numbers."""

from dataclasses import replace

import pytest

from res3d_video.tools.bench.results import Figures, bottleneck, first_limit

GPU = Figures(
    on_gpu=True,
    num_cpus=16,
    loader=15_340.0,
    loader_cores=2.8,
    busy={"JPEG engines": 0.93, "host cores": 0.175, "DALI threads": 0.5},
    disk_share=0.0,
    synthetic=2_600.0,
    real=2_553.0,
    saturation=0.982,
    data_wait=0.001,
    extra_cores=0.8,
)
CPU = replace(
    GPU,
    on_gpu=False,
    num_cpus=2,
    loader=540.0,
    loader_cores=1.9,
    busy={"host cores": 0.95, "DALI threads": 0.9},
    synthetic=12.0,
    real=10.8,
    saturation=0.9,
    data_wait=0.004,
)


def test_on_a_gpu_the_sentence_says_how_long_it_waits_and_how_many_it_could_have() -> None:
    assert bottleneck(GPU) == (
        "the GPU waits 1.8 % of the time; the loader could feed 5.9 such GPUs; first limit: JPEG engines at 93 %"
    )


def test_a_real_step_faster_than_the_synthetic_one_is_no_negative_waiting() -> None:
    assert bottleneck(replace(GPU, saturation=1.003)).startswith("the GPU waits 0.0 % of the time; ")


def test_on_a_cpu_no_gpu_is_spoken_of() -> None:
    said = bottleneck(CPU)
    assert said == (
        "training waits for clips 0.4 % of the time; decoding and training share 2 CPUs, so with real clips it runs at "
        "0.90 of its speed on ready ones; the loader alone delivers 50.0 times what training takes; "
        "first limit: host cores at 95 %"
    )
    assert "GPU" not in said


@pytest.mark.parametrize("figures", [GPU, CPU])
def test_without_steps_it_speaks_of_the_loader_alone(figures: Figures) -> None:
    alone = replace(figures, synthetic=None, real=None, saturation=None)
    assert bottleneck(alone).startswith(
        f"the loader alone delivers {figures.loader:.0f} clips/s with {figures.loader_cores:.1f} cores; first limit: "
    )


@pytest.mark.parametrize(
    ("busy", "disk_share", "said"),
    [
        ({"JPEG engines": 0.93, "host cores": 0.97}, 0.0, "host cores at 97 %"),
        ({"the loader's own thread": 0.99, "DALI threads": 0.6}, None, "the loader's own thread at 99 %"),
        ({"DALI threads": 0.85, "host cores": 0.2}, 1.0, "DALI threads at 85 %"),
        (
            {"DALI threads": 0.4, "GPU kernels": 0.7},
            1.0,
            "none is full; the nearest is GPU kernels at 70 %; 100 % of what is read comes from the disk",
        ),
        ({"DALI threads": 0.4}, 0.0, "none is full; the nearest is DALI threads at 40 %"),
        ({"DALI threads": 0.4}, None, "none is full; the nearest is DALI threads at 40 %"),
        ({}, None, "unknown, nothing could be measured"),
    ],
)
def test_the_first_limit_is_the_fullest_resource_and_never_the_disk_without_evidence(
    busy: dict[str, float], disk_share: float | None, said: str
) -> None:
    assert first_limit(replace(GPU, busy=busy, disk_share=disk_share)) == said
