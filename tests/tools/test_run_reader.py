"""What is read of a run folder: states, times, the best step; and that damage costs no more than it hit."""

import fcntl
from pathlib import Path

import pytest

from res3d_video.tools.run_reader import Run, read_run, read_runs
from tests.tools.pages.made_runs import scored_line, train_line, write_run

TRAINED = [train_line(10, seconds=9, wait_s=6), train_line(20, wait_s=0.5), train_line(30, wait_s=0.1, seconds=4)]


def read(folder: Path) -> Run:
    return read_run(folder, name=folder.name)


def test_a_run_with_its_last_evaluation_is_finished(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", [*TRAINED, scored_line("final", 30, 0.5, video_at_1=0.75)], steps=30))
    assert (run.state, run.state_text) == ("finished", "finished, 30 steps")
    assert run.last_test["video_at_1"] == 0.75


def test_without_it_a_run_is_stopped_and_says_where(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", [*TRAINED, scored_line("eval", 30, 0.5, video_at_1=0.5)], steps=4_000))
    assert run.state_text == "stopped at step 30 of 4,000"
    assert run.last_test["clip_at_1"] == 0.5
    assert "video_at_1" not in run.last_test  # it is of one clip


def test_a_final_line_of_fewer_steps_than_asked_for_now_does_not_finish_a_run(tmp_path: Path) -> None:
    assert read(write_run(tmp_path / "run", [scored_line("final", 30, 0.5)], steps=60)).state == "stopped"


def test_a_run_whose_folder_a_trainer_holds_is_running(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", TRAINED, steps=60)
    with (folder / ".trainer").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read(folder).state_text == "running at step 30 of 60"
    assert read(folder).state == "stopped"


def test_hours_are_all_lines_and_speed_and_wait_leave_out_the_first(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", TRAINED))
    assert run.hours * 3600 == pytest.approx(9 + 2 + 4)
    assert run.clips_per_s == pytest.approx((20 / 2 + 20 / 4) / 2)
    assert run.data_wait == pytest.approx(0.6 / 6)


def test_the_best_step_is_the_first_of_the_highest(tmp_path: Path) -> None:
    lines = [scored_line("eval", step, value) for step, value in ((10, 0.2), (20, 0.6), (30, 0.6), (40, 0.5))]
    assert read(write_run(tmp_path / "run", lines)).best == (0.6, 20)


def test_an_evaluation_of_the_same_step_with_more_clips_stands_for_the_run(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", [scored_line("final", 30, 0.5, video_at_1=0.5)], steps=30))
    for evaluation, expected in (
        ({"step": 30, "subset": "test", "video_at_1": 0.75}, 0.75),
        ({"step": 20, "subset": "test", "video_at_1": 0.75}, 0.5),
        ({"step": 30, "subset": "train", "video_at_1": 0.75}, 0.5),
    ):
        run.evaluation.clear()
        run.evaluation.update(evaluation)
        assert run.last_test["video_at_1"] == expected


def test_damaged_lines_are_left_out_and_counted_and_a_cut_last_one_is_not_damage(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", TRAINED)
    path = folder / "metrics.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, "\x00\x00", '{"event": "train"}', *rest, '{"event": "trai']))
    run = read(folder)
    assert [line["step"] for line in run.train] == [10, 20, 30]
    assert run.problems == [f"{path}: 2 damaged lines left out, the first is line 2"]


def test_values_that_are_no_numbers_and_steps_out_of_order_do_no_harm(tmp_path: Path) -> None:
    lines = [train_line(20), train_line(10, loss="high", clips_per_s=None), {"event": "train", "step": 30, "loss": [1]}]
    run = read(write_run(tmp_path / "run", lines))
    assert run.curve("loss").steps.tolist() == [20]
    assert run.curve("lr").steps.tolist() == [10, 20]
    assert run.curve("clips_per_s").steps.tolist() == [20]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"config": 3}', '{"config": {"wings": 2}}', '{"config": {"model": {"name": "x"}}}']
)
def test_a_damaged_config_leaves_the_curves(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path / "run", TRAINED)
    (folder / "config.json").write_text(text)
    run = read(folder)
    assert run.config is None
    assert run.step == 30
    assert run.data == ""
    assert len(run.problems) == 1
    assert "\n" not in run.problems[0]


def test_a_run_that_has_just_begun_has_settings_only(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [], steps=60)
    run = read(folder)
    assert (run.state_text, run.best, run.clips_per_s, run.data_wait, run.hours) == (
        "stopped at step 0 of 60",
        None,
        None,
        None,
        0,
    )
    assert run.problems == [f"{folder / 'metrics.jsonl'} has no line yet"]


def test_runs_have_names_that_differ_and_each_folder_comes_once(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name / "seed0", TRAINED) for name in ("a", "b")]
    assert [run.name for run in read_runs([*folders, folders[0]])] == ["a/seed0", "b/seed0"]


def test_folders_that_are_no_runs_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: there is no such run; give the --out of train/main.py$"):
        read(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"neither config.json nor metrics.jsonl, so it is not a run's folder; give the"
    ):
        read(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"nothing in it can be shown \(.*\); wait for a first line, or give another$"):
        read(tmp_path)
