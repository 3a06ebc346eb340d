"""tools/bench_loader.py: lanes alternate in one process; tables, files and the bottleneck say what was measured."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import LoaderSettings
from res3d_video.tools.bench import command
from res3d_video.tools.bench import run as bench_run
from res3d_video.tools.bench.command import pick_segments, settings_of
from res3d_video.tools.bench.comparison import Comparison, Row
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC, loader_cost
from res3d_video.tools.bench.machine import SOFTWARE_DECODERS
from res3d_video.tools.bench.measure import Measurement, Order, Spread, turns_of
from res3d_video.tools.bench.peers import PeerConfig
from res3d_video.tools.bench.report import console
from res3d_video.tools.bench.run import Settings
from res3d_video.tools.bench_loader import main
from tests.schemas import check_schema

pytest.importorskip("psutil", reason="the benchmarks need psutil")

SMALL = ["--frames", "4", "--crop-size", "56", "--resize", "64", "--batch-size", "2", "--width", "2", "--batches", "2"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Torch's threads, which spin in these processes, and other work on few cores would hold one another up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bench(data: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["--data", str(data), *options], catch_exceptions=False)


def settings_from(index: ShardIndex, *options: str, **changes: object) -> Settings:
    """The settings of a command line."""
    words = main.make_context("bench_loader", ["--data", str(index.data_dir), *options]).params
    own = ("data", "vs", "peer_cache", "json_path", "markdown_path", "chart_path", "autotune_first", "quiet")
    for name in own:
        del words[name]
    return replace(settings_of(index, with_peers=False, say=str, **words), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def benched(numbered: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict, Path]:
    """One whole benchmark: what it prints, its JSON, and the folder of its files."""
    folder = tmp_path_factory.mktemp("bench") / "found"
    files = ["--json", str(folder / "bench.json"), "--markdown", str(folder / "bench.md")]
    result = bench(numbered.data_dir, *SMALL, "--device", "cpu", "--repeats", "3", *files)
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "bench.json").read_text())
    check_schema("bench_loader", found)
    return result, found, folder


def test_the_lanes_alternate_in_rotated_order_and_have_as_many_turns(benched: tuple[Result, dict, Path]) -> None:
    turns = benched[1]["turns"]
    assert [(turn["repeat"], turn["lane"]) for turn in turns] == turns_of([LOADER, SYNTHETIC, REAL], repeats=3)
    assert all((turn["num_steps"], turn["num_clips"]) == (2, 4) for turn in turns)
    clips_before = [turn["memory"][0]["done"] for turn in turns]
    assert clips_before == sorted(clips_before)


def test_the_numbers_are_those_of_the_turns(benched: tuple[Result, dict, Path]) -> None:
    found = benched[1]
    rates = {
        lane: [t["num_clips"] / t["wall_s"] for t in found["turns"] if t["lane"] == lane] for lane in found["lanes"]
    }
    for lane, own in rates.items():
        assert found["lanes"][lane]["clips_per_s"] == {"median": median(own), "min": min(own), "max": max(own)}
    by_repeat = {(t["lane"], t["repeat"]): t["num_clips"] / t["wall_s"] for t in found["turns"]}
    ratios = [by_repeat[REAL, repeat] / by_repeat[SYNTHETIC, repeat] for repeat in range(3)]
    assert found["saturation"] == {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
    assert found["figures"]["saturation"] == median(ratios)


def test_the_loaders_lanes_read_and_the_synthetic_one_does_not(benched: tuple[Result, dict, Path]) -> None:
    for turn in benched[1]["turns"]:
        reads = turn["lane"] != SYNTHETIC
        assert turn["work"]["num_clips"] == (4 if reads else 0)
        assert (turn["work"]["num_bytes"] > 0) is reads
        assert (turn["data_wait_s"] > 0) is reads


def test_batches_taken_follow_one_another_over_all_turns(benched: tuple[Result, dict, Path]) -> None:
    loader = benched[1]["settings"]["loader"]
    warm_up = loader["prefetch"] + loader["queue_depth"] + 2
    taken = [turn["plan_steps"] for turn in benched[1]["turns"] if turn["plan_steps"]]
    assert taken == [[3 + (2 + warm_up) * i + warm_up, 3 + (2 + warm_up) * (i + 1)] for i in range(6)]  # three are kept


def test_the_report_is_a_table_and_ends_with_the_bottleneck(benched: tuple[Result, dict, Path]) -> None:
    result, found, folder = benched
    lines = [line for line in result.stdout.splitlines() if line]
    assert lines[0] == (
        "4×56×56 clips at stride 2, out of filmstrips, batches of 2, 11 segments, res3d10 of width 2, on cpu"
    )
    (header,) = [i for i, line in enumerate(lines) if line.lstrip().startswith("clips/s")]
    assert [line.split("  ")[0] for line in lines[header + 1 : header + 4]] == [LOADER, SYNTHETIC, REAL]
    assert found["bottleneck"] in lines
    assert found["bottleneck"].startswith("training waits for clips ")
    assert "GPU" not in found["bottleneck"]
    page = (folder / "bench.md").read_text()
    assert page.startswith(lines[0])
    assert page.endswith(f"**{found['bottleneck']}**\n")


def test_the_json_says_what_was_measured(benched: tuple[Result, dict, Path], numbered: ShardIndex) -> None:
    found = benched[1]
    codec = numbered.info["codec"]
    assert found["dataset"] == {"name": "numbered", "fingerprint": numbered.fingerprint, "codec": codec}
    assert found["settings"]["model"]["width"] == 2
    assert found["settings"]["num_segments"] == 11
    assert found["machine"]["versions"]["torch"] == torch.__version__ or torch.__version__.startswith(
        found["machine"]["versions"]["torch"]
    )
    assert found["command"].startswith("bench_loader.py")
    assert found["peers"] is None


def test_a_soak_watches_the_real_step_in_windows(numbered: ShardIndex) -> None:
    options = [*SMALL, "--device", "cpu", "--repeats", "1", "--soak-minutes", "0.005"]
    settings = settings_from(numbered, *options, soak_window_s=0.05)
    result = bench_run.run(settings, numbered, quiet=True)
    assert result.soak_lane == REAL
    assert len(result.soak) == 6
    for before, window in pairwise(result.soak):
        assert window.end_s >= before.end_s + 0.05
        rate = (window.num_clips - before.num_clips) / (window.end_s - before.end_s)
        assert window.clips_per_s == pytest.approx(rate)
    assert result.soak[0].use.own > 0
    assert result.soak[0].use.gpu_reserved is None
    assert any(line.startswith("soak, real step: 0.0 minutes, ") for line in console(result))


def test_the_loader_alone_needs_no_step(numbered: ShardIndex, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="charts need matplotlib")
    files = ["--chart", str(tmp_path / "bench.png"), "--json", str(tmp_path / "bench.json")]
    result = bench(numbered.data_dir, *SMALL, "--loader-only", "--repeats", "2", "--limit", "5", "--quiet", *files)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found = json.loads((tmp_path / "bench.json").read_text())
    assert list(found["lanes"]) == [LOADER]
    assert (found["saturation"], found["settings"]["step"], found["settings"]["num_segments"]) == (None, None, 5)
    assert found["bottleneck"].startswith("the loader alone delivers ")
    assert (tmp_path / "bench.png").stat().st_size > 5000


def test_autotune_comes_first_and_the_run_uses_what_it_picked(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a made-up machine that likes a queue of 3 and is indifferent to threads, whose fewest it takes."""

    def measured(plan: object, settings: LoaderSettings, **_: object) -> tuple[float, float]:
        return 100.0 - 20 * abs(settings.queue_depth - 3), float(settings.num_threads)

    monkeypatch.setattr(command, "measure_loader", measured)
    path = tmp_path / "bench.json"
    options = ["--device", "cpu", "--loader-only", "--repeats", "1", "--autotune", "--json", str(path)]
    result = bench(numbered.data_dir, *SMALL, *options)
    assert result.exit_code == 0, result.output
    flags = "--num-threads 1 --queue-depth 3 --prefetch 2 --hw-decoder-load 1 --read-ahead 4"
    assert f"best here: {flags}" in result.stdout.splitlines()
    found = json.loads(path.read_text())
    assert found["tuning"]["flags"] == flags
    assert found["settings"]["loader"]["queue_depth"] == 3
    assert settings_from(numbered, *flags.split()).loader == LoaderSettings(num_threads=1, queue_depth=3)


def test_a_profile_compares_the_step_with_and_without_loader(numbered: ShardIndex, tmp_path: Path) -> None:
    options = ["--device", "cpu", "--repeats", "1", "--profile", str(tmp_path / "profile")]
    result = bench(numbered.data_dir, *SMALL, *options)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "profile" / "kernels.md").read_text()
    assert "| synthetic step | " in page
    assert "| real step | " in page
    assert "convolution" in page
    for name in ("synthetic-step", "real-step"):
        assert json.loads((tmp_path / "profile" / f"{name}.json").read_text())["traceEvents"]


def test_cold_shards_are_read_from_disk(numbered: ShardIndex, tmp_path: Path) -> None:
    data, path = tmp_path / "shards", tmp_path / "bench.json"
    shutil.copytree(numbered.data_dir, data)
    result = bench(data, *SMALL, "--device", "cpu", "--repeats", "2", "--cold", "--json", str(path))
    if "stay in the page cache" in result.stderr:
        pytest.skip(f"{tmp_path}: its file system keeps files in memory")
    assert result.exit_code == 0, result.output
    turns = json.loads(path.read_text())["turns"]
    assert [turn["lane"] for turn in turns if turn["disk_bytes"] is None] == []
    first = [turn["plan_steps"][0] for turn in turns if turn["plan_steps"]]
    assert first == sorted(set(first))  # the plan goes on in the loaders that are opened anew


def test_peers_are_printed_written_and_drawn_beside_ours(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list = []
    measured = Measurement(num_clips=10, wall_s=1.0, cpu_s=1.0, read_bytes=100)
    ours, theirs = (Row(name, "PyAV 18", "2 threads", rounds=[measured]) for name in ("ours (DALI)", "PyAV threads"))
    compared = Comparison([ours], [theirs], absent={"DALI video": "needs a GPU"})

    def compare(config: PeerConfig, order: Order, **options: object) -> Comparison:
        asked.append((config, order, options["names"]))
        return compared

    drawn: list = []
    monkeypatch.setattr(command, "compare", compare)
    monkeypatch.setattr(command, "draw", lambda *words: drawn.append(words))
    files = [word for name in ("json", "markdown", "chart") for word in (f"--{name}", str(tmp_path / f"b.{name}"))]
    files[-1] = str(tmp_path / "b.png")
    options = ["--device", "cpu", "--repeats", "1", "--loader-only", "--vs", "PyAV threads", *files]
    result = bench(numbered.data_dir, *SMALL, *options)
    assert result.exit_code == 0, result.output
    ((config, order, names),) = asked
    assert (config.batch_size, config.spec.num_frames, order.num_batches, names) == (2, 4, 2, "PyAV threads")
    assert config.num_workers == len(os.sched_getaffinity(0))
    assert compared.sentence() in result.stdout.splitlines()
    found = json.loads((tmp_path / "b.json").read_text())
    check_schema("bench_loader", found)
    assert found["peers"]["ratio"] == 1.0
    assert (tmp_path / "b.markdown").read_text().endswith(f"**{compared.sentence()}**\n")
    assert drawn[0][3] == {"PyAV threads": Spread(10.0, 10.0, 10.0)}


def test_options_reach_the_loader_and_the_step(numbered: ShardIndex) -> None:
    words = [
        "--num-threads",
        "3",
        "--prefetch",
        "4",
        "--queue-depth",
        "5",
        "--hw-decoder-load",
        "0.5",
        "--read-ahead",
        "0",
    ]
    settings = settings_from(numbered, *words, "--device", "cpu", "--compile", "--space-to-depth", "--seconds", "7")
    assert settings.loader == LoaderSettings(
        num_threads=3, prefetch=4, queue_depth=5, hw_decoder_load=0.5, read_ahead=0
    )
    assert settings.step is not None
    assert (settings.step.compile, settings.step.space_to_depth, settings.step.cuda_graph) == (True, True, False)
    assert (settings.seconds, settings.batches) == (7.0, None)
    assert (settings.model.name, settings.model.width, settings.batch_size) == ("res3d10", 16, 16)


def test_clips_of_h264_begin_at_keyframes_when_asked_to(numbered: ShardIndex, numbered_h264: ShardIndex) -> None:
    settings = settings_from(numbered_h264, "--snap-to-keyframe", "--batch-size", "64")
    starts = settings.plan(numbered_h264).batch(0).start
    assert set((starts % numbered_h264.gop_size).tolist()) == {0}
    assert len(set(starts.tolist())) > 8
    free = settings_from(numbered_h264, "--batch-size", "64").plan(numbered_h264).batch(0).start
    assert len(set((free % numbered_h264.gop_size).tolist())) > 4
    result = bench(numbered.data_dir, "--snap-to-keyframe")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith("holds filmstrips, which have none; leave it out")


def test_h264_shards_are_measured_and_every_decoded_frame_is_counted(numbered_h264: ShardIndex, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    options = ["--device", "cpu", "--loader-only", "--batch-size", "8", "--batches", "12", "--repeats", "1"]
    result = bench(numbered_h264.data_dir, *options, "--json", str(path))  # 12: more than wait ready at the start
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("8×112×112 clips at stride 2, out of h264 of GOP 8, batches of 8, 11 segments, ")
    found = json.loads(path.read_text())
    (turn,) = found["turns"]
    plan = settings_from(numbered_h264, *options).plan(numbered_h264)
    work = loader_cost(plan, steps=range(*turn["plan_steps"]))
    assert turn["work"]["num_frames_decoded"] == work.num_frames_decoded
    assert found["lanes"][LOADER]["decoded_to_used"] == work.decoded_to_used > 1.3
    assert f"{work.decoded_to_used:.2f}" in result.stdout
    assert turn["thread_s"][SOFTWARE_DECODERS] > 0
    assert found["dataset"]["codec"]["gop_size"] == 8


def test_segments_are_drawn_from_everywhere_and_in_order(numbered: ShardIndex) -> None:
    some = pick_segments(numbered, 4, seed=1)
    assert some.tolist() == sorted(set(some.tolist()))
    assert len(some) == 4
    assert pick_segments(numbered, None, seed=1).tolist() == list(range(numbered.num_samples))
    assert set(np.concatenate([pick_segments(numbered, 4, seed=seed) for seed in range(20)])) == set(
        range(numbered.num_samples)
    )


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--loader-only", "--profile", "p"], 2, "--profile is of the training steps; leave --loader-only out"),
        (["--batches", "8", "--seconds", "1"], 2, "--seconds and --batches are both given; choose one"),
        (["--device", "tpu"], 2, "device: 'tpu' is not possible; choose auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], 2, "device: cuda:99 is not there; choose cpu"),
        (["--frame-stride", "0"], 2, "'--frame-stride': 0 is not in the range 1<=x<=32"),
        (["--prefetch", "0"], 2, "prefetch: 0 is not possible; choose 1 to 1000"),
        (["--width", "0"], 2, "'--width': 0 is not in the range 1<=x<=1024"),
        (["--device", "cpu", "--cuda-graph"], 2, "--no-cuda-graph"),
        (["--crop-size", "300"], 1, "crop_size: 300 does not fit a picture of 128 pixels"),
        (["--vs", "nobody"], 1, "peer 'nobody' does not exist; choose all"),
    ],
)
def test_errors_are_one_line_that_names_the_way_out(
    numbered: ShardIndex, options: list[str], code: int, message: str
) -> None:
    result = bench(numbered.data_dir, *options)
    assert result.exit_code == code, result.output
    assert message in result.stderr.splitlines()[-1]


def test_a_folder_without_shards_is_one_line(tmp_path: Path) -> None:
    result = bench(tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}: no dataset.json")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("package", "options"), [("psutil", []), ("matplotlib", ["--chart", "bench.png"])])
def test_without_a_package_the_error_says_what_to_install(
    numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch, package: str, options: list[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = bench(numbered.data_dir, *options)
    assert result.exit_code == 1
    assert result.stderr == f'error: {package} is not installed; pip install "res3d-video[bench]"\n'


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_bottleneck_speaks_of_it(numbered: ShardIndex, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    options = ["--device", "cuda", "--batch-size", "16", "--width", "16", "--repeats", "2", "--seconds", "2"]
    result = bench(numbered.data_dir, *options, "--soak-minutes", "0.1", "--json", str(path))
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    assert found["bottleneck"].startswith("the GPU waits ")
    assert 0 < found["saturation"]["median"] < 1.5
    assert found["lanes"][SYNTHETIC]["sm"] > 0
    assert found["lanes"][REAL]["gpu_memory"] > 0
    assert found["soak"]["windows"][0]["use"]["gpu_reserved"] > 0
    assert found["machine"]["versions"]["CUDA"] == torch.version.cuda
