"""tools/linear_svm.py: what it prints, writes and warns of; features made on the spot."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from res3d_video.tools.linear_svm import main
from res3d_video.train.evaluation.features import Features, save_features
from tests.features import ABOUT, made_features
from tests.schemas import check_schema
from tests.tools.commands import run


def made(*, noise: float = 0.05, trained_on: str = "other") -> Features:
    """A video a class, group and take (two), around one direction a class; split s tests on every third group."""
    random, classes = np.random.default_rng(0), ["jump", "run", "walk"]
    group, label, _ = np.indices((9, 3, 2)).reshape(3, -1)
    features = np.eye(8)[label] + noise * random.standard_normal((len(label), 8))
    return made_features(
        [f"{classes[k]}/{row}" for row, k in enumerate(label)],
        {"pool5": features},
        groups=np.array([f"g{g}" for g in group]),
        labels=label,
        subsets=np.stack([np.where(group % 3 == split, 2, 1) for split in range(3)], axis=1).astype(np.int8),
        about={
            "checkpoint": ABOUT["checkpoint"] | {"data": {"name": trained_on}},
            "data": {"name": "gym", "classes": classes, "split_names": ["1", "2", "3"]},
        },
    )


def svm(folder: Path, features: Features, *options: object, code: int = 0) -> Result:
    save_features(folder / "f.parquet", features)
    return run(main, "--features", folder / "f.parquet", "--layer", "pool5", *options, code=code)


def test_all_splits_are_scored_and_averaged(tmp_path: Path) -> None:
    assert svm(tmp_path, made(), "--c", "1").stdout.splitlines() == [
        "pool5, 8 dimensions, 54 videos of gym, network of step 5",
        "split  train  test  C   video@1, %",
        "1         36    18  1        100.0",
        "2         36    18  1        100.0",
        "3         36    18  1        100.0",
        "mean                   100.0 ± 0.0",
        "",
        "class  videos  video@1  most often taken for",
        "jump       18   100.0%",
        "run        18   100.0%",
        "walk       18   100.0%",
    ]
    assert "±" not in svm(tmp_path, made(), "--splits", "2", "--c", "1").stdout


def test_numbers_and_a_picture_are_written(tmp_path: Path) -> None:
    svm(tmp_path, made(noise=0.6), "--out", tmp_path / "c.png", "--json", tmp_path / "svm.json")
    found = json.loads((tmp_path / "svm.json").read_text())
    check_schema("linear_svm", found)
    accuracies = [split["video_at_1"] for split in found["splits"].values()]
    assert found["video_at_1"] == pytest.approx(np.mean(accuracies))
    assert found["video_at_1_spread"] == pytest.approx(np.std(accuracies, ddof=1))
    assert 1 / 3 < found["video_at_1"] < 1
    assert set(found["splits"]["1"]["c_accuracy"]) == {"0.01", "0.1", "1", "10", "100"}
    with Image.open(tmp_path / "c.png") as image:
        assert image.getextrema() != ((255, 255),) * 4
        assert image.width >= 1000


def test_a_network_that_was_trained_on_test_videos_is_told(tmp_path: Path) -> None:
    notes = [line for line in svm(tmp_path, made(trained_on="gym"), "--c", "1").stdout.splitlines() if ":" in line]
    assert notes == [f"note: split {s}: the network was trained on 18 of the 18 test videos" for s in "23"]


def test_errors_name_the_value(tmp_path: Path) -> None:
    features = made()
    features.subsets[:, 1] = 1
    for options, code, message in (
        (["--splits", "1,2"], 1, "split 2: has no training or no test video; choose another with --splits\n"),
        (["--splits", "4"], 2, "--splits: split 4 does not exist; choose 1, 2, 3 or all"),
        (["--c", "0"], 2, "--c"),
        (["--layer", "fc6"], 1, "has no fc6; choose pool5"),
    ):
        assert message in svm(tmp_path, features, *options, code=code).stderr


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("sklearn.svm", [], "sklearn.svm is not installed; pip install -e '.[features]'"),
        ("matplotlib.figure", ["--out", "c.png"], 'matplotlib is not installed; pip install "res3d-video[bench]"'),
    ],
)
def test_a_missing_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, options: list[str], message: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert svm(tmp_path, made(), *options, code=1).stderr == f"error: {message}\n"
