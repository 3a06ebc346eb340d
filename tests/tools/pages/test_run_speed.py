"""Who waits for whom: the verdict at and around its limits, in words, and the benchmark's file."""

import json
from pathlib import Path

import pytest

from res3d_video.tools.pages.run.reading import read_run
from res3d_video.tools.pages.run.speed import WaitVerdict, bench_chart, grouped, read_bench, wait_verdict
from tests.tools.pages.made_runs import train_line, write_run


def run_with(folder: Path, *, wait_s: float, batch_size: int = 20, world_size: int = 1, device: str = "cpu"):
    lines = [train_line(1, wait_s=2.0), train_line(2, wait_s=wait_s), train_line(3, wait_s=wait_s)]
    about = {"world_size": world_size, "device": device}
    return read_run(write_run(folder, lines, about=about, global_batch_size=batch_size), name=folder.name)


@pytest.mark.parametrize(
    ("wait_s", "options", "keeps_up"),
    [
        (0.0, {}, True),
        (0.099, {}, True),
        (0.101, {}, False),
        (0.099, {"batch_size": 256}, False),
        (0.059, {"batch_size": 256}, True),
        (0.099, {"batch_size": 256, "world_size": 2}, True),
        (0.101, {"device": "NVIDIA H100"}, False),
    ],
)
def test_training_may_wait_5_percent_of_the_time_and_3_at_batch_256_a_process(
    tmp_path: Path, wait_s: float, options: dict, keeps_up: bool
) -> None:
    verdict = wait_verdict(run_with(tmp_path / "run", wait_s=wait_s, **options))
    assert verdict.keeps_up is keeps_up
    assert ("the loader keeps up" in verdict.text) == keeps_up
    assert verdict.text.startswith("the GPU waits" if "device" in options else "training waits")


def test_the_sentence_names_the_share_and_the_limit(tmp_path: Path) -> None:
    verdict = wait_verdict(run_with(tmp_path / "run", wait_s=0.5))
    assert verdict.text == (
        "training waits for clips 25.0 % of the time, at most 5 % is right: the loader is the limit; "
        "tools/bench_loader.py --autotune finds its settings for this machine"
    )


def test_a_log_without_waits_is_not_judged(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", [{"event": "train", "step": 1, "loss": 1.0}]), name="run")
    assert wait_verdict(run).keeps_up is None
    assert wait_verdict(run).text == "the log does not say how long training waited for clips"


def test_runs_with_one_verdict_share_a_line(tmp_path: Path) -> None:
    runs = [run_with(tmp_path / name, wait_s=0.01) for name in "abcdefgh"]
    shares = [0.01, 0.02, 0.2, 0.01, 0.01, 0.01, 0.01, 0.03]
    found = grouped([(run, WaitVerdict(share, 0.05, "training")) for run, share in zip(runs, shares, strict=True)])
    assert [(names, keeps_up) for names, keeps_up, _ in found] == [("7 runs", True), ("c", False)]
    assert found[0][2].startswith("training waits for clips 1.0 to 3.0 % of the time")


def test_a_benchmark_becomes_bars_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    rate = {"median": 533.1, "min": 400.0, "max": 568.0}
    about = {"verdict": "training waits", "machine": {"cpu": "AMD EPYC"}, "settings": {"batch_size": 16}}
    path.write_text(json.dumps({"lanes": {"loader alone": {"clips_per_s": rate}}, "dataset": {"name": "demo"}} | about))
    html = bench_chart(read_bench(path), name="bench")
    assert "Loader on demo" in html
    assert "loader alone 533.1 clips/s" in html
    assert "Training waits. AMD EPYC, batch 16." in html
    assert "#000" not in html  # colours are the page's


@pytest.mark.parametrize(
    "text", ["", "{}", '{"lanes": {}, "verdict": ""}', '{"lanes": {"a": {}}, "verdict": ""}', "[]"]
)
def test_a_file_that_is_no_benchmark_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"bench.json: not what tools/bench_loader.py --json writes \(.*\); measure again$"
    ):
        read_bench(tmp_path / "bench.json")
