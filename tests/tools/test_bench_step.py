"""tools/bench_step.py: every optimisation has a number of its own, and one that cannot run is a line."""

import json
import statistics
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from pipeline.clip import ClipSpec
from tests.schemas import check_schema
from tools.bench.gains import Found
from tools.bench.ladder import PLAIN, Way, ladder, removals, ways_of
from tools.bench.measure import BenchError
from tools.bench.steps import Lane, StepProcess, Turn, Workload, measure, random_batches
from tools.bench_step import main
from train.models import ModelConfig
from train.ranks import Ranks
from train.step import StepOptions, default_options

SMALL = Workload(ModelConfig("res3d10", width=4), ClipSpec(2, 1, 16), batch_size=2, device="cpu")
OPTIONS = ["--width", "4", "--batch-size", "2", "--frames", "2", "--crop-size", "16", "--steps", "1", "--device", "cpu"]


def bench(*options: str) -> Result:
    return CliRunner().invoke(main, [*OPTIONS, "--leave-out", "torch.compile", *options], catch_exceptions=False)


def test_everything_on_a_gpu_is_what_the_trainer_does_there() -> None:
    rungs, _ = ways_of("cuda")
    last = list(rungs.values())[-1]
    assert last == Way(default_options(Ranks(device=torch.device("cuda"))), bfloat16=True, fused=True)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_each_rung_changes_something_and_each_optimisation_is_taken_away_once(kind: str) -> None:
    rungs, without = ways_of(kind)
    assert next(iter(rungs.values())) == PLAIN
    assert len(set(rungs.values())) == len(rungs) == len(ladder(kind)) + 1
    assert list(rungs.values())[-1] not in without.values()
    assert len(set(without.values())) == len(without) == len(removals(kind))
    for way in [*rungs.values(), *without.values()]:
        way.options.check(torch.device(kind))


def test_what_is_left_out_is_on_no_rung() -> None:
    rungs, without = ways_of("cuda", leave_out=("space to depth", "torch.compile"))
    for way in [*rungs.values(), *without.values()]:
        assert not way.options.space_to_depth
        assert not way.options.compile
    assert not {"without space to depth", "without torch.compile"} & without.keys()


def test_clips_are_the_loaders_in_layout_and_type_and_no_two_sets_are_alike() -> None:
    sets = list(random_batches(SMALL))
    assert len(sets) >= 3
    for clips, labels, weights in sets:
        assert (clips.shape, clips.dtype) == ((2, 3, 2, 16, 16), torch.float32)
        assert clips.is_contiguous(memory_format=torch.channels_last_3d)
        assert clips.unique().numel() > 200
        assert (labels.shape, weights.tolist()) == ((2,), [1, 1])
    assert not torch.equal(sets[0][0], sets[1][0])


def found_of(turns: dict[Way, list[float]]) -> Found:
    """Everything measured, with turns of so many milliseconds."""
    rungs, without = ways_of("cpu", leave_out=("fused optimizer", "torch.compile", "space to depth"))
    measured = {way: Lane([Turn(ms, None) for ms in values]) for way, values in turns.items()}
    return Found(SMALL, rungs, without, measured)


def test_a_gain_is_the_median_of_the_rounds_quotients() -> None:
    rungs, without = ways_of("cpu", leave_out=("fused optimizer", "torch.compile", "space to depth"))
    found = found_of({PLAIN: [100.0, 300.0, 90.0], rungs["channels_last"]: [50.0, 100.0, 60.0]})
    gain = found.gains["channels_last"]
    assert gain is not None
    assert (gain.median, gain.min, gain.max) == (2.0, 1.5, 3.0)  # 100/50, 300/100, 90/60
    assert without["without channels_last"] == PLAIN
    assert found.losses["without channels_last"] == gain
    assert found.sentences() == ["everything: 33.3 clips/s, 2.00 [1.50..3.00] times plain float32"]


def test_a_gain_that_noise_may_explain_is_said_to_be_none() -> None:
    rungs, _ = ways_of("cpu", leave_out=("fused optimizer", "torch.compile", "space to depth"))
    found = found_of({PLAIN: [100.0, 100.0, 100.0], rungs["channels_last"]: [90.0, 95.0, 101.0]})
    assert "no gain beyond noise when taken away from everything: channels_last" in found.sentences()


def test_a_way_that_fails_is_a_line_and_the_others_go_on() -> None:
    impossible = Way(StepOptions(cuda_graph=True))
    told: list[str] = []
    lanes = measure(
        SMALL,
        [impossible, PLAIN],
        num_steps=1,
        repeats=2,
        tell=lambda done, total, note: told.append(f"{done}/{total}"),
    )
    assert lanes[impossible].failed == "cuda-graph: cpu has none; choose a GPU or --no-cuda-graph"
    assert len(lanes[PLAIN].turns) == 2
    assert all(turn.ms_per_step > 0 for turn in lanes[PLAIN].turns)
    assert told == ["1/4", "2/4", "3/4", "4/4"]
    found = Found(SMALL, {"float32": PLAIN, "graph": impossible}, {}, lanes)
    ((_, rows), _) = found.tables()
    assert rows[1] == ["graph", "failed", "–", "–", "–"]
    assert found.sentences() == [f"graph failed: {lanes[impossible].failed}"]


def test_a_process_that_dies_is_one_line() -> None:
    with StepProcess(SMALL) as process:
        process._process.kill()
        with pytest.raises(BenchError, match="its process ended with exit code -9"):
            process.turn(PLAIN, 1)


@pytest.mark.slow
def test_the_files_hold_what_the_tables_say(tmp_path: Path) -> None:
    json_path, page_path = tmp_path / "new" / "step.json", tmp_path / "step.md"
    result = bench("--repeats", "3", "--json", str(json_path), "--markdown", str(page_path), "--quiet")
    assert result.exit_code == 0, result.output
    found, page = json.loads(json_path.read_text()), page_path.read_text()
    check_schema("bench_step", found)
    assert list(found["ladder"]) == list(ways_of("cpu", leave_out=("torch.compile",))[0])
    for name, lane in found["ladder"].items():
        turns = [turn["ms_per_step"] for turn in lane["turns"]]
        assert len(turns) == 3
        assert lane["ms_per_step"]["median"] == statistics.median(turns)
        assert lane["clips_per_s"] == pytest.approx(2000 / statistics.median(turns))
        (line,) = [line for line in result.stdout.splitlines() if line.startswith(f"{name} ")]
        assert f"{statistics.median(turns):.1f} [" in line
        assert f"| {name} | {statistics.median(turns):.1f} [" in page
    assert found["machine"]["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "tpu"], "'tpu' is not possible"),
        (["--repeats", "0"], "--repeats"),
        (["--model", "vgg"], "vgg"),
    ],
)
def test_wrong_usage_is_named(options: list[str], message: str) -> None:
    result = bench(*options)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_every_way_runs_on_a_gpu() -> None:
    workload = Workload(ModelConfig("res3d10", width=16), ClipSpec(4, 1, 32), batch_size=8, device="cuda")
    rungs, without = ways_of("cuda", leave_out=("torch.compile",))
    lanes = measure(workload, [*rungs.values(), *without.values()], num_steps=3, repeats=1, tell=lambda *_: None)
    assert not [lane.failed for lane in lanes.values() if lane.failed]
    assert all(lane.turns[0].peak_bytes for lane in lanes.values())
