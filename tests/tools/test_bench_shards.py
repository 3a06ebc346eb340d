"""tools/bench_shards.py: all ways do the same frames; the faster bare ffmpeg is the one compared with."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from res3d_video.tools.bench_shards import (
    OURS,
    bare_ffmpeg,
    closest_quality,
    list_videos,
    main,
    make_shards,
    run_ffmpeg,
)
from res3d_video.tools.numbered import write_numbered_video
from tests.schemas import check_schema

pytest.importorskip("psutil", reason="the benchmarks need psutil")

LENGTHS = (20, 33, 40)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos at several depths, and a file that only looks like one."""
    root = tmp_path_factory.mktemp("raw")
    for folder, num_frames in zip(("a", "deep/b", "deep/er/c"), LENGTHS, strict=True):
        (root / folder).mkdir(parents=True)
        write_numbered_video(root / folder / f"{num_frames}.mp4", num_frames)
    (root / "a" / "broken.avi").write_bytes(b"no video")
    (root / "a" / "notes.txt").write_text("no video either")
    return root


@pytest.fixture(scope="module")
def benched(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict]:
    """One whole benchmark: what it prints and what it writes."""
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    result = bench(raw, "--workers", "1", "--repeats", "3", "--json", str(path))
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    check_schema("bench_shards", found)
    return result, found


def bench(raw: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["--raw", str(raw), *options], catch_exceptions=False)


def test_videos_are_found_at_every_depth(raw: Path) -> None:
    sources = [record.source for record in list_videos(raw, limit=None).records]
    assert sources == ["a/20.mp4", "a/broken.avi", "deep/b/33.mp4", "deep/er/c/40.mp4"]
    assert len(list_videos(raw, limit=2).records) == 2


def test_every_way_does_the_same_frames(raw: Path, tmp_path: Path) -> None:
    listing = list_videos(raw, limit=None)
    ours = make_shards(listing, tmp_path, workers=2)
    paths = [record.path for record in listing.records]
    bare = [bare_ffmpeg(paths, 3, processes=2, threads=1), bare_ffmpeg(paths, 3, processes=1, threads=None)]
    assert [done.num_frames for done in (ours, *bare)] == [sum(LENGTHS)] * 3
    assert bare[0].num_bytes == bare[1].num_bytes > 0
    assert ours.memory is not None
    assert 0 < ours.memory["end_rss"] <= ours.memory["peak_rss"] <= ours.memory["peak_rss_children"]
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_video_counts_nothing(raw: Path) -> None:
    assert run_ffmpeg(raw / "a" / "broken.avi", 3, threads=1) == (0, 0)


def test_the_bare_quality_is_the_one_with_the_nearest_bytes(raw: Path) -> None:
    path = raw / "a" / "20.mp4"
    sizes = {quality: run_ffmpeg(path, quality, threads=1)[1] / 20 for quality in (2, 5, 9)}
    assert sizes[2] > sizes[5] > sizes[9]
    assert [closest_quality([path], size, workers=1) for size in sizes.values()] == [2, 5, 9]


def test_the_ratio_is_to_the_faster_bare_ffmpeg_by_medians(benched: tuple[Result, dict]) -> None:
    found = benched[1]
    medians = {}
    for name, way in found["ways"].items():
        rates = sorted(turn["num_frames"] / turn["wall_s"] for turn in way["turns"])
        assert len(rates) == 3
        assert way["frames_per_s"] == {"median": rates[1], "min": rates[0], "max": rates[2]}
        medians[name] = rates[1]
    ours = medians.pop(OURS)
    assert medians[found["bare"]] == max(medians.values())
    assert found["ratio"] == ours / max(medians.values())


def test_memory_is_told_for_each_repeat_and_its_growth(benched: tuple[Result, dict]) -> None:
    found = benched[1]
    ends = [turn["memory"]["end_rss"] for turn in found["ways"][OURS]["turns"]]
    assert (len(ends), found["rss_growth"]) == (3, ends[2] - ends[0])


def test_the_report_has_a_row_for_each_way_and_ends_with_the_ratio(benched: tuple[Result, dict]) -> None:
    result, found = benched
    lines = result.stdout.splitlines()
    header = next(n for n, line in enumerate(lines) if line.lstrip().startswith("frames/s"))
    for name, line in zip(found["ways"], lines[header + 1 :], strict=False):
        assert line.startswith(name)
    assert f", {found['ratio']:.2f} of the " in lines[-1]
    assert lines[-1].endswith(f" of {found['bare']}")


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    result = bench(tmp_path)
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path}: no video found; name a folder that has some\n"


def test_videos_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    result = bench(tmp_path)
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path}: not one of these videos can be read\n"
