"""Training, scoring and features from s3:// are those of the folder, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.sync import sync_dataset
from res3d_video.tools import evaluate, extract_features
from res3d_video.train.checkpoint import load_checkpoint
from res3d_video.train.evaluation.features import load_features
from tests.s3_server import S3Server
from tests.train.conftest import Trainer, read_metrics


@pytest.fixture(scope="module")
def url(squares: ShardIndex, s3: S3Server) -> str:
    sync_dataset(squares.data_dir, "s3://shards/squares")
    return "s3://shards/squares"


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "latest.pt")["model"]


def test_training_and_scoring_from_s3_equal_those_from_the_folder(
    run_main: Trainer, url: str, squares: ShardIndex, tmp_path: Path
) -> None:
    local, remote, cache = tmp_path / "local", tmp_path / "remote", ["--cache", str(tmp_path / "cache")]
    assert run_main(local, "--steps", "3").exit_code == 0
    result = run_main(remote, "--steps", "3", *cache, "--cache-limit", "1kB", data=url)
    assert result.exit_code == 0, result.output
    assert "the cache is too small: tars are fetched again" in result.stderr
    expected = weights_of(local)
    found = weights_of(remote)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [line["loss"] for line in read_metrics(remote, "train")] == [
        line["loss"] for line in read_metrics(local, "train")
    ]

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
