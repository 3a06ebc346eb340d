"""Training, scoring and features from s3:// are those of the folder, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.sync import sync_dataset
from res3d_video.tools import evaluate, extract_features
from res3d_video.train.evaluation.features import load_features
from tests.chaos.training import is_same
from tests.s3_server import S3Server
from tests.schemas import check_schema
from tests.train.conftest import Trainer, read_metrics, values_in, weights_of


@pytest.fixture(scope="module")
def url(squares: ShardIndex, s3: S3Server) -> str:
    sync_dataset(squares.data_dir, "s3://shards/squares")
    return "s3://shards/squares"


def test_the_log_counts_tars_that_were_in_the_cache_and_those_that_were_not(
    run_main: Trainer, url: str, tmp_path: Path
) -> None:
    options = ["--steps", "3", "--cache", str(tmp_path / "cache"), "--fetch-ahead", "0"]
    for name, misses in (("cold", 1), ("warm", 0)):
        run_main(tmp_path / name, *options, data=url)
        lines = read_metrics(tmp_path / name, "train")
        check_schema("metrics.jsonl train", lines)
        assert [line["num_cache_misses"] for line in lines] == [misses, 0, 0]  # the dataset is one tar
        assert [line["num_cache_hits"] for line in lines] == [1 - misses, 1, 1]


def test_s3_gives_what_the_folder_does(run_main: Trainer, url: str, squares: ShardIndex, tmp_path: Path) -> None:
    local, remote, cache = tmp_path / "local", tmp_path / "remote", ["--cache", str(tmp_path / "cache")]
    run_main(local, "--steps", "3", "--canonical-groups", "64")
    result = run_main(remote, "--steps", "3", "--canonical-groups", "64", *cache, "--cache-limit", "1kB", data=url)
    assert "the cache is too small: tars are fetched again" in result.stderr
    assert is_same(weights_of(remote / "latest.pt"), weights_of(local / "latest.pt"))
    assert values_in(remote, "loss") == values_in(local, "loss")
    lines = read_metrics(remote, "fetched")
    check_schema("metrics.jsonl fetched", lines)
    assert [line["step"] for line in lines] == [2, 3], "the first epoch ends, and the run"
    assert lines[0]["machines"][0]["bytes_fetched"] > 0
    assert read_metrics(local, "fetched")[0]["machines"][0]["bytes_fetched"] == 0
    places = [json.loads((run / "config.json").read_text())["data"]["folder"] for run in (local, remote)]
    assert places == [str(squares.data_dir), url], "not the cache, which has some of the tars"
    scores = []
    for data, more in ((str(squares.data_dir), []), (url, cache)):
        words = ["--checkpoint", str(local / "latest.pt"), "--data", data, "--clips", "2", "--device", "cpu", *more]
        out = tmp_path / "scores.json"
        assert CliRunner().invoke(evaluate.main, [*words, "--json", str(out)]).exit_code == 0
        scores.append(json.loads(out.read_text())["predictions"])
        features = tmp_path / f"{len(scores)}.parquet"
        done = CliRunner().invoke(extract_features.main, [*words, "--layers", "pool5", "--out", str(features)])
        assert done.exit_code == 0, done.output
    assert scores[0] == scores[1]
    one, two = (load_features(tmp_path / f"{n}.parquet", ["pool5"]).layers["pool5"] for n in (1, 2))
    assert np.array_equal(one, two)


def test_a_run_from_other_weights_keeps_its_order_when_its_shards_have_moved_to_a_url(
    run_main: Trainer, url: str, tmp_path: Path
) -> None:
    run_main(tmp_path / "base", "--steps", "1")
    base = ["--init-from", str(tmp_path / "base" / "latest.pt")]
    run_main(tmp_path / "whole", "--steps", "3", *base)
    run_main(tmp_path / "moved", "--steps", "1", *base)
    more = ["--steps", "3", "--cache", str(tmp_path / "cache"), "--resume", "auto", *base]
    run_main(tmp_path / "moved", *more, data=url)
    assert is_same(*(weights_of(tmp_path / name / "latest.pt") for name in ("whole", "moved")))
    other = ["--steps", "4", "--resume", "auto", "--canonical-groups", "8"]
    result = run_main(tmp_path / "whole", *other, exit_code=1)
    assert "resume: canonical_groups is 8 but was 0; use 0 again" in result.stderr
