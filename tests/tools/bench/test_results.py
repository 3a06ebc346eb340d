"""tools/bench/results.py: made-up rounds become the right numbers, sentence, table and JSON."""

import json
from dataclasses import replace

import pytest

from res3d_video.pipeline.reader import ReadWork
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC, Round
from res3d_video.tools.bench.machine import DALI_WORKERS, LOADER_THREAD, SOFTWARE_DECODERS
from res3d_video.tools.bench.measure import Spread
from res3d_video.tools.bench.results import Result, bottleneck, busy_shares, first_limit, report, summary
from res3d_video.tools.bench.run import Profile, profile_page


def made(lane: str, repeat: int, wall_s: float, **changes: object) -> Round:
    """Ten steps of 32 clips, each of two pictures and 16 decoded frames."""
    loads = lane != SYNTHETIC
    one = Round(
        num_batches=10, num_clips=320, wall_s=wall_s, cpu_s=2 * wall_s, lane=lane, repeat=repeat,
        data_wait_s=0.25 * wall_s if loads else 0.0,
        plan_steps=(100 * repeat, 100 * repeat + 10) if loads else None,
        work=ReadWork(320, 320 * 8, 640, 320 * 16, 3_200_000) if loads else ReadWork(),
        thread_s={DALI_WORKERS: 1.2 * wall_s, LOADER_THREAD: 0.4 * wall_s} if loads else {},
        disk_bytes=0, gpu={}, total_clips=320 * (repeat + 1), own_bytes=500_000_000,
    )  # fmt: skip
    return replace(one, **changes)  # type: ignore[arg-type]


def result_of(*rounds: Round, on_gpu: bool = False) -> Result:
    return Result(on_gpu, num_cpus=2, num_threads=2, rounds=list(rounds))


@pytest.fixture
def result() -> Result:
    """Five rounds; the real step takes 10, 12, 12, 12 and 20 s, the synthetic one 10 s but once 20."""
    real, synthetic = [10.0, 12.0, 12.0, 12.0, 20.0], [10.0, 10.0, 10.0, 10.0, 20.0]
    rounds = [made(LOADER, i, 1.0 + i) for i in (4, 2, 0, 1, 3)]
    rounds += [made(REAL, i, seconds) for i, seconds in enumerate(real)]
    rounds += [made(SYNTHETIC, i, seconds) for i, seconds in reversed(list(enumerate(synthetic)))]
    return result_of(*rounds)


def test_a_lanes_numbers_are_medians_and_what_means_nothing_there_is_none(result: Result) -> None:
    assert result.saturation == Spread(median=10 / 12, min=10 / 12, max=1.0)  # round by round
    assert result.lanes[REAL] == {
        "clips_per_s": Spread(320 / 12, 16.0, 32.0), "ms_per_step": Spread(1200.0, 1000.0, 2000.0),
        "cores": Spread(2.0, 2.0, 2.0), "data_wait": 0.25, "decoded_to_used": 2.0,
        "bytes_per_s": 3_200_000 / 12, "disk_bytes_per_s": 0.0, **dict.fromkeys(("sm", "jpeg", "dec", "gpu_memory")),
    }  # fmt: skip
    assert result.lanes[LOADER]["data_wait"] is None
    reading = ("data_wait", "decoded_to_used", "bytes_per_s")
    assert {result.lanes[SYNTHETIC][name] for name in reading} == {None}


def test_the_table_has_a_line_a_lane_and_no_column_without_a_number(result: Result) -> None:
    lines = report(result)
    assert lines[1].split()[:3] == ["clips/s", "ms/step", "cores"]
    assert "JPEG" not in lines[1]
    assert [line.split("  ")[0] for line in lines[2:5]] == [LOADER, SYNTHETIC, REAL]
    assert "26.7 [16.0..32.0]" in lines[4]
    assert lines[3].split()[-1] == "–"
    found = json.loads(json.dumps(summary(result)))
    assert lines[-1] == bottleneck(result) == found["bottleneck"]
    assert found["lanes"][LOADER]["thread_cores"] == {DALI_WORKERS: pytest.approx(1.2), LOADER_THREAD: 0.4}
    assert found["busy"] == {"host cores": 1.0, "DALI threads": 0.6, "the loader's own thread": 0.4}


def test_what_nvml_says_goes_into_table_and_bottleneck() -> None:
    gpu = {"sm": 50.0, "jpeg": 93.0, "memory_bytes": 4e9}
    result = result_of(made(LOADER, 0, 0.02, gpu=gpu, thread_s={}, cpu_s=0.01), on_gpu=True)
    result.gpu_missing = {"dec": "Not Supported"}
    lines = report(result)
    assert lines[1].split()[-4:] == ["SM", "JPEG", "GPU,", "GB"]
    assert lines[2].split()[-3:] == ["50%", "93%", "4.0"]
    assert "NVML: dec is not available (Not Supported)" in lines
    assert lines[-1].endswith("first limit: JPEG engines at 93 %")


def test_rounds_tell_of_drift_and_of_growing_memory() -> None:
    """Each of twelve rounds of 320 clips takes longer, and leaves 320 kB more behind."""
    rounds = [made(LOADER, i, 10.0 + (i >= 8), own_bytes=10**9 + 320_000 * i) for i in range(12)]
    said = "\n".join(report(result_of(*rounds)))
    assert "loader alone: -9.1% from the first third of the rounds to the last" in said
    assert "own 1000 -> 1004 MB, +1.000 MB/1000 clips in the second half" in said
    assert "from the first third" not in "\n".join(report(result_of(*rounds[:5])))
    assert summary(result_of(rounds[0]))["own_bytes_per_1000_clips"] == 0.0


STEPS = [made(LOADER, 0, 0.2), made(SYNTHETIC, 0, 1.0), made(REAL, 0, 1.25)]  # 1600, 320 and 256 clips/s


@pytest.mark.parametrize(
    ("rounds", "on_gpu", "said"),
    [
        (STEPS, True, "the GPU waits 20.0 % of the time; the loader could feed 5.0 such GPUs; first limit: "),
        ([*STEPS[:2], made(REAL, 0, 0.9)], True, "the GPU waits 0.0 % of the time; "),
        (STEPS, False, (
            "training waits for clips 25.0 % of the time; decoding and training share 2 CPUs, so with real clips it "
            "runs at 0.80 of its speed on ready ones; the loader alone delivers 6.2 times what training takes; first")),
        (STEPS[:1], False, "the loader alone delivers 1600 clips/s with 2.0 cores; first limit: host cores at 100 %"),
    ],
)  # fmt: skip
def test_the_sentence_speaks_of_what_was_measured(rounds: list[Round], on_gpu: bool, said: str) -> None:
    assert bottleneck(result_of(*rounds, on_gpu=on_gpu)).startswith(said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"thread_s": {SOFTWARE_DECODERS: 1.9, LOADER_THREAD: 0.2}}, "software decoders at 95 %"),
        ({"thread_s": {LOADER_THREAD: 0.99}}, "the loader's own thread at 99 %"),
        ({"thread_s": {DALI_WORKERS: 1.7}, "disk_bytes": 3_200_000}, "DALI threads at 85 %"),
        ({"gpu": {"dec": 97.0, "jpeg": 0.0}}, "video engines at 97 %"),
        ({"gpu": {"sm": 70.0}}, "none is full; the nearest is GPU kernels at 70 %"),
        ({"thread_s": {DALI_WORKERS: 0.8}, "disk_bytes": 1_600_000},
         "none is full; the nearest is DALI threads at 40 %; 50 % of what is read comes from the disk"),
    ],
)  # fmt: skip
def test_the_first_limit_is_the_fullest_resource_and_never_the_disk_without_evidence(
    changes: dict[str, object], said: str
) -> None:
    result = result_of(made(LOADER, 0, 1.0, **{"cpu_s": 0.2, "thread_s": {}} | changes))
    assert first_limit(result) == said
    assert all(0 <= share <= 1 for share in busy_shares(result).values())


def test_the_page_of_a_profile_compares_kernels_the_slowest_first() -> None:
    real = Profile(600.0, {"conv": 100.0, "bn": 75.0, "jpeg": 80.0}, 0.1)
    assert profile_page(Profile(500.0, {"conv": 100.0, "bn": 50.0}, None), real)[4:] == [
        "| all of a step, ms | 500.00 | 600.00 |",
        "| sum of kernels, ms | 150.00 | 255.00 |",
        "| trainer's stream idle | – | 10.0% |",
        "| conv | 100.000 | 100.000 |",
        "| jpeg | 0.000 | 80.000 |",
        "| bn | 50.000 | 75.000 |",
    ]
