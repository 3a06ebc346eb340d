"""tools/bench_loader.py: both ways read the same frames; tables and files say what was measured."""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.clip import ClipSpec, frame_indices
from pipeline.reference import decode_sample
from pipeline.shard import ShardIndex
from tests.numbered import read_numbers, write_video
from tools.bench import peers as bench_peers
from tools.bench.measure import BenchError, Memory, Order, Spread, Way, slope
from tools.bench.peers import GOP, Contest
from tools.bench.process import MeasuredProcess
from tools.bench_loader import main

pytest.importorskip("psutil", reason="the benchmarks need psutil")


def contest_of(index: ShardIndex, copies: Path, *, spec: ClipSpec | None = None) -> Contest:
    return Contest(
        data_dir=index.data_dir,
        samples=np.arange(index.num_samples),
        spec=spec or ClipSpec(),
        batch_size=16,
        seed=0,
        device="cpu",
        num_threads=1,
        copies=copies,
        num_workers=1,
    )


@pytest.fixture(scope="module")
def copies(numbered: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H.264 copies of all numbered segments."""
    folder = tmp_path_factory.mktemp("copies")
    bench_peers.make_copies(numbered, range(numbered.num_samples), folder, workers=2)
    return folder


@pytest.fixture(scope="module")
def benched(numbered: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict]:
    """One whole benchmark: what it prints and what it writes."""
    path = tmp_path_factory.mktemp("bench") / "found" / "bench.json"
    options = ["--batch-size", "2", "--clips", "3", "--repeats", "3", "--num-threads", "1", "--limit", "5"]
    result = bench(numbered.data_dir, *options, "--memory-minutes", "0.001", "--json", str(path))
    assert result.exit_code == 0, result.output
    return result, json.loads(path.read_text())


def bench(data: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["--data", str(data), *options], catch_exceptions=False)


@pytest.mark.parametrize("spec", [ClipSpec(), ClipSpec(8, 3), ClipSpec(4, 8, 56, 64)], ids=str)
@pytest.mark.parametrize("way", [bench_peers.filmstrips, bench_peers.pyav_threads])
def test_every_way_delivers_the_planned_frames_crops_and_flips(
    numbered: ShardIndex, copies: Path, spec: ClipSpec, way: Way
) -> None:
    contest = contest_of(numbered, copies, spec=spec)
    scale = (spec.resize or 128) / 128
    with way(contest) as batches:
        for step in range(2):
            planned, clips = contest.plan().batch(step), next(batches)
            assert clips.shape == (16, 3, spec.num_frames, spec.crop_size, spec.crop_size)
            wanted = frame_indices(planned.start, spec, video_frames=numbered.num_frames[planned.sample])
            shown = [
                read_numbers(clip, left=left / scale, scale=scale, flip=flip)
                for clip, left, flip in zip(clips.numpy(), planned.left, planned.flip, strict=True)
            ]
            assert shown == wanted.tolist()


def test_the_dataloader_delivers_what_the_threads_do(numbered: ShardIndex, copies: Path) -> None:
    contest = contest_of(numbered, copies)
    with bench_peers.pyav_threads(contest) as threads, bench_peers.pyav_dataloader(contest) as processes:
        for _ in range(3):
            assert np.array_equal(next(threads).numpy(), next(processes).numpy())


def test_pyav_decodes_from_the_keyframe_to_the_last_frame(numbered: ShardIndex, copies: Path) -> None:
    sample = int(np.flatnonzero(numbered.num_frames == 64)[0])
    path = bench_peers.copy_path(copies, numbered, sample)
    for start in range(64 - 15):
        wanted = frame_indices(start, ClipSpec(), video_frames=64)
        frames, num_decoded, num_bytes = bench_peers.read_frames(path, wanted, width=176, height=128)
        assert num_decoded == wanted[-1] - start // GOP * GOP + 1
        assert 0 < num_bytes < path.stat().st_size
        clip = frames.transpose(3, 0, 1, 2).astype(np.float32) - 128
        assert read_numbers(clip) == wanted.tolist()


def test_our_cost_counts_the_tiles_and_the_bytes_that_are_read(numbered: ShardIndex, copies: Path) -> None:
    cost = bench_peers.filmstrip_cost(contest_of(numbered, copies), range(2))
    assert (cost.num_clips, cost.num_frames) == (32, 32 * 8)
    assert cost.num_decoded <= cost.num_frames  # never more at stride 2; less where the last frame is repeated
    assert 0 < cost.num_bytes <= 2 * 32 * numbered.strip_size.max()


def test_copies_of_other_pictures_are_found_out(numbered: ShardIndex, tmp_path: Path) -> None:
    for sample in range(numbered.num_samples):
        negative = 255 - decode_sample(numbered, sample)
        path = bench_peers.copy_path(tmp_path, numbered, sample)
        write_video(path, negative, fps=25, vcodec="libx264", preset="ultrafast", bf=0, pix_fmt="yuv420p")
    with pytest.raises(BenchError, match=r"PyAV's clips are not the loader's \(PSNR .* dB"):
        bench_peers.check_peer(contest_of(numbered, tmp_path))


def test_a_copy_that_exists_is_not_made_again(numbered: ShardIndex, copies: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copies.iterdir()}
    bench_peers.make_copies(numbered, range(numbered.num_samples), copies, workers=1)
    assert {path: path.stat().st_mtime_ns for path in copies.iterdir()} == before
    assert len(before) == numbered.num_samples


@pytest.mark.slow
def test_the_ratio_is_that_of_the_medians(benched: tuple[Result, dict]) -> None:
    found = benched[1]
    medians = []
    for lane in (found["filmstrips"], found["peer"]):
        rates = [m["num_clips"] / m["wall_s"] for m in lane["measurements"]]
        assert len(rates) == 3
        assert lane["clips_per_s"] == {"median": sorted(rates)[1], "min": min(rates), "max": max(rates)}
        medians.append(sorted(rates)[1])
    assert found["ratio"] == medians[0] / medians[1]


@pytest.mark.slow
def test_both_ways_are_measured_on_as_many_clips_and_cores(benched: tuple[Result, dict]) -> None:
    found = benched[1]
    for lane in (found["filmstrips"], found["peer"]):
        assert [m["num_clips"] for m in lane["measurements"]] == [4, 4, 4]  # 3, in whole batches of 2
        assert lane["cores"]["median"] == sorted(m["cpu_s"] / m["wall_s"] for m in lane["measurements"])[1]
        assert lane["own_start"] > 0 < lane["own_end"] <= lane["rss_end"]
    assert len(found["cores"]) == 1
    assert set(found["trials"]) == {"pyav threads", "pyav DataLoader"}
    assert found["peer"]["name"] == max(found["trials"], key=lambda name: found["trials"][name]["median"])


@pytest.mark.slow
def test_the_report_is_a_table_and_ends_with_the_verdict(benched: tuple[Result, dict]) -> None:
    result, found = benched
    lines = [line for line in result.stdout.splitlines() if line]
    (header,) = [line for line in lines if line.lstrip().startswith("clips/s")]
    ours, peer = lines[lines.index(header) + 1 :][:2]
    assert ours.startswith("filmstrips ")
    assert peer.startswith(found["peer"]["name"])
    assert len(ours) == len(peer) == len(header)
    assert any(line.startswith("memory of filmstrips over ") for line in lines)
    assert lines[-2] == found["verdict"]
    assert f"{found['ratio']:.2f} times" in found["verdict"]
    assert ("NOT" in found["verdict"]) == (found["ratio"] < 1.5)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--clips", "8", "--seconds", "1"], 2, "--clips and --seconds are both given; choose one"),
        (["--device", "tpu"], 2, "device: 'tpu' is not possible; choose cpu, cuda or cuda:N"),
        (["--frame-stride", "0"], 2, "frame_stride: 0 is not possible"),
        (["--crop-size", "300"], 1, "crop_size: 300 does not fit a picture of 128 pixels"),
        (["--cores", "4096"], 1, "cores: 4096 are not there; choose at most"),
    ],
)
def test_errors_are_one_line_that_names_the_way_out(
    numbered: ShardIndex, options: list[str], code: int, message: str
) -> None:
    result = bench(numbered.data_dir, *options)
    assert result.exit_code == code
    assert message in result.stderr.splitlines()[-1]


def test_a_folder_without_shards_is_one_line(tmp_path: Path) -> None:
    result = bench(tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}: no dataset.json")
    assert result.stderr.count("\n") == 1


def test_without_psutil_the_error_says_what_to_install(numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    result = bench(numbered.data_dir)
    assert result.exit_code == 1
    assert result.stderr == 'error: psutil is not installed; pip install "res3d-video[bench]"\n'


def test_a_way_that_fails_is_one_line_with_its_name() -> None:
    order = Order(num_batches=3, seconds=None, warmup_batches=2)
    with MeasuredProcess("broken", nullcontext, [0]) as process:  # a list is no iterator
        process.wait_ready()
        with pytest.raises(BenchError, match="^broken: TypeError: 'list' object is not an iterator$"):
            process.measure(order)


def test_a_process_that_dies_is_one_line_with_its_exit_code() -> None:
    expected = pytest.raises(BenchError, match="^dead: its process ended with exit code 3$")
    with MeasuredProcess("dead", os._exit, 3) as process, expected:  # type: ignore[arg-type]
        process.wait_ready()


def test_slope_is_the_growth_over_the_second_half() -> None:
    steady = [Memory(done, rss=0, own=500 + 2 * done) for done in range(50, 101, 10)]
    assert slope([Memory(0, 0, 0), Memory(40, 0, 9999), *steady]) == 2
    assert slope(steady, what="rss") == 0
    assert slope(steady[:1]) == 0


def test_a_spread_prints_its_median_and_range() -> None:
    assert str(Spread.of([3.2, 100, 41])) == "41 [3..100]"
