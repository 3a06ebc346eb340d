"""The trainer's command from outside: files, resuming, signals, ranks, errors."""

import json
import os
import shutil
import signal
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.checkpoint import load_checkpoint
from res3d_video.train.main import main
from res3d_video.train.presets import PRESETS
from res3d_video.train.resolve import configure
from tests.chaos.ledger import wait_until
from tests.schemas import check_schema
from tests.train.conftest import Trainer, command_line, read_metrics
from tests.warm import Warm, places, run_warm


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_its_checkpoint_metrics_and_configuration(run_main: Trainer, tmp_path: Path) -> None:
    result = run_main(tmp_path / "run", "--steps", "4", "--eval-every", "2", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    check_schema("train", printed)
    assert printed["step"] == 4
    assert printed["finished"]
    assert printed["chance"] == 0.5
    assert [line["step"] for line in read_metrics(tmp_path / "run", "train")] == [1, 2, 3, 4]
    assert [line["step"] for line in read_metrics(tmp_path / "run", "eval")] == [2]
    assert [line["step"] for line in read_metrics(tmp_path / "run", "final")] == [4]
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    check_schema("config.json", about)
    for event in ("train", "eval", "final"):
        check_schema(f"metrics.jsonl {event}", read_metrics(tmp_path / "run", event))
    assert about["config"]["clip"] == {"num_frames": 4, "frame_stride": 2, "crop_size": 32, "resize": 32}
    assert about["data"]["classes"] == ["left", "right"]
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert load_checkpoint(tmp_path / "run" / "latest.pt")["step"] == 4


def test_stopping_half_way_and_going_on_equals_not_stopping(run_main: Trainer, tmp_path: Path) -> None:
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    run_main(whole, "--steps", "20", "--keep-every", "10")
    assert run_main(rest, "--steps", "20", "--resume", str(whole / "step-10.pt")).exit_code == 0
    assert same(weights_of(rest / "latest.pt"), weights_of(whole / "latest.pt"))
    losses = [line["loss"] for line in read_metrics(whole, "train")]
    assert [line["loss"] for line in read_metrics(rest, "train")] == losses[10:]
    assert len(set(losses)) == 20


def test_training_on_h264_from_keyframes_goes_on_as_if_it_had_not_stopped(
    run_main: Trainer, squares_h264: ShardIndex, tmp_path: Path
) -> None:
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    options = ["--steps", "6", "--snap-to-keyframe", "--frame-stride", "1"]
    result = run_main(whole, *options, "--keep-every", "3", data=squares_h264.data_dir)
    assert result.exit_code == 0, result.output
    assert run_main(rest, *options, "--resume", str(whole / "step-3.pt"), data=squares_h264.data_dir).exit_code == 0
    assert same(weights_of(rest / "latest.pt"), weights_of(whole / "latest.pt"))
    assert {line["decode_waste"] for line in read_metrics(whole, "train")} == {1.0}, "four frames from a keyframe on"
    free = tmp_path / "free"
    run_main(free, "--steps", "6", "--frame-stride", "1", data=squares_h264.data_dir)
    assert read_metrics(free, "train")[-1]["decode_waste"] > 1


def test_how_a_run_is_executed_is_written_down_and_changes_no_more_than_rounding(
    run_main: Trainer, tmp_path: Path
) -> None:
    run_main(tmp_path / "plain", "--steps", "3")
    result = run_main(tmp_path / "other", "--steps", "3", "--space-to-depth", "--prefetch", "3", "--read-ahead", "0")
    assert result.exit_code == 0, result.output
    plain, other = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "other"))
    assert plain["config"] == other["config"]
    assert (plain["step"]["space_to_depth"], other["step"]["space_to_depth"]) == (False, True)
    assert (other["loader"]["prefetch"], other["loader"]["read_ahead"], other["loader"]["num_threads"]) == (3, 0, 1)
    losses = [[line["loss"] for line in read_metrics(tmp_path / name, "train")] for name in ("plain", "other")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    expected, found = (weights_of(tmp_path / name / "latest.pt") for name in ("plain", "other"))
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in expected.items()}


def test_a_damaged_latest_falls_back_and_the_log_has_every_step_once(run_main: Trainer, tmp_path: Path) -> None:
    run_main(tmp_path, "--steps", "6", "--keep-every", "3")
    before = [(line["step"], line["loss"]) for line in read_metrics(tmp_path, "train")]
    latest = weights_of(tmp_path / "latest.pt")
    for name in ("latest.pt", "best.pt", "step-6.pt"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:1000])
    result = run_main(tmp_path, "--steps", "6", "--resume", "auto")
    assert result.exit_code == 0, result.output
    assert f"checkpoint: {tmp_path / 'latest.pt'} cannot be read" in result.stdout
    assert f"going on from {tmp_path / 'step-3.pt'} at step 3" in result.stdout
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path, "train")] == before
    assert same(weights_of(tmp_path / "latest.pt"), latest)


def test_a_run_goes_on_only_as_the_same_experiment(
    run_main: Trainer, other_squares: ShardIndex, tmp_path: Path
) -> None:
    run_main(tmp_path, "--steps", "2")
    rate = PRESETS["tiny"].optim.lr
    cases: list[tuple[list[str], int, str]] = [
        (["--resume", "never"], 2, "already holds a run; leave out --resume to go on, or choose another"),
        (["--seed", "5"], 1, "resume: seed is 5 but was 0; use 0 again or another --out"),
        (["--model", "res3d18"], 1, "resume: model.name is res3d18 but was res3d10"),
        (["--frame-stride", "1"], 1, "resume: clip.frame_stride is 1 but was 2"),
        (["--steps", "1"], 1, "resume: the checkpoint is at step 2; choose --steps of at least that"),
        (["--data", str(other_squares.data_dir)], 1, "use the same shards or another --out"),
        (["--lr", "0.5"], 0, f"resume: optim.lr is now 0.5, was {rate}"),
    ]
    for options, exit_code, message in cases:
        result = run_main(tmp_path, "--steps", "3", *options)
        assert result.exit_code == exit_code, result.output
        assert [line for line in result.output.splitlines() if message in line], result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "4"], "split 4 does not exist; choose 1"),
        (["--preset", "finetune-hmdb51"], "add --init-from CHECKPOINT"),
        (["--resume", "nowhere.pt"], "nowhere.pt is no file; choose auto, never or a .pt file"),
        (["--model", "res2d18"], "num_frames: 4, but res2d18 takes 1 alone; use that"),
        (["--preset", "huge"], "huge"),
        (["--snap-to-keyframe"], "holds filmstrips, which have none; leave it out"),
        (["--prefetch", "0"], "prefetch: 0 is not possible; choose 1 to 1000"),
        (["--hw-decoder-load", "1.5"], "hw_decoder_load: 1.5 is not possible; choose 0 to 1"),
        (["--cuda-graph"], "cuda-graph: cpu has none; choose a GPU or --no-cuda-graph"),
    ],
)
def test_wrong_usage_exits_2(run_main: Trainer, tmp_path: Path, options: list[str], message: str) -> None:
    result = run_main(tmp_path, "--steps", "1", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_batch_that_ranks_cannot_share_is_wrong_usage(squares: ShardIndex) -> None:
    with pytest.raises(click.UsageError, match="4 clips cannot be shared by 3 processes; choose a multiple of 3"):
        configure("tiny", squares, world_size=3, split=None, global_batch_size=4)


def test_a_loss_that_is_not_finite_stops_with_the_samples_and_saves_nothing(
    run_main: Trainer, squares: ShardIndex, tmp_path: Path
) -> None:
    result = run_main(tmp_path, "--steps", "30", "--lr", "1000", "--save-every", "1")
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert "the loss is" in line
    assert any(squares.key(row) in line for row in range(squares.num_samples))
    for path in tmp_path.glob("*.pt"):
        assert load_checkpoint(path)["step"] < int(line.split("step ")[1].split(":")[0])


def test_other_classes_get_a_new_fc_and_the_same_classes_keep_it(
    run_main: Trainer, squares: ShardIndex, other_squares: ShardIndex, tmp_path: Path
) -> None:
    run_main(tmp_path / "base", "--steps", "1")
    base = str(tmp_path / "base" / "latest.pt")
    with_new = run_main(tmp_path / "new", "--steps", "1", "--init-from", base, data=other_squares.data_dir)
    assert with_new.exit_code == 0, with_new.output
    assert "new fc" in with_new.stdout
    assert weights_of(tmp_path / "new" / "latest.pt")["head.weight"].shape[0] == 3
    assert "fc included" in run_main(tmp_path / "kept", "--steps", "1", "--init-from", base).stdout
    command = [
        "--data",
        squares.data_dir,
        "--preset",
        "ucf101-search",
        "--init-from",
        base,
        "--out",
        tmp_path / "its own",
    ]
    command += ["--batch-size", 4, "--eval-clips", 1, "--device", "cpu", "--frame-stride", 1, "--steps"]
    for steps in (1, 2):  # the second goes on
        done = CliRunner().invoke(main, [*map(str, command), str(steps)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    config = load_checkpoint(tmp_path / "its own" / "latest.pt")["config"]
    assert (config["model"]["name"], config["model"]["width"]) == ("res3d10", 16)
    assert config["clip"] == {"num_frames": 4, "frame_stride": 1, "crop_size": 32, "resize": 32}
    refused = run_main(tmp_path / "refused", "--steps", "1", "--init-from", base, "--model", "res3d18")
    assert refused.exit_code == 1
    assert "holds res3d10 of width 16" in refused.stderr


@pytest.mark.long
def test_training_tells_left_from_right(run_main: Trainer, tmp_path: Path) -> None:
    run_main(tmp_path, "--steps", "200", "--no-flip", "--batch-size", "8")
    losses = [line["loss"] for line in read_metrics(tmp_path, "train")]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both(squares: ShardIndex, tmp_path: Path) -> None:
    command, log = command_line(squares, tmp_path, "--steps", "100000"), tmp_path / "metrics.jsonl"
    ranks = [Warm(command, environment=os.environ | place) for place in places(2)]
    wait_until(lambda: ranks[0].poll() is not None or (log.is_file() and log.read_bytes().count(b"\n") > 2), "steps")
    ranks[1].send_signal(signal.SIGUSR1)
    for rank in ranks:
        printed = rank.communicate(timeout=120)
        assert rank.returncode == 0, printed
    step = load_checkpoint(tmp_path / "latest.pt")["step"]
    assert [line["step"] for line in read_metrics(tmp_path, "train")] == list(range(1, step + 1))


@pytest.mark.slow
def test_two_processes_have_the_losses_and_scores_of_one(
    squares: ShardIndex, tmp_path: Path, run_main: Trainer
) -> None:
    run_main(tmp_path / "base", "--steps", "3")
    base = str(tmp_path / "base" / "latest.pt")
    options = ["--steps", "5", "--freeze-bn", "--init-from", base, "--lr", "0.005"]
    run_main(tmp_path / "one", *options)
    done = run_warm(command_line(squares, tmp_path / "two", *options), world_size=2)
    assert done.returncode == 0, done.stderr
    one, two = ([line["loss"] for line in read_metrics(tmp_path / name, "train")] for name in ("one", "two"))
    assert len(one) == 5
    assert two == pytest.approx(one, rel=1e-4)
    (scored_by_one,), (scored_by_two,) = (read_metrics(tmp_path / name, "final") for name in ("one", "two"))
    assert scored_by_two == scored_by_one


@pytest.mark.slow
def test_two_stopped_processes_go_on_as_one(squares: ShardIndex, tmp_path: Path, run_main: Trainer) -> None:
    done = run_warm(command_line(squares, tmp_path / "two", "--steps", "4", "--save-every", "2"), world_size=2)
    assert done.returncode == 0, done.stderr
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    result = run_main(tmp_path / "one", "--steps", "6", "--resume", "auto")
    assert result.exit_code == 0, result.output
    assert [line["step"] for line in read_metrics(tmp_path / "one", "train")] == [1, 2, 3, 4, 5, 6]
