"""Autotune walks from setting to setting and ends at the cheapest of the fastest."""

from res3d_video.pipeline.loader import LoaderSettings
from res3d_video.tools.bench.autotune import OF_CODEC, QUEUE_DEPTHS, autotune


def made_up(settings: LoaderSettings) -> tuple[float, float]:
    """A machine that gains up to six threads, likes half of the pictures on its engines, and any depth from 2."""
    rate = 1000 * min(settings.num_threads, 6) - 3000 * abs(settings.hw_decoder_load - 0.5)
    return rate - 500 * (settings.queue_depth < 2), settings.num_threads + 0.1 * settings.queue_depth


def test_the_best_of_a_made_up_machine_is_found_and_nothing_is_measured_twice() -> None:
    measured, told = [], []

    def rate_of(settings: LoaderSettings) -> tuple[float, float]:
        measured.append(settings)
        return made_up(settings)

    def report(done: int, total: int, note: str) -> None:
        told.append((done, total))

    tuning = autotune(rate_of, LoaderSettings(), codec="filmstrip", on_gpu=True, num_cpus=16, report=report)
    assert tuning.flags == "--num-threads 6 --queue-depth 2 --prefetch 2 --hw-decoder-load 0.5 --read-ahead 4"
    assert tuning.best.clips_per_s == made_up(tuning.best.settings)[0]
    assert len(measured) == len(set(measured)) == len(tuning.points)
    tried = [{getattr(s, name) for s in measured} for name in ("queue_depth", "hw_decoder_load", "num_pipelines")]
    assert tried == [set(QUEUE_DEPTHS), set(OF_CODEC["filmstrip"][1]), {None}]
    assert told[-1][0] == told[-1][1] == len(told)


def test_only_h264_on_a_gpu_is_tried_with_several_pipelines() -> None:
    """On a made-up machine that likes four pipelines."""

    def measured(settings: LoaderSettings) -> tuple[float, float]:
        return 1000.0 - 100 * abs((settings.num_pipelines or 7) - 4), 1.0

    start = LoaderSettings()
    tuning = autotune(measured, start, codec="h264", on_gpu=True, num_cpus=16)
    assert {point.settings.num_pipelines for point in tuning.points} == {None, 1, 2, 4, 8}
    assert {point.settings.hw_decoder_load for point in tuning.points} == {start.hw_decoder_load}
    assert tuning.flags == "--num-threads 1 --queue-depth 1 --prefetch 2 --num-pipelines 4 --read-ahead 4"

    on_cpu = autotune(measured, start, codec="h264", on_gpu=False, num_cpus=4)
    assert {point.settings.num_threads for point in on_cpu.points} == {1, 2, 3, 4}
    assert on_cpu.flags == "--num-threads 1 --queue-depth 1 --prefetch 2 --read-ahead 4"


def test_the_best_saturation_wins_among_loaders_that_are_fast_enough() -> None:
    """On a made-up machine whose kernels, beside the JPEG engines, make the loader faster and the step slower."""

    def rate(settings: LoaderSettings) -> tuple[float, float]:
        return 3000 - 1000 * settings.hw_decoder_load + 10 * min(settings.num_threads, 4), settings.num_threads

    def tuned(step_rate: float) -> float:
        asked: list[LoaderSettings] = []

        def saturation(settings: LoaderSettings) -> float:
            asked.append(settings)
            return 0.9 + 0.08 * settings.hw_decoder_load

        options = {"codec": "filmstrip", "on_gpu": True, "num_cpus": 4, "saturation_of": saturation}
        tuning = autotune(rate, LoaderSettings(), step_rate=step_rate, **options)
        assert all(rate(settings)[0] >= 1.5 * step_rate for settings in asked)
        assert asked == [point.settings for point in tuning.points if point.saturation is not None]
        return tuning.best.settings.hw_decoder_load

    assert tuned(1000.0) == 1.0
    assert tuned(1470.0) == 0.8  # at 0.9 the loader gives less than 1.5 times that
    assert tuned(9999.0) == 0.0  # none is fast enough: the fastest
