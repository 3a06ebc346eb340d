"""tools/bench_codecs.py: shards of every codec are built, measured once, kept, drawn and advised on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.schemas import check_schema
from tools import bench_codecs
from tools.bench.codec_points import ALONE, READY, TRAINING, CodecPoint, Stored
from tools.bench.measure import Spread
from tools.bench.sweep import Found
from tools.bench_codecs import Plan, main

pytest.importorskip("psutil", reason="the benchmarks need psutil")
pytest.importorskip("matplotlib", reason="the chart needs matplotlib")

SMALL = ("--limit", "3", "--batch-size", "2", "--clips", "2", "--step-clips", "2", "--num-threads", "1")
SMALL += ("--width", "2", "--device", "cpu")


def bench(raw: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["--raw", str(raw), *SMALL, *options], catch_exceptions=False)


def fake_measure(points: list[CodecPoint]) -> Callable[[Plan, CodecPoint], Found]:
    """Stands in for the measuring of a point: a rate that follows from it, and a list of who was asked."""

    def measure(plan: Plan, point: CodecPoint) -> Found:
        points.append(point)
        if isinstance(plan.shards[point.stored], str):
            return Found(failed=str(plan.shards[point.stored]))
        rate = 1000 / point.stored.gop_size if point.stored.gop_size else 500
        facts = {"bytes_per_frame": 10 * rate, "psnr_db": 40.0, "decoded_to_used": 2.0} if point.what == ALONE else {}
        return Found(Spread(rate, rate, rate), cores=1.0, facts=facts)

    return measure


@pytest.mark.long
def test_every_codec_is_built_and_measured_alone_and_while_training(numbered_raw: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"found.{name}" for name in ("json", "md", "png")}
    written = ("--json", str(files["json"]), "--markdown", str(files["md"]), "--chart", str(files["png"]))
    some = ("--sizes", "64", "--gops", "8", "--limit", "11", "--batch-size", "8", "--cache", str(tmp_path / "s"))
    result = bench(numbered_raw, *some, "--step", *written)
    assert result.exit_code == 0, result.output
    found = json.loads(files["json"].read_text())
    check_schema("bench_codecs", found)
    ways = ("filmstrips", "h264, GOP 8", "h264, GOP 8, snapped")
    wanted = [f"64: {way}, {what}" for way in ways for what in (ALONE, TRAINING)]
    assert set(found["points"]) == {*wanted, f"64: filmstrips, {READY}"}
    for point in found["points"].values():
        assert point["failed"] is None
        assert point["clips_per_s"]["median"] > 0
        assert len(point["turns"]) == 3
    strips, free, snapped = (found["points"][f"64: {way}, {ALONE}"]["facts"] for way in ways)
    assert strips["decoded_to_used"] <= 1.0 < snapped["decoded_to_used"] <= free["decoded_to_used"]
    assert free["bytes_per_frame"] == snapped["bytes_per_frame"] < strips["bytes_per_frame"]
    assert {json.loads(path.read_text())["codec"]["name"] for path in (tmp_path / "s").glob("*/dataset.json")} == {
        "filmstrip",
        "h264",
    }
    assert result.stdout.splitlines()[-1] == found["advice"]
    assert found["advice"].startswith("at 64 pixels «")
    page = files["md"].read_text()
    assert "| 64: h264, GOP 8, snapped | " in page
    assert page.endswith(f"**{found['advice']}**\n")
    with Image.open(files["png"]) as picture:
        assert picture.size == (1200, 550)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


def test_a_run_that_was_killed_goes_on_after_its_last_point(
    numbered_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[CodecPoint] = []
    really = fake_measure(asked)

    def killed_at_the_third(plan: Plan, point: CodecPoint) -> Found:
        if len(asked) == 2:
            raise KeyboardInterrupt
        return really(plan, point)

    options = ("--sizes", "64", "--gops", "8", "--cache", str(tmp_path / "s"), "--json", str(tmp_path / "found.json"))
    monkeypatch.setattr(bench_codecs, "measure", killed_at_the_third)
    first = bench(numbered_raw, *options)
    assert first.exit_code == 130
    assert first.stderr.splitlines()[-1] == "interrupted; with --json, --cache and --resume it can go on"

    monkeypatch.setattr(bench_codecs, "measure", really)
    second = bench(numbered_raw, *options, "--resume")
    assert second.exit_code == 0, second.output
    assert [point.stored for point in asked] == [Stored("filmstrip", 64), *snapped_too(64, 8)]
    for changed in (("--crf", "30"), ("--batch-size", "4"), ("--limit", "2")):
        other = bench(numbered_raw, *options, "--resume", *changed)
        assert other.exit_code == 1
        assert "of other data or settings; name another file, or leave out --resume" in other.stderr.splitlines()[-1]


def snapped_too(size: int, gop_size: int) -> list[Stored]:
    return [Stored("h264", size, gop_size, snapped) for snapped in (False, True)]


def test_a_way_without_shards_is_a_line_and_the_others_are_measured(
    numbered_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_codecs, "measure", fake_measure([]))
    result = bench(numbered_raw, "--sizes", "64", "--gops", "1,8", "--step")
    assert result.exit_code == 0, result.output
    (failed, _) = [
        line for line in result.stdout.splitlines() if line.startswith("64: h264, GOP 1") and "failed: " in line
    ]
    assert failed.startswith("64: h264, GOP 1, loader alone failed: gop_size: 1 is not possible; ")
    assert result.stdout.splitlines()[-1] == (
        "at 64 pixels «filmstrips» is fastest, 500 clips/s while training at 5.00 kB a frame, and «h264, GOP 8» is "
        "smallest, 1.25 kB: 4.00 times the speed for 4.0 times the space"
    )


def test_the_trainers_options_reach_the_loader(numbered_raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []
    really = fake_measure([])
    monkeypatch.setattr(bench_codecs, "measure", lambda plan, point: plans.append(plan) or really(plan, point))
    options = ("--prefetch", "3", "--num-pipelines", "2", "--queue-depth", "1")
    result = bench(numbered_raw, "--sizes", "64", "--gops", "8", *options)
    assert result.exit_code == 0, result.output
    loader = plans[0].settings.loader
    assert (loader.num_threads, loader.prefetch, loader.num_pipelines, loader.queue_depth) == (1, 3, 2, 1)
    assert plans[0].clips == {ALONE: 2, TRAINING: 2, READY: 2}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--resume"], 2, "--resume needs --json, the file to go on with"),
        (["--sizes", "64,x"], 2, "'64,x' is not possible; choose numbers from 1 on, with commas"),
        (["--gops", "0"], 2, "'0' is not possible; choose numbers from 1 on"),
        (["--repeats", "2"], 2, "2 is not in the range x>=3"),
        (["--sizes", "8", "--gops", "8"], 1, "size: 8 is not possible; choose 16 to 1024"),
        (["--device", "tpu"], 2, "device: 'tpu' is not possible; choose auto, cpu, cuda or cuda:N"),
    ],
)
def test_errors_are_one_line_that_names_the_way_out(
    numbered_raw: Path, options: list[str], code: int, message: str
) -> None:
    result = bench(numbered_raw, *options)
    assert result.exit_code == code
    assert message in result.stderr.splitlines()[-1]


def test_a_folder_without_videos_is_one_line(tmp_path: Path) -> None:
    result = bench(tmp_path)
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path}: no video found; name a folder that has some\n"
