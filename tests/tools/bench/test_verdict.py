"""tools/bench/verdict.py: every branch of the sentence, and of the targets, on made-up numbers."""

from dataclasses import replace

import pytest

from tools.bench.verdict import Figures, first_limit, sentence, targets

GPU = Figures(
    on_gpu=True,
    standard_clip=True,
    batch_size=256,
    num_repeats=5,
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
    batch_size=16,
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
    assert sentence(GPU) == (
        "the GPU waits 1.8 % of the time; the loader could feed 5.9 such GPUs; first limit: JPEG engines at 93 %"
    )


def test_a_real_step_faster_than_the_synthetic_one_is_no_negative_waiting() -> None:
    assert sentence(replace(GPU, saturation=1.003)).startswith("the GPU waits 0.0 % of the time; ")


def test_on_a_cpu_no_gpu_is_spoken_of() -> None:
    said = sentence(CPU)
    assert said == (
        "training waits for clips 0.4 % of the time; decoding and training share 2 CPUs, so with real clips it runs at "
        "0.90 of its speed on ready ones; the loader alone delivers 50.0 times what training takes; "
        "first limit: host cores at 95 %"
    )
    assert "GPU" not in said


@pytest.mark.parametrize("figures", [GPU, CPU])
def test_without_steps_it_speaks_of_the_loader_alone(figures: Figures) -> None:
    alone = replace(figures, synthetic=None, real=None, saturation=None)
    assert sentence(alone).startswith(
        f"the loader alone delivers {figures.loader:.0f} clips/s with {figures.loader_cores:.1f} cores; first limit: "
    )


@pytest.mark.parametrize(
    ("busy", "disk_share", "said"),
    [
        ({"JPEG engines": 0.93, "host cores": 0.97}, 0.0, "host cores at 97 %"),
        ({"the loader's own thread": 0.99, "DALI threads": 0.6}, None, "the loader's own thread at 99 %"),
        ({"DALI threads": 0.85, "host cores": 0.2}, 1.0, "DALI threads at 85 %"),
        ({"DALI threads": 0.4}, 0.05, "disk, 320.0 MB/s of what is read come from it"),
        ({"DALI threads": 0.4, "GPU kernels": 0.7}, 0.04, "none is full; the nearest is GPU kernels at 70 %"),
        ({"DALI threads": 0.4}, None, "none is full; the nearest is DALI threads at 40 %"),
        ({}, None, "unknown, nothing could be measured"),
    ],
)
def test_the_first_limit_is_the_fullest_resource_or_the_disk(
    busy: dict[str, float], disk_share: float | None, said: str
) -> None:
    assert first_limit(replace(GPU, busy=busy, disk_share=disk_share, disk_bytes_per_s=320e6)) == said


@pytest.mark.parametrize(
    ("batch_size", "saturation", "wanted", "holds"),
    [(256, 0.97, 0.97, True), (512, 0.969, 0.97, False), (64, 0.95, 0.95, True), (255, 0.949, 0.95, False)],
)
def test_the_saturation_asked_for_depends_on_the_batch(
    batch_size: int, saturation: float, wanted: float, holds: bool
) -> None:
    target = targets(replace(GPU, batch_size=batch_size, saturation=saturation))[0]
    assert target.holds is holds
    assert f"at least {wanted} at batch {batch_size}" in target.what
    assert target.line().startswith("holds: " if holds else "FAILS: ")


def test_fewer_than_five_alternations_are_not_judged() -> None:
    target = targets(replace(GPU, num_repeats=4))[0]
    assert target.holds is None
    assert target.line().startswith("not judged: saturation 0.982")
    assert target.what.endswith("4 alternations, at least 5 are needed")


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, [True, True, True]),
        ({"extra_cores": 2.1}, [True, False, True]),
        ({"loader": 14_999.0}, [True, True, False]),
        ({"loader_cores": 3.1}, [True, True, False]),
        ({"standard_clip": False}, [True, True]),
        ({"saturation": None}, [True]),
    ],
)
def test_the_targets_of_a_gpu(changes: dict, holds: list[bool]) -> None:
    assert [target.holds for target in targets(replace(GPU, **changes))] == holds


def test_h264_is_asked_for_a_rate_of_its_own_at_its_default_gop() -> None:
    h264 = replace(GPU, gop_size=8, loader=2_400.0)
    (target,) = targets(h264)
    assert target.line() == "holds: loader alone 2400 clips/s out of h264 of GOP 8, at least 2400"
    assert [target.holds for target in targets(replace(h264, loader=2_399.0))] == [False]
    assert targets(replace(h264, gop_size=4)) == targets(replace(h264, standard_clip=False)) == []


def test_the_target_of_two_cpus_speaks_of_the_loader_only() -> None:
    assert [target.holds for target in targets(CPU)] == [True]
    assert [target.holds for target in targets(replace(CPU, loader=199.0))] == [False]
    assert targets(replace(CPU, num_cpus=4)) == targets(replace(CPU, standard_clip=False)) == []
