"""The study's tables are the paper's, and become trainings that happen once each."""

import itertools
from dataclasses import fields
from pathlib import Path

import pytest

from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.config import PARTS, TrainConfig
from res3d_video.train.main import main
from res3d_video.train.models import MODELS
from res3d_video.train.paper.study import StudyRun, StudySettings, is_enlarged, plan_run, shards_for, unique_runs
from res3d_video.train.paper.tables import TABLES, Row
from res3d_video.train.resolve import configure

FULL = StudySettings()
SMALL = StudySettings(steps=30, batch_size=8, lr=0.05, size=56, width_scale=0.125)
ROWS = [(table.number, row) for table in TABLES.values() for row in table.rows]


def plan(row: Row, index: ShardIndex, *, settings: StudySettings = FULL, seed: int = 0) -> StudyRun:
    return plan_run(row, seed=seed, settings=settings, indexes=[index])


def test_the_printed_accuracies_are_the_paper_s() -> None:
    assert [row.paper for row in TABLES[3].rows] == [42.2, 42.2, 45.6, 45.9]
    assert [(row.frame_stride, row.paper) for row in TABLES[4].rows] == [
        (1, 43.8), (2, 46.3), (4, 46.1), (8, 38.8), (16, 38.1), (32, 36.9)
    ]  # fmt: skip
    assert [(row.crop_size, row.paper) for row in TABLES[5].rows] == [(56, 37.6), (112, 46.1), (224, 44.0)]
    assert all(row.paper is None for number in (6, 7) for row in TABLES[number].rows)


@pytest.mark.parametrize("number", sorted(TABLES))
def test_rows_have_names_of_their_own_and_claims_name_rows(number: int) -> None:
    table = TABLES[number]
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names)
    assert all(row.model in MODELS for row in table.rows)
    assert {name for pair in table.claim.above + table.claim.not_below for name in pair} <= set(names)


@pytest.mark.parametrize("settings", [FULL, SMALL], ids=["full", "small"])
def test_two_rows_share_a_folder_exactly_when_their_trainings_are_the_same(
    squares: ShardIndex, settings: StudySettings
) -> None:
    runs = [plan(row, squares, settings=settings, seed=seed) for _, row in ROWS for seed in (0, 1)]
    for a, b in itertools.combinations(runs, 2):
        assert (a.folder == b.folder) == (a.config == b.config), (a.folder, b.folder)
    assert len(unique_runs(runs)) == 2 * 26
    assert [run.seed for run in unique_runs(runs)] == [0] * 26 + [1] * 26


def test_tables_share_their_common_networks(squares: ShardIndex) -> None:
    folder = {(number, row.name): plan(row, squares).folder for number, row in ROWS}
    assert folder[3, "3D-Res18"] == folder[6, "3D"]
    assert folder[4, "4"] == folder[5, "112"] == folder[7, "18"]


@pytest.mark.parametrize(("number", "row"), ROWS, ids=[f"{number}-{row.name}" for number, row in ROWS])
def test_the_command_line_of_a_run_is_its_configuration(
    squares: ShardIndex, tmp_path: Path, number: int, row: Row
) -> None:
    run = plan(row, squares, settings=SMALL, seed=3)
    found = main.make_context("train", run.arguments(tmp_path)).params
    assert (found["out"], found["data"], found["resume"]) == (tmp_path / run.folder, squares.data_dir, "auto")
    of_the_run = {field.name for field in fields(TrainConfig)} | set(PARTS) | {"scale_to_steps", "scale_lr"}
    options = {name: value for name, value in found.items() if name in of_the_run}
    assert set(run.options) <= set(options)
    assert configure(found["preset"], squares, world_size=1, **options) == run.config


def test_by_default_a_run_is_the_paper_s_protocol(squares: ShardIndex) -> None:
    config = plan(TABLES[3].rows[2], squares).config
    assert (config.model.name, config.model.width) == ("res3d18", 64)
    assert (config.steps, config.global_batch_size, config.optim.lr) == (90_000, 20, 0.01)
    assert (config.schedule.decay_every, config.schedule.decay_factor) == (20_000, 0.1)
    assert (config.clip.num_frames, config.clip.frame_stride, config.clip.crop_size, config.clip.resize) == (
        8, 2, 112, 128
    )  # fmt: skip
    sizes = [plan(row, squares).config.clip for row in TABLES[5].rows]
    assert [(clip.crop_size, clip.resize) for clip in sizes] == [(56, 64), (112, 128), (224, 256)]


def test_a_smaller_study_keeps_the_schedule_s_shape_and_the_relations_of_sizes_and_widths(squares: ShardIndex) -> None:
    config = plan(TABLES[3].rows[2], squares, settings=StudySettings(steps=900, size=56, width_scale=0.25)).config
    assert (config.steps, config.schedule.decay_every, config.model.width) == (900, 200, 16)
    assert (config.clip.crop_size, config.clip.resize) == (56, 64)
    runs = [plan(row, squares, settings=StudySettings(width_scale=0.5)) for row in TABLES[7].rows]
    assert max(run.parameters for run in runs) < 1.1 * min(run.parameters for run in runs)


def test_costs_are_those_of_the_row_s_clip(squares: ShardIndex) -> None:
    run = plan(TABLES[3].rows[2], squares)  # this set has 2 classes, the paper's 101
    assert run.parameters == 33_222_309 - 99 * 513
    assert run.multiply_adds == pytest.approx(20.451e9, rel=1e-4)


def test_frames_come_from_the_smallest_shards_that_need_no_enlarging(numbered: ShardIndex, squares: ShardIndex) -> None:
    small, large = sorted((numbered, squares), key=lambda index: index.size)
    assert small.size < large.size
    assert shards_for(small.size, [large, small]) is small
    assert shards_for(small.size + 1, [large, small]) is large
    assert shards_for(large.size + 1, [large, small]) is large
    run = plan(TABLES[5].rows[0], small, settings=StudySettings(size=round(large.size * 1.75)))
    assert run.config.clip.resize == large.size
    assert is_enlarged(run, [small])
    assert not is_enlarged(run, [small, large])
