"""tools/aslan.py: from a .parquet and the official .mat files to accuracy and AUC."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from res3d_video.tools.aslan import main
from tests.parquet import write_parquet
from tests.schemas import check_schema

io = pytest.importorskip("scipy.io", reason="scipy is in the extra `features`")
NUM_ACTIONS, NUM_SAMPLES = 12, 48


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A small ASLAN: sample i shows action i % 12, and its features say so; View2 of three folds, View 1."""
    random = np.random.default_rng(0)
    actions = np.arange(NUM_SAMPLES) % NUM_ACTIONS
    features = {
        layer: random.random((NUM_ACTIONS, dims))[actions] + random.uniform(0, 0.1, (NUM_SAMPLES, dims))
        for layer, dims in (("res5b", 40), ("pool5", 16), ("prob", 8))
    }
    sources = [f"ASLAN_AVI/{sample:04}.avi" for sample in range(1, NUM_SAMPLES + 1)]
    keys = [f"{i:08}" for i in range(NUM_SAMPLES)]
    write_parquet(tmp_path / "f.parquet", key=keys, source=sources, **features)
    folds = []
    for _ in range(3):
        first = random.integers(0, NUM_SAMPLES, 40)
        same = np.arange(40) % 2 == 0
        shift = np.where(same, NUM_ACTIONS, random.integers(1, NUM_ACTIONS, 40))
        second = (first + shift) % NUM_SAMPLES
        folds.append(np.stack([first + 1, second + 1, actions[first] == actions[second], *np.ones((2, 40))], axis=1))
    io.savemat(tmp_path / "View2.mat", {"action_splits_pairs": np.stack(folds, axis=2)})
    io.savemat(tmp_path / "train_pairs.mat", {"pairs": folds[0]})
    io.savemat(tmp_path / "test_pairs.mat", {"pairs": folds[1]})
    return tmp_path


def run(files: Path, *options: str, pairs: str = "View2.mat") -> Result:
    command = ["--features", str(files / "f.parquet"), "--pairs", str(files / pairs), *options]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def test_accuracy_and_auc_are_told_and_written(files: Path) -> None:
    result = run(files, "--json", str(files / "new" / "r.json"))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("accuracy  ")
    assert lines[0].endswith("120 pairs in 3 folds; chance is 50%")
    assert lines[1].endswith("layers res5b, pool5, prob")
    found = json.loads((files / "new" / "r.json").read_text())
    check_schema("aslan", found)
    assert found["accuracy"] > 0.95
    assert found["auc"] > 0.99
    assert found["accuracy"] == pytest.approx(np.mean([fold["accuracy"] for fold in found["folds"]]))
    assert (found["missing"], found["num_pairs_left_out"]) == ([], 0)


def test_view_1_trains_on_one_file_and_tests_on_the_other(files: Path) -> None:
    result = run(files, "--train-pairs", str(files / "train_pairs.mat"), pairs="test_pairs.mat")
    assert result.exit_code == 0, result.output
    assert "40 pairs in 1 folds" in result.stdout
    assert "±" not in result.stdout


def test_missing_videos_are_counted_and_named(files: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pq.read_table(files / "f.parquet").slice(1), files / "f.parquet")
    result = run(files, "--layers", "pool5", "--json", str(files / "r.json"))
    assert result.exit_code == 0, result.output
    found = json.loads((files / "r.json").read_text())
    assert found["missing"] == [1]
    assert found["num_pairs_left_out"] > 0
    assert f"1 videos without features (0001); {found['num_pairs_left_out']} pairs left out" in result.stdout


@pytest.mark.parametrize(
    ("options", "pairs", "code", "message"),
    [
        (["--layers", "fc6"], "View2.mat", 1, "has no fc6; choose res5b, pool5, prob"),
        ([], "nowhere.mat", 1, "nowhere.mat"),
        ([], "f.parquet", 1, "is not a MATLAB file that scipy reads"),
        ([], "train_pairs.mat", 2, "1 folds: give View2.mat alone, or one matrix of View 1 to each option"),
        (["--layers", ","], "View2.mat", 2, "--layers: none is named"),
        (["--c", "0"], "View2.mat", 2, "--c"),
        (
            ["--features", "none.parquet"],
            "View2.mat",
            1,
            "none.parquet does not exist; make it with tools/",
        ),
    ],
)
def test_errors_are_one_line_that_names_the_value(
    files: Path, options: list[str], pairs: str, code: int, message: str
) -> None:
    result = run(files, *options, pairs=pairs)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
