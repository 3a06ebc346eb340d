"""make_shards on many machines, as a user types it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from res3d_video.pipeline.index import open_index
from res3d_video.tools import make_shards
from tests.schemas import check_schema


def run(raw: Path, *words: object) -> Result:
    fixed = ["ucf101", "--raw", raw, "--size", "32", "--samples-per-shard", "2"]
    return CliRunner().invoke(make_shards.main, [str(word) for word in [*fixed, *words]])


def test_tasks_say_how_much_is_there_and_the_last_one_what_there_is(ucf_raw: Path, tmp_path: Path) -> None:
    first = run(ucf_raw, "--out", tmp_path, "--task", "2/2")
    assert first.exit_code == 0, first.output
    assert f"1 shards written, 0 kept as they were; 1 of 3 are there: {tmp_path}" in first.output
    assert "samples in" not in first.output
    last = run(ucf_raw, "--out", tmp_path, "--task", "1/2")
    assert "2 shards written, 0 kept as they were; 3 of 3 are there" in last.output
    assert "6 samples in 3 shards" in last.output
    assert "3 of 3 shards" in last.stderr  # progress
    assert open_index(tmp_path).num_samples == 6
    again = run(ucf_raw, "--out", tmp_path, "--task", "1/2", "--json", "--quiet")
    check_schema("make_shards --task", json.loads(again.stdout))
    assert json.loads(again.stdout) == {
        "num_shards_written": 0,
        "num_shards_kept": 2,
        "num_shards_there": 3,
        "num_shards": 3,
        "whole": None,
        "out": str(tmp_path),
    }


def test_finish_writes_the_index_or_names_what_is_not_there(ucf_raw: Path, tmp_path: Path) -> None:
    run(ucf_raw, "--out", tmp_path, "--task", "1/3")
    result = run(ucf_raw, "--out", tmp_path, "--finish")
    assert result.exit_code == 1
    assert "2 of 3 shards are not there or made from other videos: ucf101-000001, ucf101-000002; make" in result.output
    assert run(ucf_raw, "--out", tmp_path).exit_code == 0  # without --task the rest is made here
    (tmp_path / "dataset.json").unlink()
    result = run(ucf_raw, "--out", tmp_path, "--finish")
    assert result.exit_code == 0, result.output
    assert "6 samples in 3 shards" in result.output
    assert (tmp_path / "dataset.json").is_file()


def test_a_cluster_that_is_not_there_is_one_line(ucf_raw: Path, tmp_path: Path) -> None:
    result = run(ucf_raw, "--out", tmp_path, "--quiet", "--executor", "ray", "--ray-address", "127.0.0.1:1")
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert result.output.startswith("error: ray")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--task 3", "--task: '3' is not I/N; say 1/8 for the first of eight"),
        ("--task 1/x", "--task: '1/x' is not I/N"),
        ("--task -1/2", "--task: '-1/2' is not I/N"),
        ("--task 0/2", "--task: 0/2 does not exist; choose 1/2 to 2/2"),
        ("--task 3/2", "--task: 3/2 does not exist; choose 1/2 to 2/2"),
        ("--task 1/2 --finish", "--finish: does not go with --task; run it once, after all tasks"),
        ("--task 1/2 --executor ray", "--task: does not go with --executor ray; leave one out"),
        ("--finish --executor ray", "--finish: does not go with --executor ray; leave one out"),
        ("--ray-address auto", "--ray-address is of --executor ray, not of local; leave it out"),
        ("--ray-cores 2", "--ray-cores is of --executor ray, not of local; leave it out"),
        ("--executor dask", "'dask' is not one of 'local', 'ray'"),
        ("--task 1/2 --out s3://bucket/x", "--out: s3://bucket/x is no folder that tasks can share"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(ucf_raw: Path, tmp_path: Path, words: str, said: str) -> None:
    result = run(ucf_raw, "--out", tmp_path / "s", *words.split())
    assert result.exit_code == 2, result.output
    assert said in result.output.strip().splitlines()[-1]
    assert not (tmp_path / "s").exists()
