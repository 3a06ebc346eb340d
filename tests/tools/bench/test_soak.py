"""tools/bench/soak.py: drift and growth of made-up runs, exactly."""

import pytest

from res3d_video.tools.bench.soak import Growth, Use, Window, growth, judge, soak


def windows_of(rates: list[float], own: list[int] | None = None, reserved: list[int] | None = None) -> list[Window]:
    """Windows of ten seconds."""
    own = own or [500_000_000] * len(rates)
    done, found = 0, []
    for i, rate in enumerate(rates):
        done += round(10 * rate)
        found.append(Window(10.0 * (i + 1), done, rate, Use(own[i], reserved and reserved[i])))
    return found


def test_a_steady_run_is_steady() -> None:
    judged = judge(windows_of([100.0] * 60))
    assert judged is not None
    assert (judged.drift, judged.change, judged.worst, judged.failures) == (0.0, 0.0, 0.0, [])
    assert judged.growth == {"own": Growth(0.0, 0.0, 0.0)}
    assert (judged.minutes, judged.num_clips) == (10.0, 60_000)
    assert judged.sentence() == (
        "10.0 minutes, 60000 clips: drift +0.0%, last third +0.0% against the first (worst window +0.0%); "
        "second half: host memory +0.00 MB a minute, +0.000 MB/1000 clips; no drift over 3 %, no growth"
    )


@pytest.mark.parametrize(("step", "fails"), [(0.2, False), (0.4, True), (-0.2, False), (-0.4, True)])
def test_drift_is_the_change_along_the_fitted_line_in_parts_of_the_mean(step: float, fails: bool) -> None:
    rates = [100 + step * (i - 5) for i in range(11)]  # ten steps in all, mean 100
    judged = judge(windows_of(rates))
    assert judged is not None
    assert judged.drift == pytest.approx(10 * step / 100)
    assert bool(judged.failures) is fails
    assert ("NOT steady: the rate drifts over 3 %" in judged.sentence()) is fails


def test_thirds_are_compared_by_their_medians_and_the_worst_window_is_named() -> None:
    judged = judge(windows_of([100, 100, 130, 100, 100, 100, 100, 80, 102]))
    assert judged is not None
    assert judged.change == 0.0
    assert judged.worst == pytest.approx(-0.2)


def test_a_rate_that_falls_in_the_last_third_fails_though_the_line_is_nearly_flat() -> None:
    judged = judge(windows_of([96, 96, 96, 104, 104, 104, 92, 92, 92]))
    assert judged is not None
    assert judged.change == pytest.approx(92 / 96 - 1)
    assert judged.failures == ["the rate drifts over 3 %"]


def test_growth_is_that_of_the_second_half() -> None:
    own = [100_000_000 * i for i in range(6)] + [1_000_000_000 + 6_000_000 * i for i in range(6)]
    found = growth(windows_of([50.0] * 12, own), "own")
    assert found.bytes_per_minute == pytest.approx(36e6)  # 6 MB each ten seconds
    assert found.bytes_per_1000_clips == pytest.approx(12e6)  # 6 MB each 500 clips
    assert found.share == pytest.approx(30e6 / 1.015e9)


def test_memory_that_grows_fails_by_name_and_memory_that_shrinks_does_not() -> None:
    steady, growing = [100.0] * 12, [1_000_000 + 10_000 * i for i in range(12)]
    judged = judge(windows_of(steady, own=growing[::-1], reserved=growing))
    assert judged is not None
    assert judged.failures == ["torch's GPU memory grows"]
    assert judged.sentence().endswith("; NOT steady: torch's GPU memory grows")
    assert set(judged.growth) == {"own", "gpu_reserved"}


def test_a_run_too_short_is_not_judged() -> None:
    assert judge(windows_of([100.0] * 5)) is None
    assert judge([]) is None


def test_windows_are_cut_by_the_clock_and_end_when_everything_is_done() -> None:
    now, finished, told = 0.0, [], []

    def step() -> int:
        nonlocal now
        now += 3.0
        return 6

    def finish() -> None:
        nonlocal now
        now += 1.0  # what the GPU still had to do
        finished.append(now)

    windows = soak(
        step,
        num_windows=3,
        finish=finish,
        use=lambda: Use(round(now)),
        window_s=10.0,
        report=lambda windows: told.append(len(windows)),
        clock=lambda: now,
    )
    assert [window.end_s for window in windows] == finished == [13.0, 26.0, 39.0]  # four steps and the rest
    assert [window.num_clips for window in windows] == [24, 48, 72]
    assert [window.clips_per_s for window in windows] == [24 / 13] * 3
    assert told == [1, 2, 3]
    assert [window.use.own for window in windows] == [3, 16, 29]  # the least of four moments and the end
