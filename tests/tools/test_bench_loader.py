"""tools/bench_loader.py: lanes alternate in one process; tables, files and the bottleneck say what was measured."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import LoaderSettings
from res3d_video.pipeline.reader import ReadWork, StepReader
from res3d_video.tools.bench import command
from res3d_video.tools.bench.command import settings_of
from res3d_video.tools.bench.comparison import Comparison, Row
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC
from res3d_video.tools.bench.machine import SOFTWARE_DECODERS
from res3d_video.tools.bench.measure import Measurement, Order, schedule
from res3d_video.tools.bench.peers import PeerConfig
from res3d_video.tools.bench.run import Settings
from res3d_video.tools.bench_loader import main
from tests.schemas import check_schema
from tests.tools.commands import run

pytest.importorskip("psutil", reason="the benchmarks need psutil")

SMALL = ["--frames", "4", "--crop-size", "56", "--resize", "64", "--batch-size", "2", "--width", "2", "--batches", "2"]


def settings_from(index: ShardIndex, *options: str) -> Settings:
    """The settings of a command line."""
    words = main.make_context("bench_loader", ["--data", str(index.data_dir), *options]).params
    return settings_of(index, say=str, **words)


def measured(data: Path, folder: Path, *options: str) -> tuple[list[str], dict]:
    """The lines that a benchmark prints, and its JSON."""
    path = folder / "bench.json"
    result = run(main, "--data", data, "--quiet", "--json", path, *options)
    assert result.stderr == ""
    found = json.loads(path.read_text())
    check_schema("bench_loader", found)
    return [line for line in result.stdout.splitlines() if line], found


@pytest.fixture(scope="module")
def benched(numbered: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict, Path]:
    """One whole benchmark: its lines, its JSON, and the folder of its profile."""
    folder = tmp_path_factory.mktemp("bench") / "new"
    options = [*SMALL, "--device", "cpu", "--repeats", "3", "--profile", str(folder)]
    return *measured(numbered.data_dir, folder, *options), folder


def test_the_lanes_alternate_and_read_on_in_the_plan(benched: tuple[list[str], dict, Path]) -> None:
    _, found, _ = benched
    assert [(one["repeat"], one["lane"]) for one in found["rounds"]] == schedule([LOADER, SYNTHETIC, REAL], repeats=3)
    for one in found["rounds"]:
        reads = one["lane"] != SYNTHETIC
        assert (one["num_batches"], one["num_clips"], one["work"]["num_clips"]) == (2, 4, 4 if reads else 0)
        assert (one["data_wait_s"] > 0) is reads
    warm_up = found["settings"]["loader"]["prefetch"] + found["settings"]["loader"]["queue_depth"] + 2
    taken = [one["plan_steps"] for one in found["rounds"] if one["plan_steps"]]
    assert taken == [[3 + (2 + warm_up) * i + warm_up, 3 + (2 + warm_up) * (i + 1)] for i in range(6)]  # three are kept


def test_table_json_and_profile_say_what_was_measured(
    benched: tuple[list[str], dict, Path], numbered: ShardIndex
) -> None:
    lines, found, folder = benched
    assert lines[0] == (
        "4×56×56 clips at stride 2, out of filmstrips, batches of 2, 11 segments, res3d10 of width 2, on cpu"
    )
    (header,) = [i for i, line in enumerate(lines) if line.lstrip().startswith("clips/s")]
    assert [line.split("  ")[0] for line in lines[header + 1 : header + 4]] == [LOADER, SYNTHETIC, REAL]
    assert found["bottleneck"] in lines
    assert found["bottleneck"].startswith("training waits for clips ")
    codec = numbered.info["codec"]
    assert found["dataset"] == {"name": "numbered", "fingerprint": numbered.fingerprint, "codec": codec}
    assert (found["settings"]["model"]["width"], found["settings"]["num_segments"]) == (2, 11)
    assert "convolution" in (folder / "kernels.md").read_text()
    for name in ("synthetic-step", "real-step"):
        assert json.loads((folder / f"{name}.json").read_text())["traceEvents"]


def test_autotune_comes_first_and_the_run_uses_what_it_picked(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "TUNING_ORDER", Order(1, None))
    monkeypatch.setattr(command, "TUNING_REPEATS", 1)
    monkeypatch.setattr("res3d_video.tools.bench.autotune.THREADS", (1,))
    options = [*SMALL, "--device", "cpu", "--repeats", "1", "--autotune"]
    lines, found = measured(numbered.data_dir, tmp_path, *options)
    flags, best = found["tuning"]["flags"], found["tuning"]["best"]["settings"]
    assert f"best here: {flags}" in lines
    assert found["settings"]["loader"] == best
    assert settings_from(numbered, *flags.split()).loader == LoaderSettings(**best)
    assert [point["settings"]["queue_depth"] for point in found["tuning"]["points"]] == [2, 1, 3, 4]


def test_with_cold_shards_the_plan_goes_on_in_the_loaders_opened_anew(numbered: ShardIndex, tmp_path: Path) -> None:
    shutil.copytree(numbered.data_dir, tmp_path / "shards")
    options = [*SMALL, "--device", "cpu", "--repeats", "2", "--cold"]
    _, found = measured(tmp_path / "shards", tmp_path, *options)
    first = [one["plan_steps"][0] for one in found["rounds"] if one["plan_steps"]]
    assert first == sorted(set(first))


def test_peers_are_printed_written_and_drawn_beside_the_loader_alone(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="charts need matplotlib")
    rounds = [Measurement(1, 10, wall_s=1.0, cpu_s=1.0)]
    ours, theirs = (Row(name, "PyAV 18", "2 threads", rounds) for name in ("ours (DALI)", "PyAV threads"))
    compared, asked = Comparison([ours], [theirs]), []

    def compare(config: PeerConfig, *, names: str, quiet: bool) -> Comparison:
        asked.append((len(config.settings.samples), config.settings.order, config.num_workers, names))
        return compared

    monkeypatch.setattr(command, "compare", compare)
    options = [*SMALL, "--loader-only", "--repeats", "2", "--limit", "5", "--chart", str(tmp_path / "bench.png")]
    lines, found = measured(numbered.data_dir, tmp_path, *options, "--vs", "PyAV threads")
    assert asked == [(5, Order(2, None), len(os.sched_getaffinity(0)), "PyAV threads")]
    assert list(found["lanes"]) == [LOADER]
    assert (found["saturation"], found["settings"]["step"], found["settings"]["num_segments"]) == (None, None, 5)
    assert found["bottleneck"].startswith("the loader alone delivers ")
    assert {found["bottleneck"], compared.report()[-1]} <= set(lines)
    assert list(found["peers"]["peers"]) == ["PyAV threads"]
    assert (tmp_path / "bench.png").stat().st_size > 5000


def test_options_reach_the_loader_and_the_step(numbered: ShardIndex) -> None:
    words = "--num-threads 3 --prefetch 4 --queue-depth 5 --read-ahead 0 --seconds 7 --compile --device cpu"
    settings = settings_from(numbered, *words.split())
    assert settings.loader == LoaderSettings(num_threads=3, prefetch=4, queue_depth=5, read_ahead=0)
    assert settings.step is not None
    assert (settings.step.compile, settings.step.cuda_graph, settings.order) == (True, False, Order(None, 7.0))
    assert (settings.model.name, settings.model.width, settings.batch_size) == ("res3d10", 16, 16)
    assert settings_from(numbered, "--soak-minutes", "2", "--seconds", "4").repeats == 10  # of three lanes
    some = settings_from(numbered, "--limit", "4").samples.tolist()  # of all, in order
    assert some == sorted(set(some)) != [0, 1, 2, 3]
    assert len(some) == 4


def test_h264_shards_are_measured_and_every_decoded_frame_is_counted(numbered_h264: ShardIndex, tmp_path: Path) -> None:
    options = ["--device", "cpu", "--loader-only", "--batch-size", "8", "--batches", "12", "--repeats", "1"]
    lines, found = measured(numbered_h264.data_dir, tmp_path, *options)  # 12: more than wait ready at the start
    assert lines[0].startswith("8×112×112 clips at stride 2, out of h264 of GOP 8, batches of 8, 11 segments, ")
    (one,) = found["rounds"]
    plan = settings_from(numbered_h264, *options).plan(numbered_h264)
    reader = StepReader(plan.index, plan, rows=slice(0, plan.global_batch_size))
    work = sum((reader.read(step).work for step in range(*one["plan_steps"])), ReadWork())
    assert one["work"]["num_frames_decoded"] == work.num_frames_decoded
    assert found["lanes"][LOADER]["decoded_to_used"] == work.decoded_to_used > 1.3
    assert one["thread_s"][SOFTWARE_DECODERS] > 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--loader-only", "--profile", "p"], 2, "--profile needs the training steps; leave --loader-only out"),
        (["--batches", "8", "--seconds", "1"], 2, "--seconds and --batches are both given; choose one"),
        (["--device", "tpu"], 2, "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        (["--device", "cuda:99"], 2, "device: this machine has no cuda:99; choose cpu"),
        (["--device", "cpu", "--cuda-graph"], 2, "--no-cuda-graph"),
        (["--snap-to-keyframe"], 2, "holds filmstrips, which have none; leave it out"),
        (["--crop-size", "300"], 1, "crop_size: 300 does not fit a picture of 128 pixels"),
        (["--vs", "nobody"], 1, "peer 'nobody' does not exist; choose all"),
    ],
)
def test_errors_are_one_line_that_names_the_way_out(
    numbered: ShardIndex, options: list[str], code: int, message: str
) -> None:
    assert message in run(main, "--data", numbered.data_dir, *options, code=code).stderr.splitlines()[-1]


@pytest.mark.parametrize(("package", "options"), [("psutil", []), ("matplotlib", ["--chart", "bench.png"])])
def test_without_a_package_the_error_says_what_to_install(
    numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch, package: str, options: list[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = run(main, "--data", numbered.data_dir, *options, code=1)
    assert result.stderr == f'error: {package} is not installed; pip install "res3d-video[bench]"\n'


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_bottleneck_speaks_of_it(numbered: ShardIndex, tmp_path: Path) -> None:
    options = ["--device", "cuda", "--batch-size", "16", "--width", "16", "--repeats", "2", "--seconds", "2"]
    _, found = measured(numbered.data_dir, tmp_path, *options, "--profile", str(tmp_path))
    assert found["bottleneck"].startswith("the GPU waits ")
    assert 0 < found["saturation"]["median"] < 1.5
    assert found["lanes"][SYNTHETIC]["sm"] > 0
    assert found["lanes"][REAL]["gpu_memory"] > 0
    assert re.search(r"stream idle \| \d+\.\d% \| \d+\.\d% \|", (tmp_path / "kernels.md").read_text())
