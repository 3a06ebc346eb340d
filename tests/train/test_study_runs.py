"""The study's tables are the paper's and become trainings that happen once each; claims seen, not seen, undecided."""

import itertools
import json
from dataclasses import fields
from pathlib import Path

import pytest

from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.config import PARTS, TrainConfig
from res3d_video.train.evaluation import SCORES
from res3d_video.train.main import main
from res3d_video.train.models import MODELS
from res3d_video.train.paper import study
from res3d_video.train.paper.study import TABLES, Row, StudyRun, StudySettings, Table
from res3d_video.train.resolve import configure

FULL = StudySettings()
SMALL = StudySettings(steps=30, batch_size=8, lr=0.05, size=56, width_scale=0.125)
ROWS = [(number, row) for number, table in TABLES.items() for row in table.rows]


def plan(row: Row, *indexes: ShardIndex, settings: StudySettings = FULL, seed: int = 0) -> StudyRun:
    return study.plan_run(row, seed=seed, settings=settings, indexes=indexes)


@pytest.mark.parametrize("table", TABLES.values(), ids=map(str, TABLES))
def test_rows_have_names_of_their_own_and_claims_name_rows(table: Table) -> None:
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names)
    assert all(row.model in MODELS for row in table.rows)
    assert {name for pair in table.above + table.not_below for name in pair} <= set(names)


@pytest.mark.parametrize("settings", [FULL, SMALL], ids=["full", "small"])
def test_rows_share_a_folder_when_their_trainings_are_the_same(squares: ShardIndex, settings: StudySettings) -> None:
    runs = [plan(row, squares, settings=settings, seed=seed) for _, row in ROWS for seed in (0, 1)]
    for a, b in itertools.combinations(runs, 2):
        assert (a.folder == b.folder) == (a.config == b.config), (a.folder, b.folder)
    assert len({run.folder for run in runs}) == 2 * 26


@pytest.mark.parametrize("row", [row for _, row in ROWS], ids=[f"{number}-{row.name}" for number, row in ROWS])
def test_the_command_line_of_a_run_is_its_configuration(squares: ShardIndex, tmp_path: Path, row: Row) -> None:
    run = plan(row, squares, settings=SMALL, seed=3)
    found = main.make_context("train", [*run.arguments, "--out", str(tmp_path)]).params
    assert (found["data"], found["resume"]) == (squares.data_dir, "auto")
    of_the_run = {field.name for field in fields(TrainConfig)} | set(PARTS) | {"scale_to_steps"}
    options = {name: value for name, value in found.items() if name in of_the_run}
    assert configure(found["preset"], squares, world_size=1, **options) == run.config


def test_by_default_a_run_is_the_paper_s_protocol_and_its_costs_are_those_of_its_clip(squares: ShardIndex) -> None:
    run = plan(TABLES[3].rows[2], squares)
    model, clip, schedule = run.config.model, run.config.clip, run.config.schedule
    assert (model.name, model.width, clip.num_frames, clip.frame_stride) == ("res3d18", 64, 8, 2)
    assert (run.config.steps, run.config.global_batch_size, run.config.optim.lr) == (90_000, 20, 0.01)
    assert (schedule.decay_every, schedule.decay_factor) == (20_000, 0.1)
    sizes = [plan(row, squares).config.clip for row in TABLES[5].rows]
    assert [(clip.crop_size, clip.resize) for clip in sizes] == [(56, 64), (112, 128), (224, 256)]
    assert run.parameters == 33_222_309 - 99 * 513  # this set has 2 classes, the paper's 101
    assert run.multiply_adds == pytest.approx(20.451e9, rel=1e-4)


def test_a_smaller_study_keeps_the_schedule_s_shape_and_the_relations_of_sizes_and_widths(squares: ShardIndex) -> None:
    config = plan(TABLES[3].rows[2], squares, settings=StudySettings(steps=900, size=56, width_scale=0.25)).config
    assert (config.steps, config.schedule.decay_every, config.model.width) == (900, 200, 16)
    assert (config.clip.crop_size, config.clip.resize) == (56, 64)
    runs = [plan(row, squares, settings=StudySettings(width_scale=0.5)) for row in TABLES[7].rows]
    assert max(run.parameters for run in runs) < 1.1 * min(run.parameters for run in runs)


def test_frames_come_from_the_smallest_shards_that_need_no_enlarging(numbered: ShardIndex, squares: ShardIndex) -> None:
    small, large = sorted((numbered, squares), key=lambda index: index.size)
    row = TABLES[4].rows[0]  # resizes to 128 pixels where the study's size is 112
    for size, index, is_enlarged in ((small.size, small, False), (large.size, large, False), (225, large, True)):
        run = plan(row, large, small, settings=StudySettings(size=size * 112 // 128))
        assert (run.data, run.is_enlarged) == (index.data_dir, is_enlarged)


def test_three_seeds_are_clearly_above_three_others_in_one_order_of_twenty_and_single_seeds_never() -> None:
    orders = list(itertools.combinations(range(6), 3))
    clear = [ours for ours in orders if study.is_clearly_above(ours, sorted({*range(6)} - {*ours}))]
    assert (clear, len(orders)) == ([(3, 4, 5)], 20)
    assert not study.is_clearly_above([0.9], [0.1, 0.2])
    assert not study.is_clearly_above([0.8, 0.9], [0.1])


UNSURE = "but not in every seed"
HIGH, MIDDLE, LOW, VAGUE = [0.9, 0.8], [0.6, 0.7], [0.2, 0.3], [0.1, 0.95]


@pytest.mark.parametrize(
    ("rows", "word", "reasons"),
    [
        ({"a": HIGH, "b": LOW, "c": MIDDLE, "d": HIGH}, "seen", []),
        ({"a": HIGH, "b": LOW, "c": MIDDLE, "d": VAGUE}, "seen", []),  # d need not be worse
        ({"a": MIDDLE, "b": HIGH, "c": LOW, "d": LOW}, "not seen", ["a against b: -20.0 points"]),
        ({"a": MIDDLE, "b": LOW, "c": LOW, "d": HIGH}, "not seen", ["a against d: -20.0 points"]),
        ({"a": HIGH, "b": LOW, "c": VAGUE, "d": LOW}, "undecided", [f"a against c: +32.5 points, {UNSURE}"]),
        ({"a": HIGH, "b": LOW}, "undecided", ["c not run", "d not run"]),
        ({"a": [0.9], "b": [0.1], "c": LOW, "d": LOW}, "undecided", ["a against b: +80.0 points, one seed"]),
    ],
)
def test_a_claim_is_judged_by_all_its_comparisons(rows: dict, word: str, reasons: list[str]) -> None:
    table = Table("", (), "a is best", above=(("a", "b"), ("a", "c")), not_below=(("a", "d"),))
    found = study.judge(table, rows)
    assert (found[0], found[1][: len(reasons)]) == (word, reasons)


def test_scores_are_only_those_of_a_run_of_all_its_steps(squares: ShardIndex, tmp_path: Path) -> None:
    run = plan(TABLES[4].rows[0], squares, settings=StudySettings(steps=5, size=32))
    path = tmp_path / run.folder / SCORES
    path.parent.mkdir(parents=True)
    assert study.read_scores(tmp_path, run) is None
    scores = {"step": 5, "all_clips_at_1": 0.75, "video_at_1": 0.5, "chance": 0.5, "other": [1]}
    for text in (json.dumps(scores | {"step": 4}), json.dumps(scores)[:-9], json.dumps(scores | {"chance": 2})):
        path.write_text(text)
        assert study.read_scores(tmp_path, run) is None
    path.write_text(json.dumps(scores))
    assert (study.read_scores(tmp_path, run) or {})["all_clips_at_1"] == 0.75
