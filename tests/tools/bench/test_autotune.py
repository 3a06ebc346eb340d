"""Autotune walks from setting to setting and ends at the cheapest of the fastest."""

import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import LoaderSettings
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.tools.bench.autotune import (
    HW_DECODER_LOADS,
    PIPELINES,
    QUEUE_DEPTHS,
    Point,
    autotune,
    measure_loader,
    pick,
)

pytest.importorskip("psutil", reason="the benchmarks need psutil")


def made_up(settings: LoaderSettings) -> tuple[float, float]:
    """A machine that gains up to six threads, likes half of the pictures on its engines, and any depth from 2."""
    rate = 1000 * min(settings.num_threads, 6) - 3000 * abs(settings.hw_decoder_load - 0.5)
    return rate - 500 * (settings.queue_depth < 2), settings.num_threads + 0.1 * settings.queue_depth


def test_the_best_of_a_made_up_machine_is_found() -> None:
    tuning = autotune(made_up, LoaderSettings(), codec="filmstrip", on_gpu=True, num_cpus=16)
    best = tuning.best.settings
    assert (best.num_threads, best.hw_decoder_load, best.queue_depth) == (6, 0.5, 2)
    assert tuning.flags == "--num-threads 6 --queue-depth 2 --prefetch 2 --hw-decoder-load 0.5 --read-ahead 4"
    assert tuning.best.clips_per_s == made_up(best)[0]


def test_nothing_is_measured_twice_and_progress_ends_at_its_total() -> None:
    measured, told = [], []

    def measure(settings: LoaderSettings) -> tuple[float, float]:
        measured.append(settings)
        return made_up(settings)

    tuning = autotune(
        measure,
        LoaderSettings(),
        codec="filmstrip",
        on_gpu=True,
        num_cpus=16,
        report=lambda done, total, note: told.append((done, total)),
    )
    assert len(measured) == len(set(measured)) == len(tuning.points)
    assert {s.queue_depth for s in measured} == set(QUEUE_DEPTHS)
    assert {s.hw_decoder_load for s in measured} == set(HW_DECODER_LOADS)
    assert told[-1][0] == told[-1][1] == len(told)


def test_a_cpu_has_no_jpeg_engines_and_no_more_threads_than_cores() -> None:
    tuning = autotune(made_up, LoaderSettings(), codec="filmstrip", on_gpu=False, num_cpus=4)
    assert {point.settings.hw_decoder_load for point in tuning.points} == {LoaderSettings().hw_decoder_load}
    assert {point.settings.num_threads for point in tuning.points} == {1, 2, 3, 4}


def test_h264_on_a_gpu_is_tried_with_several_pipelines_and_filmstrips_are_not() -> None:
    """On a made-up machine that likes four pipelines."""

    def measured(settings: LoaderSettings) -> tuple[float, float]:
        return 1000.0 - 100 * abs((settings.num_pipelines or 7) - 4), 1.0

    start = LoaderSettings()
    tuning = autotune(measured, start, codec="h264", on_gpu=True, num_cpus=16)
    assert {point.settings.num_pipelines for point in tuning.points} == {None, *PIPELINES}
    assert {point.settings.hw_decoder_load for point in tuning.points} == {start.hw_decoder_load}
    assert tuning.flags == "--num-threads 1 --queue-depth 1 --prefetch 2 --num-pipelines 4 --read-ahead 4"
    assert tuning.header()[3] == "pipelines"
    assert [row[3] for row in tuning.rows() if row[0] == "picked"] == ["4"]
    assert tuning.rows()[0][3] == "–"

    three = autotune(measured, start, codec="h264", on_gpu=True, num_cpus=16, num_decoders=3)
    assert {point.settings.num_pipelines for point in three.points} == {None, 1, 2}

    on_cpu = autotune(measured, start, codec="h264", on_gpu=False, num_cpus=2)
    assert on_cpu.flags == "--num-threads 1 --queue-depth 1 --prefetch 2 --read-ahead 4"
    strips = autotune(made_up, start, codec="filmstrip", on_gpu=True, num_cpus=16)
    assert {point.settings.num_pipelines for point in strips.points} == {None}


def test_within_three_percent_fewer_cores_decide() -> None:
    points = [
        Point(LoaderSettings(num_threads=t), rate, cores) for t, rate, cores in ((1, 96, 1), (2, 98, 2), (3, 100, 3))
    ]
    assert pick(points) is points[1]
    assert pick(points[2:]) is points[2]


def test_the_best_saturation_wins_among_loaders_that_are_fast_enough() -> None:
    """On a made-up machine whose kernels, beside the JPEG engines, make the loader faster and the step slower."""

    def rate(settings: LoaderSettings) -> tuple[float, float]:
        return 3000 - 1000 * settings.hw_decoder_load + 10 * min(settings.num_threads, 4), settings.num_threads

    def tuned(step_rate: float) -> float:
        asked: list[LoaderSettings] = []

        def saturation(settings: LoaderSettings) -> float:
            asked.append(settings)
            return 0.9 + 0.08 * settings.hw_decoder_load

        tuning = autotune(
            rate,
            LoaderSettings(),
            codec="filmstrip",
            on_gpu=True,
            num_cpus=4,
            step_rate=step_rate,
            saturation_of=saturation,
        )
        assert all(rate(settings)[0] >= 1.5 * step_rate for settings in asked)
        assert (tuning.rows()[0][-1] == "–") == (not asked or tuning.points[0].saturation is None)
        return tuning.best.settings.hw_decoder_load

    assert tuned(1000.0) == 1.0
    assert tuned(1470.0) == 0.8  # at 0.9 the loader gives less than 1.5 times that
    assert tuned(9999.0) == 0.0  # none is fast enough: the fastest


def test_the_table_marks_the_picked_settings() -> None:
    rows = autotune(made_up, LoaderSettings(), codec="filmstrip", on_gpu=False, num_cpus=2).rows()
    assert [row[0] for row in rows].count("picked") == 1


def test_a_loader_is_measured(numbered: ShardIndex) -> None:
    plan = TrainPlan(numbered, np.arange(numbered.num_samples), ClipSpec(4, 2), global_batch_size=2, seed=0)
    rate, cores = measure_loader(plan, LoaderSettings(num_threads=1), device="cpu", mean=128.0, seconds=0.2, repeats=3)
    assert rate > 0
    assert 0 < cores < 64
