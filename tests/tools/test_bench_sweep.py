"""tools/bench_sweep.py: one factor at a time, points kept as they are found, failures as lines."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.loader import LoaderSettings
from pipeline.shard import ShardIndex
from tests.schemas import check_schema
from tools import bench_sweep
from tools.bench.measure import BenchError, Measurement, Memory, Spread
from tools.bench.run import Settings
from tools.bench.sweep import Found, Journal, Point, measure_point, points_of, row_of
from tools.bench_sweep import main
from train.models import ModelConfig
from train.step import StepOptions

pytest.importorskip("psutil", reason="the benchmarks need psutil")
pytest.importorskip("matplotlib", reason="the chart needs matplotlib")

BASE = Point(32, 8, 128, 2)
SMALL = ("--batch-size", "2", "--clips", "2", "--num-threads", "1", "--threads", "1", "--device", "cpu")


def sweep(*options: str) -> Result:
    return CliRunner().invoke(main, options, catch_exceptions=False)


def found_at(rate: float) -> Found:
    memory = (Memory(0, 0, 40_000_000), Memory(1, 0, 60_000_000))
    turns = [Measurement(int(rate * part), 1.0, 1.5, memory) for part in (1, 3, 0.5)]
    return Found.of(BASE, turns)


def fake_measure(points: list[Point], *, fail: Point | None = None) -> Callable[[object, Point], Found]:
    """Stands in for the measuring of a point: a rate that follows from it, and a list of who was asked."""

    def measure(plan: object, point: Point) -> Found:
        points.append(point)
        return Found(failed="no memory; take less") if point == fail else found_at(10 * point.batch_size)

    return measure


def test_one_factor_changes_at_a_time_around_the_base() -> None:
    values = {"num_threads": (1, 2), "batch_size": (16, 32, 64), "stored_size": (64,), "num_frames": (16,)}
    points = points_of(BASE, values)
    assert [factor for factor, _ in points] == [*["batch_size"] * 3, "num_frames", "stored_size", *["num_threads"] * 2]
    for factor, point in points:
        changed = {name for name in vars(BASE) if getattr(point, name) != getattr(BASE, name)}
        assert changed <= {factor}
        assert getattr(point, factor) in values[factor]


def test_the_crop_grows_with_the_stored_size_as_in_the_paper() -> None:
    assert [Point(32, 8, size, 2).clip.crop_size for size in (64, 128, 256)] == [56, 112, 224]
    assert Point(32, 16, 128, 2).clip.num_frames == 16


def test_a_point_is_the_median_of_its_turns() -> None:
    found = found_at(100)
    assert found.clips_per_s == Spread(100, 50, 300)
    assert (found.frames_per_s, found.cores, found.own_bytes) == (800, 1.5, 60_000_000)
    assert row_of("batch_size", BASE, BASE, found) == ["batch size 32 (base)", "100 [50..300]", "800", "1.50", "60"]
    failed = row_of("num_frames", Point(32, 16, 128, 2), BASE, Found(failed="no memory"))
    assert failed == ["frames 16", "failed", "–", "–", "–"]


def test_a_journal_reads_back_what_it_has_kept(tmp_path: Path) -> None:
    path, other = tmp_path / "sweep.json", Point(64, 8, 128, 2)
    journal = Journal(path, {"data": "x"}, resume=True)
    journal.add(BASE, found_at(100))
    journal.add(other, Found(failed="no memory"))
    again = Journal(path, {"data": "x"}, resume=True)
    assert again.found == journal.found
    assert (again.done(BASE), again.done(other)) == (True, False)  # what failed is tried again
    assert Journal(path, {"data": "x"}, resume=False).found == {}
    with pytest.raises(BenchError, match="a sweep of other data or settings; name another file"):
        Journal(path, {"data": "y"}, resume=True)
    path.write_text('{"points": [')
    with pytest.raises(BenchError, match="not a sweep; name another file, or leave out --resume"):
        Journal(path, {"data": "x"}, resume=True)


def test_a_sweep_that_was_killed_goes_on_after_its_last_point(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Point] = []
    really = fake_measure(asked)

    def killed_at_the_third(plan: object, point: Point) -> Found:
        if len(asked) == 2:
            raise KeyboardInterrupt
        return really(plan, point)

    json_path = tmp_path / "sweep.json"
    options = ("--data", str(numbered.data_dir), *SMALL, "--batch-sizes", "1,2,4", "--frames", "4,8")
    monkeypatch.setattr(bench_sweep, "measure", killed_at_the_third)
    first = sweep(*options, "--json", str(json_path))
    assert first.exit_code == 130
    assert first.stderr.splitlines()[-1] == "interrupted; with --json and --resume it can go on"
    assert [point.batch_size for point in asked] == [1, 2]

    monkeypatch.setattr(bench_sweep, "measure", really)
    second = sweep(*options, "--json", str(json_path), "--resume")
    assert second.exit_code == 0, second.output
    assert [(point.batch_size, point.num_frames) for point in asked] == [(1, 8), (2, 8), (4, 8), (2, 4)]
    found = json.loads(json_path.read_text())
    check_schema("bench_sweep", found)
    assert len(found["points"]) == 4


def test_a_point_that_fails_is_a_line_and_the_rest_is_drawn(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_sweep, "measure", fake_measure([], fail=Point(4, 8, 128, 1)))
    page, chart = tmp_path / "page.md", tmp_path / "found" / "chart.png"
    options = ("--data", str(numbered.data_dir), *SMALL, "--batch-sizes", "1,2,4", "--frames", "4,8")
    result = sweep(*options, "--markdown", str(page), "--chart", str(chart))
    assert result.exit_code == 0, result.output
    assert "stored size: left out; give --raw, from which shards of each size can be built" in result.stdout
    assert result.stdout.splitlines()[-1] == "batch size 4 failed: no memory; take less"
    assert "| batch size 2 (base) | 20 [10..60] | 160 | 1.50 | 60 |" in page.read_text()
    assert "- batch size 4 failed: no memory; take less" in page.read_text()
    with Image.open(chart) as picture:
        assert picture.size == (1200, 800)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


@pytest.mark.parametrize("option", ["--markdown", "--chart", "--json"])
def test_a_file_that_cannot_be_written_is_one_line(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(bench_sweep, "measure", fake_measure([]))
    (tmp_path / "file").write_text("no folder")
    options = ("--data", str(numbered.data_dir), *SMALL, "--batch-sizes", "1", "--frames", "8", "--quiet")
    result = sweep(*options, option, str(tmp_path / "file" / "found"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: [Errno ")
    assert str(tmp_path / "file") in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_size_without_shards_is_a_line(numbered_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Point] = []
    real = bench_sweep.measure
    fake = fake_measure(asked)
    monkeypatch.setattr(bench_sweep, "measure", lambda plan, p: real(plan, p) if p.stored_size == 8 else fake(plan, p))
    few = ("--batch-sizes", "2", "--frames", "8", "--sizes", "8,64,128", "--limit", "3")
    result = sweep("--raw", str(numbered_raw), *SMALL, *few, "--cache", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "stored size 8 failed: size: 8 is not possible; choose 16 to 1024" in result.stdout
    assert [point.stored_size for point in asked] == [128, 64]
    assert {json.loads(path.read_text())["codec"]["size"] for path in tmp_path.glob("*/dataset.json")} == {64, 128}


@pytest.mark.slow
@pytest.mark.parametrize("step", [None, StepOptions()], ids=["loader", "step"])
def test_a_point_is_measured_in_a_process_of_its_own(numbered: ShardIndex, step: StepOptions | None) -> None:
    point = Point(batch_size=1, num_frames=2, stored_size=128, num_threads=1)
    settings = Settings(
        data=numbered.data_dir,
        samples=np.arange(numbered.num_samples),
        clip=point.clip,
        batch_size=1,
        model=ModelConfig("res3d10", 4),
        loader=LoaderSettings(num_threads=1),
        step=step,
        device=torch.device("cpu"),
        num_cpus=1,
        repeats=3,
        seconds=None,
        batches=None,
        seed=0,
    )
    found = measure_point(point, settings, clips=3)
    assert found.failed is None
    assert [turn["num_clips"] for turn in found.turns] == [3, 3, 3]
    assert found.clips_per_s == Spread.of([turn["num_clips"] / turn["wall_s"] for turn in found.turns])
    assert found.cores == sorted(turn["cpu_s"] / turn["wall_s"] for turn in found.turns)[1]
    assert found.own_bytes > 0
    lost = measure_point(point, replace(settings, data=numbered.data_dir / "gone"), clips=3)
    assert lost.failed
    assert "no dataset.json" in lost.failed


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "give --data, a folder of shards, or --raw, a folder of videos"),
        (["--data", "DATA", "--raw", "DATA"], 2, "give --data, a folder of shards, or --raw"),
        (["--data", "DATA", "--resume"], 2, "--resume needs --json, the file to go on with"),
        (["--data", "DATA", "--frames", "4,x"], 2, "'4,x' is not possible; choose numbers from 1 on, with commas"),
        (["--data", "DATA", "--batch-sizes", "0,4"], 2, "'0,4' is not possible; choose numbers from 1 on"),
        (["--data", "DATA", "--repeats", "2"], 2, "2 is not in the range x>=3"),
        (["--raw", "DATA"], 1, "no video found; name a folder that has some"),
    ],
)
def test_errors_are_one_line_that_names_the_way_out(
    numbered: ShardIndex, options: list[str], code: int, message: str
) -> None:
    result = sweep(*(str(numbered.data_dir) if option == "DATA" else option for option in options))
    assert result.exit_code == code
    assert message in result.stderr.splitlines()[-1]
