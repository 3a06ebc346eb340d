"""tools/bench/report.py: made-up turns become the right numbers, tables and JSON."""

import json
from dataclasses import replace

import pytest

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.reader import ReadWork
from res3d_video.tools.bench.gpu import GpuUse
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC
from res3d_video.tools.bench.machine import DALI_WORKERS, LOADER_THREAD, SOFTWARE_DECODERS
from res3d_video.tools.bench.measure import Memory, Spread, Turn
from res3d_video.tools.bench.report import console, page, summary
from res3d_video.tools.bench.results import Result, figures, lane_numbers
from res3d_video.tools.bench.soak import Use, Window


def turn(lane: str, repeat: int, wall_s: float, **changes: object) -> Turn:
    """Ten steps of 32 clips, each of two pictures and 16 decoded frames."""
    loads = lane != SYNTHETIC
    made = Turn(
        lane=lane,
        repeat=repeat,
        num_steps=10,
        num_clips=320,
        wall_s=wall_s,
        cpu_s=2 * wall_s,
        data_wait_s=0.25 * wall_s if loads else 0.0,
        plan_steps=(100 * repeat, 100 * repeat + 10) if loads else None,
        work=ReadWork(320, 320 * 8, 640, 320 * 16, 3_200_000) if loads else ReadWork(),
        disk_bytes=0,
        thread_s={DALI_WORKERS: 1.2 * wall_s, LOADER_THREAD: 0.4 * wall_s} if loads else {},
        gpu=None,
        memory=(Memory(repeat, 0, 500_000_000), Memory(repeat + 1, 0, 500_000_000)),
        busy_before=0.01,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def result_of(*turns: Turn, on_gpu: bool = False) -> Result:
    return Result(ClipSpec(), 32, on_gpu, num_cpus=2, num_threads=2, resident=0.5, turns=list(turns))


@pytest.fixture
def result() -> Result:
    """Five alternations; the real step takes 10, 12, 12, 12 and 20 s, the synthetic one 10 s but once 20."""
    real, synthetic = [10.0, 12.0, 12.0, 12.0, 20.0], [10.0, 10.0, 10.0, 10.0, 20.0]
    turns = [turn(LOADER, i, 1.0 + i) for i in (4, 2, 0, 1, 3)]
    turns += [turn(REAL, i, seconds) for i, seconds in enumerate(real)]
    turns += [turn(SYNTHETIC, i, seconds) for i, seconds in reversed(list(enumerate(synthetic)))]
    return result_of(*turns)


def test_saturation_is_the_median_of_ratios_within_a_repeat(result: Result) -> None:
    assert result.saturation == Spread(median=10 / 12, min=10 / 12, max=1.0)


def test_a_lanes_numbers_are_medians_of_its_turns(result: Result) -> None:
    numbers = lane_numbers(result.turns_of(REAL))
    assert numbers["clips_per_s"] == Spread(320 / 12, 16.0, 32.0)
    assert numbers["ms_per_step"] == Spread(1200.0, 1000.0, 2000.0)
    assert numbers["cores"] == Spread(2.0, 2.0, 2.0)
    assert (numbers["data_wait"], numbers["data_wait_ms"]) == (0.25, 300.0)
    assert numbers["pictures_per_s"] == 640 / 12
    assert numbers["bytes_per_s"] == 3_200_000 / 12
    assert numbers["decoded_to_used"] == 2.0
    assert numbers["sm"] is None


def test_waiting_means_nothing_for_the_loader_alone_and_reading_nothing_for_ready_clips(result: Result) -> None:
    alone, ready = (lane_numbers(result.turns_of(lane)) for lane in (LOADER, SYNTHETIC))
    assert alone["data_wait"] is None
    assert alone["pictures_per_s"] is not None
    assert {name: ready[name] for name in ("data_wait", "pictures_per_s", "decoded_to_used", "bytes_per_s")} == {
        "data_wait": None,
        "pictures_per_s": None,
        "decoded_to_used": None,
        "bytes_per_s": None,
    }


def test_the_bottleneck_is_made_of_the_medians(result: Result) -> None:
    found = figures(result)
    assert (found.loader, found.synthetic, found.real) == (320 / 3, 32.0, 320 / 12)
    assert found.busy == {"host cores": 1.0, "DALI threads": 0.6, "the loader's own thread": 0.4}
    assert (found.saturation, found.data_wait, found.extra_cores) == (10 / 12, 0.25, 0.0)
    assert found.disk_share == 0.0


def test_what_nvml_says_goes_into_table_and_bottleneck() -> None:
    use = GpuUse(sm=50.0, jpeg=93.0, dec=None, memory_used=4_000_000_000, num_samples=9)
    result = result_of(turn(LOADER, 0, 0.02, gpu=use, thread_s={}, cpu_s=0.01), on_gpu=True)
    result.gpu_missing = {"dec": "Not Supported"}
    assert figures(result).busy["JPEG engines"] == 0.93
    lines = console(result)
    assert lines[1].split()[-4:] == ["SM", "JPEG", "GPU,", "GB"]
    assert lines[2].split()[-5:] == ["50", "%", "93", "%", "4.0"]
    assert "NVML: dec is not available (Not Supported)" in lines
    assert lines[-1].endswith("first limit: JPEG engines at 93 %")


def test_full_video_engines_and_decoder_threads_are_limits_of_h264() -> None:
    use = GpuUse(sm=50.0, jpeg=0.0, dec=97.0, memory_used=None, num_samples=9)
    result = result_of(turn(LOADER, 0, 0.02, gpu=use, thread_s={}, cpu_s=0.01), on_gpu=True)
    assert console(result)[-1].endswith("first limit: video engines at 97 %")
    on_cpu = result_of(turn(LOADER, 0, 1.0, thread_s={SOFTWARE_DECODERS: 1.9, LOADER_THREAD: 0.2}, cpu_s=1.0))
    assert figures(on_cpu).busy["software decoders"] == 0.95


def test_the_table_has_a_line_a_lane_and_no_column_without_a_number(result: Result) -> None:
    lines = console(result)
    assert lines[1].split()[:3] == ["clips/s", "ms/step", "cores"]
    assert "JPEG" not in lines[1]
    assert [line.split("  ")[0] for line in lines[2:5]] == [LOADER, SYNTHETIC, REAL]
    assert "26.7 [16.0..32.0]" in lines[4]
    assert lines[3].split()[-1] == "–"
    assert lines[-1].startswith("training waits for clips 25.0 % of the time")


def test_the_page_shows_the_tables_cells(result: Result) -> None:
    console_cells, lines = console(result), page(result)
    assert lines[0].startswith("| | clips/s | ms/step |")
    assert lines[1] == "|---|" + "---:|" * (lines[0].count("|") - 2)
    for shown, line in zip(console_cells[2:5], lines[2:5], strict=True):
        assert line.strip("| ").replace(" | ", " ").split() == shown.split()
    assert lines[-1] == f"**{console_cells[-1]}**"


def test_notes_tell_of_the_page_cache_of_memory_and_of_turns_that_began_too_early(result: Result) -> None:
    result.turns[3] = replace(result.turns[3], busy_before=0.7)
    said = "\n".join(console(result))
    assert "shards in the page cache before the first turn: 50 %" in said
    assert "own 500 -> 500 MB, +0.000 MB/1000 clips in the second half" in said
    assert "1 turns began while this process still kept up to 0.7 cores busy" in said
    assert "page cache before the first turn: unknown" in "\n".join(console(replace(result, resident=None)))


def test_the_soak_is_judged_or_too_short(result: Result) -> None:
    result.soak_lane = REAL
    result.soak = [Window(10.0 * i, 100 * i, 10.0, Use(1)) for i in range(1, 13)]
    assert any(line.startswith("soak, real step: 2.0 minutes, 1200 clips: drift +0.0%") for line in console(result))
    result.soak = result.soak[:2]
    assert "soak, real step: too short to judge" in console(result)
    assert summary(result)["soak"]["judgement"] is None


def test_the_summary_is_json_and_holds_every_turn(result: Result) -> None:
    found = json.loads(json.dumps(summary(result)))
    assert len(found["turns"]) == 15
    assert found["turns"][0]["clips_per_s"] == 320 / 5
    assert found["lanes"][REAL]["clips_per_s"] == {"median": 320 / 12, "min": 16.0, "max": 32.0}
    assert found["lanes"][LOADER]["thread_cores"] == {DALI_WORKERS: pytest.approx(1.2), LOADER_THREAD: 0.4}
    assert found["bottleneck"] == console(result)[-1]
    assert found["saturation"]["median"] == 10 / 12
