"""tools/figures/runs.py: run folders read as they are while a trainer writes them; smoothing; what differs."""

import json
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.figures.plots import read_curves, summarise, what_differs
from res3d_video.tools.run_reader import Curve, distinct_names, rate_drops, read_metrics, running_mean
from res3d_video.train.config import ScheduleConfig, TrainConfig, lr_at, override
from tests.tools.figures.made import write_run


def test_losses_and_accuracies_come_back_and_null_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", losses={10: 2.0, 20: None, 30: 1.0}, accuracies={20: 0.5, 30: 0.75})
    run = read_curves(folder)
    assert run.curve("loss").steps.tolist() == [10, 30]
    assert run.curve("loss").values.tolist() == [2.0, 1.0]
    assert run.accuracy.steps.tolist() == [20, 30]
    assert run.accuracy.values.tolist() == [0.5, 0.75]
    assert (run.tests[-1]["chance"], run.data, run.config) == (0.25, "demo", TrainConfig())


def test_the_evaluation_at_the_end_is_the_last_point(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", losses={10: 2.0}, accuracies={5: 0.5})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "final", "step": 10, "clip_at_1": 0.625, "chance": 0.25}\n')
    assert read_curves(folder).accuracy.values.tolist() == [0.5, 0.625]


def test_wherever_the_last_line_is_cut_off_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first, last = '{"event": "train", "step": 1, "loss": 2.0}\n', '{"event": "train", "step": 2, "loss": 1.0}\n'
    for length in range(len(last) + 1):
        path.write_text(first + last[:length])
        assert len(read_metrics(path)[0]) == (2 if length >= len(last) - 1 else 1)


@pytest.mark.parametrize(
    "bad", ["{", "[]", '{"event": "train"}', "\0\0", '{"event": "train", "step": 1e400}', "[" * 9999]
)
def test_a_damaged_line_before_the_last_is_named(tmp_path: Path, bad: str) -> None:
    folder = write_run(tmp_path / "a", losses={1: 2.0, 3: 1.0})
    path = folder / "metrics.jsonl"
    first, last = path.read_text().splitlines(keepends=True)
    path.write_text(f"{first}{bad}\n{last}")
    with pytest.raises(UserError, match=r"metrics.jsonl: 1 damaged line left out, the first is line 2; mend the file"):
        read_curves(folder)


def test_folders_that_are_no_runs_get_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing: there is no such run; give the --out of train/main"):
        read_curves(tmp_path / "nothing")
    empty = write_run(tmp_path / "empty", losses={})
    for _ in range(2):
        with pytest.raises(UserError, match=r"empty: no training step in metrics.jsonl yet; wait for --log-every"):
            read_curves(empty)
        (empty / "metrics.jsonl").unlink(missing_ok=True)
    write_run(tmp_path / "run", losses={1: 1.0})
    for text in ("{", "[]", '{"config": 3}'):
        (tmp_path / "run" / "config.json").write_text(text)
        with pytest.raises(
            UserError, match=r"config.json: not the trainer's \(.*\); settings are unknown; mend the file"
        ):
            read_curves(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"config": {"model": {"name": "res9"}}}))
    with pytest.raises(UserError, match=r"config.json: model: res9 does not exist"):
        read_curves(tmp_path / "run")


@pytest.mark.parametrize("window", [1, 3, 10, 25, 1_000])
def test_the_running_mean_is_the_mean_of_the_points_in_the_window(window: int) -> None:
    generator = np.random.default_rng(0)
    steps = np.cumsum(generator.integers(1, 9, size=60))
    curve = Curve(steps, generator.normal(size=60))
    expected = [
        np.mean([v for s, v in zip(steps, curve.values, strict=True) if end - window < s <= end]) for end in steps
    ]
    np.testing.assert_allclose(running_mean(curve, window=window).values, expected, atol=1e-12)


def test_drops_are_where_the_trainers_own_rate_goes_down() -> None:
    schedule = ScheduleConfig("step", decay_every=7)
    config = TrainConfig(schedule=schedule, steps=30)
    rates = [lr_at(step, schedule, lr=1.0, num_steps=30) for step in range(30)]
    assert rate_drops(config, last_step=30) == [s for s in range(1, 30) if rates[s] < rates[s - 1]]
    assert rate_drops(config, last_step=13) == [7]
    assert rate_drops(TrainConfig(schedule=ScheduleConfig("cosine")), last_step=90_000) == []


def test_names_are_as_short_as_they_can_be_and_differ() -> None:
    folders = [Path(name) for name in ("x/a/seed0", "x/b/seed0", "y/b/seed0", "z/seed1", "c")]
    assert distinct_names(folders) == ["a/seed0", "x/b/seed0", "y/b/seed0", "seed1", "c"]


def test_a_folder_given_twice_keeps_its_short_name() -> None:
    assert distinct_names([Path("runs/a"), Path("runs/a")]) == ["a", "a"]


def test_what_differs_names_every_field_in_which_not_all_agree_but_no_bookkeeping(tmp_path: Path) -> None:
    runs = [
        read_curves(write_run(tmp_path / "a", losses={1: 1.0}, lr=0.01, log_every=5)),
        read_curves(write_run(tmp_path / "b", losses={1: 1.0}, lr=0.02, save_every=9)),
        read_curves(write_run(tmp_path / "c", losses={1: 1.0}, model="res3d34")),
    ]
    assert what_differs(runs) == ["lr 0.01, model res3d18", "lr 0.02, model res3d18", "lr 0.01, model res3d34"]
    assert what_differs(runs[:1]) == [""]
    other = read_curves(write_run(tmp_path / "d", losses={1: 1.0}, data="other"))
    assert what_differs([runs[0], other]) == ["data demo", "data other"]


def test_the_summary_has_the_smoothed_loss_and_the_last_accuracy(tmp_path: Path) -> None:
    run = read_curves(write_run(tmp_path / "a", losses={1: 4.0, 2: 2.0, 3: 1.0}, accuracies={2: 0.5, 3: 0.25}))
    (numbers,) = summarise([run])
    assert (numbers["name"], numbers["step"], numbers["loss"], numbers["clip_at_1"]) == ("a", 3, 1.0, 0.25)
    untested = read_curves(write_run(tmp_path / "b", losses={1: 4.0}))
    assert summarise([untested])[0]["clip_at_1"] is None


def test_configs_written_by_older_versions_are_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", losses={1: 1.0}, seed=3)
    about = json.loads((folder / "config.json").read_text())
    del about["config"]["snap_to_keyframe"]
    (folder / "config.json").write_text(json.dumps(about))
    assert read_curves(folder).config == override(TrainConfig(), seed=3)
