"""The trainer's command from outside: files, resuming, signals, ranks, errors."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.checkpoint import load_checkpoint
from res3d_video.train.main import main
from res3d_video.train.presets import PRESETS
from tests.chaos.ledger import wait_until
from tests.chaos.training import is_same
from tests.schemas import check_schema
from tests.train.conftest import Trainer, command_line, read_metrics, values_in, weights_of
from tests.warm import Warm, places, run_warm

# fmt: off
EVERYTHING = [
    "--random-resized-crop", "0.3", "1", "--color-jitter", "0.4", "0.4", "0.4", "0.1", "--grayscale", "0.2",
    "--erasing", "0.5", "--mixup", "0.8", "--cutmix", "1", "--label-smoothing", "0.1", "--ema", "0.9",
]
# fmt: on


def test_a_run_leaves_its_checkpoint_metrics_and_configuration(run_main: Trainer, tmp_path: Path) -> None:
    result = run_main(tmp_path / "run", "--steps", "4", "--eval-every", "2", "--json")
    printed = json.loads(result.stdout)
    check_schema("train", printed)
    assert (printed["step"], printed["finished"], printed["chance"]) == (4, True, 0.5)
    for event, steps in {"train": [1, 2, 3, 4], "eval": [2], "final": [4]}.items():
        assert values_in(tmp_path / "run", "step", event=event) == steps
        check_schema(f"metrics.jsonl {event}", read_metrics(tmp_path / "run", event))
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    check_schema("config.json", about)
    assert about["config"]["clip"] == {"num_frames": 4, "frame_stride": 2, "crop_size": 32, "resize": 32}
    assert about["data"]["classes"] == ["left", "right"]
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert load_checkpoint(tmp_path / "run" / "latest.pt")["step"] == 4


def test_stopping_half_way_and_going_on_equals_not_stopping(run_main: Trainer, tmp_path: Path) -> None:
    """Without augmentation: tests/train/test_damaged_samples.py."""
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    run_main(whole, "--steps", "10", "--keep-every", "5", *EVERYTHING)
    run_main(rest, "--steps", "10", "--resume", str(whole / "step-5.pt"), *EVERYTHING)
    assert is_same(weights_of(rest / "latest.pt"), weights_of(whole / "latest.pt"))
    assert read_metrics(rest, "final") == read_metrics(whole, "final")
    losses = values_in(whole, "loss")
    assert values_in(rest, "loss") == losses[5:]
    assert len(set(losses)) == 10


def test_training_from_keyframes_goes_on_exactly(run_main: Trainer, squares_h264: ShardIndex, tmp_path: Path) -> None:
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    run, options = partial(run_main, data=squares_h264.data_dir), ["--steps", "6", "--frame-stride", "1"]
    run(whole, *options, "--snap-to-keyframe", "--keep-every", "3")
    run(rest, *options, "--snap-to-keyframe", "--resume", str(whole / "step-3.pt"))
    assert is_same(weights_of(rest / "latest.pt"), weights_of(whole / "latest.pt"))
    assert set(values_in(whole, "decode_waste")) == {1.0}, "four frames from a keyframe on"
    run(tmp_path / "free", *options)
    assert values_in(tmp_path / "free", "decode_waste")[-1] > 1


def test_how_a_run_is_executed_is_written_down_and_changes_rounding_alone(run_main: Trainer, tmp_path: Path) -> None:
    run_main(tmp_path / "plain", "--steps", "3")
    run_main(tmp_path / "other", "--steps", "3", "--space-to-depth", "--prefetch", "3", "--read-ahead", "0")
    plain, other = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "other"))
    assert plain["config"] == other["config"]
    assert (plain["step"]["space_to_depth"], other["step"]["space_to_depth"]) == (False, True)
    assert (other["loader"]["prefetch"], other["loader"]["read_ahead"], other["loader"]["num_threads"]) == (3, 0, 1)
    assert values_in(tmp_path / "other", "loss") == pytest.approx(values_in(tmp_path / "plain", "loss"), rel=1e-3)
    expected, found = (weights_of(tmp_path / name / "latest.pt") for name in ("plain", "other"))
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in expected.items()}


def test_a_damaged_latest_falls_back_and_the_log_has_every_step_once(run_main: Trainer, tmp_path: Path) -> None:
    run_main(tmp_path, "--steps", "6", "--keep-every", "3")
    before = values_in(tmp_path, "step"), values_in(tmp_path, "loss")
    latest = weights_of(tmp_path / "latest.pt")
    for name in ("latest.pt", "best.pt", "step-6.pt"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:1000])
    result = run_main(tmp_path, "--steps", "6", "--resume", "auto")
    assert f"checkpoint: {tmp_path / 'latest.pt'} cannot be read" in result.stdout
    assert f"going on from {tmp_path / 'step-3.pt'} at step 3" in result.stdout
    assert (values_in(tmp_path, "step"), values_in(tmp_path, "loss")) == before
    assert is_same(weights_of(tmp_path / "latest.pt"), latest)


def test_a_run_goes_on_only_as_it_began(run_main: Trainer, other_squares: ShardIndex, tmp_path: Path) -> None:
    run_main(tmp_path, "--steps", "2")
    rate = PRESETS["tiny"].optim.lr
    cases: list[tuple[list[str], int, str]] = [
        (["--resume", "never"], 2, "already holds a run; leave out --resume to go on, or choose another"),
        (["--seed", "5"], 1, "resume: seed is 5 but was 0; use 0 again or another --out"),
        (["--model", "res3d18"], 1, "resume: model.name is res3d18 but was res3d10"),
        (["--frame-stride", "1"], 1, "resume: clip.frame_stride is 1 but was 2"),
        (["--erasing", "0.25"], 1, "resume: augment.erasing is 0.25 but was 0.0; use 0.0 again or another --out"),
        (["--ema", "0.9"], 1, "resume: ema is 0.9 but was 0.0; use 0.0 again or another --out"),
        (["--steps", "1"], 1, "resume: the checkpoint is at step 2; choose --steps of at least that"),
        (["--data", str(other_squares.data_dir)], 1, "use the same shards or another --out"),
        (["--lr", "0.5"], 0, f"resume: optim.lr is now 0.5, was {rate}"),
    ]
    for options, exit_code, message in cases:
        result = run_main(tmp_path, "--steps", "3", *options, exit_code=exit_code)
        assert [line for line in result.output.splitlines() if message in line], result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "4"], "split 4 does not exist; choose 1"),
        (["--preset", "finetune-hmdb51"], "add --init-from CHECKPOINT"),
        (["--resume", "nowhere.pt"], "nowhere.pt is no file; choose auto, never or a .pt file"),
        (["--snap-to-keyframe"], "holds filmstrips, which have none; leave it out"),
        (["--prefetch", "0"], "prefetch must be 1 to 1,000, got 0"),
        (["--hw-decoder-load", "1.5"], "hw_decoder_load must be 0 to 1, got 1.5"),
        (["--mixup", "1", "--batch-size", "3"], "3 are no pairs for 1 processes; choose a multiple of 2"),
    ],
)
def test_wrong_usage_exits_2(run_main: Trainer, tmp_path: Path, options: list[str], message: str) -> None:
    assert message in run_main(tmp_path, "--steps", "1", *options, exit_code=2).stderr


def test_an_infinite_loss_stops_and_saves_nothing(run_main: Trainer, squares: ShardIndex, tmp_path: Path) -> None:
    result = run_main(tmp_path, "--steps", "30", "--lr", "1000", "--save-every", "1", exit_code=1)
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
    assert "new fc" in with_new.stdout
    assert weights_of(tmp_path / "new" / "latest.pt")["head.weight"].shape[0] == 3
    assert "fc included" in run_main(tmp_path / "kept", "--steps", "1", "--init-from", base).stdout
    command = f"--preset ucf101-search --init-from {base} --batch-size 4 --eval-clips 1 --frame-stride 1".split()
    command += ["--device", "cpu", "--data", str(squares.data_dir), "--out", str(tmp_path / "its own"), "--steps"]
    for steps in (1, 2):  # the second goes on
        done = CliRunner().invoke(main, [*command, str(steps)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    config = load_checkpoint(tmp_path / "its own" / "latest.pt")["config"]
    assert (config["model"]["name"], config["model"]["width"]) == ("res3d10", 16)
    assert config["clip"] == {"num_frames": 4, "frame_stride": 1, "crop_size": 32, "resize": 32}
    refused = run_main(tmp_path / "no", "--steps", "1", "--init-from", base, "--model", "res3d18", exit_code=1)
    assert "holds res3d10 of width 16" in refused.stderr


@pytest.mark.long
def test_training_tells_left_from_right(run_main: Trainer, tmp_path: Path) -> None:
    run_main(tmp_path, "--steps", "200", "--no-flip", "--batch-size", "8")
    losses = values_in(tmp_path, "loss")
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


@pytest.mark.slow
def test_a_signal_to_one_of_two_ranks_stops_both_and_one_goes_on(
    squares: ShardIndex, tmp_path: Path, run_main: Trainer
) -> None:
    command, log = command_line(squares, tmp_path, "--steps", "100000"), tmp_path / "metrics.jsonl"
    ranks = [Warm(command, environment=os.environ | place) for place in places(2)]
    wait_until(lambda: ranks[0].poll() is not None or (log.is_file() and log.read_bytes().count(b"\n") > 2), "steps")
    ranks[1].send_signal(signal.SIGUSR1)
    for rank in ranks:
        printed = rank.communicate(timeout=120)
        assert rank.returncode == 0, printed
    step = load_checkpoint(tmp_path / "latest.pt")["step"]
    assert values_in(tmp_path, "step") == list(range(1, step + 1))
    run_main(tmp_path, "--steps", str(step + 2), "--resume", "auto")
    assert values_in(tmp_path, "step") == list(range(1, step + 3))


@pytest.mark.slow
def test_two_ranks_have_the_losses_and_scores_of_one(squares: ShardIndex, tmp_path: Path, run_main: Trainer) -> None:
    run_main(tmp_path / "base", "--steps", "3")
    base = str(tmp_path / "base" / "latest.pt")
    options = ["--steps", "5", "--freeze-bn", "--init-from", base, "--lr", "0.005", *EVERYTHING]
    run_main(tmp_path / "one", *options)
    done = run_warm(command_line(squares, tmp_path / "two", *options), world_size=2)
    assert done.returncode == 0, done.stderr
    one, two = (values_in(tmp_path / name, "loss") for name in ("one", "two"))
    assert len(one) == 5
    assert two == pytest.approx(one, rel=1e-4)
    assert read_metrics(tmp_path / "two", "final") == read_metrics(tmp_path / "one", "final")
