"""What is read of a run folder: states, times, the best step; and that damage costs no more than it hit."""

import fcntl
from pathlib import Path

import pytest

from res3d_video.tools.run_reader import read_run, read_runs
from tests.tools.pages.made_runs import scored_line, train_line, write_run

TRAINED = [train_line(10, seconds=9, wait_s=6), train_line(20, wait_s=0.5), train_line(30, wait_s=0.1, seconds=4)]


def test_a_run_is_finished_or_running_or_says_where_it_stopped(tmp_path: Path) -> None:
    for event, steps, state in (
        ("final", 30, "finished, 30 steps"),
        ("eval", 4_000, "stopped at step 30 of 4,000"),
        ("final", 60, "stopped at step 30 of 60"),  # it was asked for fewer steps before
    ):
        lines = [*TRAINED, scored_line(event, 30, 0.5)]
        assert read_run(write_run(tmp_path, lines, steps=steps)).state_text == state
    write_run(tmp_path, TRAINED, steps=60)
    with (tmp_path / ".trainer").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_run(tmp_path).state_text == "running at step 30 of 60"
    assert read_run(tmp_path).state_text == "stopped at step 30 of 60"


def test_hours_are_all_lines_speed_and_wait_leave_out_the_first_and_the_first_best_step_counts(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, TRAINED, global_batch_size=2))
    assert run.hours * 3600 == pytest.approx(9 + 2 + 4)
    assert run.clips_per_s == pytest.approx((20 / 2 + 20 / 4) / 2)
    assert run.data_wait == pytest.approx((0.5 / 2 + 0.1 / 4) / 2)
    lines = [scored_line("eval", step, value) for step, value in ((10, 0.2), (20, 0.6), (30, 0.6), (40, 0.5))]
    assert read_run(write_run(tmp_path, lines)).best == (0.6, 20)


def test_an_evaluation_of_the_same_step_with_more_clips_stands_for_the_run(tmp_path: Path) -> None:
    for event, evaluation, video_at_1 in (
        ("final", {}, 0.5),
        ("eval", {}, None),  # it is of one clip a video
        ("final", {"step": 30, "subset": "test", "video_at_1": 0.75}, 0.75),
        ("final", {"step": 20, "subset": "test", "video_at_1": 0.75}, 0.5),
        ("final", {"step": 30, "subset": "train", "video_at_1": 0.75}, 0.5),
    ):
        run = read_run(write_run(tmp_path, [scored_line(event, 30, 0.5, video_at_1=0.5)], steps=30))
        run.evaluation.update(evaluation)
        assert run.last_test.get("video_at_1") == video_at_1


def test_damaged_lines_are_left_out_and_counted_and_a_cut_last_one_is_not_damage(tmp_path: Path) -> None:
    path = write_run(tmp_path, TRAINED) / "metrics.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, "\x00\x00", '{"event": "train"}', *rest, '{"event": "trai']))
    run = read_run(tmp_path)
    assert [line["step"] for line in run.train] == [10, 20, 30]
    assert run.problems == [f"{path}: 2 damaged lines left out, the first is line 2"]


def test_values_that_are_no_numbers_and_steps_out_of_order_do_no_harm(tmp_path: Path) -> None:
    lines = [train_line(20), train_line(10, loss="high", clips_per_s=None), {"event": "train", "step": 30, "loss": [1]}]
    run = read_run(write_run(tmp_path, lines))
    assert [run.curve(name).steps.tolist() for name in ("loss", "lr", "clips_per_s")] == [[20], [10, 20], [20]]


def test_a_run_that_has_just_begun_has_settings_only(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, [], steps=60))
    assert (run.state_text, run.hours) == ("stopped at step 0 of 60", 0)
    assert (run.best, run.clips_per_s, run.data_wait) == (None, None, None)
    assert run.problems == [f"{tmp_path / 'metrics.jsonl'} has no line yet"]


def test_runs_have_names_that_differ_and_folders_that_are_no_runs_are_refused_in_one_line(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name / "seed0", TRAINED) for name in ("a", "b")]
    assert [run.name for run in read_runs([*folders, folders[0]])] == ["a/seed0", "b/seed0"]  # each comes once
    with pytest.raises(ValueError, match=r"nowhere: there is no such run; give the --out of train/main.py$"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"nothing in it can be shown \(.*\); give the --out of train/main.py$"):
        read_run(tmp_path)
