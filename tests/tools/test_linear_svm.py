"""tools/linear_svm.py: what it prints, writes and warns of; features made on the spot."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from res3d_video.tools.linear_svm import main
from res3d_video.train.evaluation.features import Features, save_features
from tests.schemas import check_schema

CLASSES = ["jump", "run", "walk"]


def made(*, num_groups: int = 9, noise: float = 0.05, trained_on: str = "other") -> Features:
    """A video a class, group and take (two), around one direction a class; split s tests on every third group."""
    random = np.random.default_rng(0)
    group, label, _ = np.indices((num_groups, 3, 2)).reshape(3, -1)
    features = np.eye(8)[label] + noise * random.standard_normal((len(label), 8))
    subsets = np.stack([np.where(group % 3 == split, 2, 1) for split in range(3)], axis=1).astype(np.int8)
    num_test, num_all = int((subsets[:, 0] == 2).sum()), len(label)
    names = np.array([f"{CLASSES[k]}/{row}" for row, k in enumerate(label)])
    about = {
        "format": 1,
        "checkpoint": {"fingerprint": "0a1b", "step": 5, "data": {"name": trained_on}, "split": "1"},
        "data": {
            "name": "gym",
            "fingerprint": "ffff",
            "classes": CLASSES,
            "split_names": ["1", "2", "3"],
            "num_videos": {split: {"train": num_all - num_test, "test": num_test} for split in "123"},
        },
        "clip": {},
        "mean": 128.0,
        "std": 1.0,
        "compute": "float32",
        "per_clip": False,
        "layers": ["pool5"],
    }
    return Features(
        about=about,
        keys=names,
        sources=names,
        groups=np.array([f"g{g}" for g in group]),
        labels=label,
        subsets=subsets,
        num_clips=np.ones(num_all, np.int64),
        starts=np.zeros(num_all, np.int64),
        unreadable=np.array([], np.str_),
        layers={"pool5": features.astype(np.float32)},
    )


def svm(*options: str) -> Result:
    return CliRunner().invoke(main, ["--layer", "pool5", *options], catch_exceptions=False)


@pytest.fixture
def gym(tmp_path: Path) -> str:
    save_features(tmp_path / "gym.parquet", made())
    return str(tmp_path / "gym.parquet")


def test_all_splits_are_scored_and_averaged(gym: str) -> None:
    result = svm("--features", gym, "--c", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "pool5, 8 dimensions, 54 videos of gym, network of step 5",
        "split       train   test        C  video@1",
        "1              36     18        1   100.0%",
        "2              36     18        1   100.0%",
        "3              36     18        1   100.0%",
        "mean                               100.0% ± 0.0",
        "",
        "class  videos  video@1  most often taken for",
        "jump       18   100.0%",
        "run        18   100.0%",
        "walk       18   100.0%",
    ]


def test_numbers_and_pictures_are_written(tmp_path: Path) -> None:
    save_features(tmp_path / "noisy.parquet", made(noise=0.6))
    command = ("--features", str(tmp_path / "noisy.parquet"), "--pca", "2,8,100", "--out", str(tmp_path / "svm"))
    result = svm(*command, "--json", str(tmp_path / "svm.json"))
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "svm.json").read_text())
    check_schema("linear_svm", found)
    accuracies = [split["video_at_1"] for split in found["splits"].values()]
    assert found["video_at_1"] == pytest.approx(np.mean(accuracies))
    assert found["video_at_1_spread"] == pytest.approx(np.std(accuracies, ddof=1))
    assert 1 / 3 < found["video_at_1"] < 1
    assert set(found["splits"]["1"]["c_accuracy"]) == {"0.01", "0.1", "1", "10", "100"}
    assert list(found["compactness"]) == ["2", "8"]
    assert "note: --pca 100: left out" in result.stdout
    total = np.sum([split["confusion"] for split in found["splits"].values()], axis=0)
    lines = [f"{name}," + ",".join(map(str, row)) for name, row in zip(CLASSES, total, strict=True)]
    assert (tmp_path / "svm/confusion.csv").read_text().splitlines() == ["class,jump,run,walk", *lines]
    for name in ("confusion.png", "compactness.png"):
        with Image.open(tmp_path / "svm" / name) as image:
            assert image.getextrema() != ((255, 255),) * 4
            assert image.width >= 1000


def test_a_network_that_was_trained_on_test_videos_is_told(tmp_path: Path) -> None:
    save_features(tmp_path / "gym.parquet", made(trained_on="gym"))
    notes = [
        line for line in svm("--features", str(tmp_path / "gym.parquet"), "--c", "1").stdout.splitlines() if ":" in line
    ]
    assert notes == [
        f"note: split {split}: the network was trained on 18 of the 18 test videos" for split in ("2", "3")
    ]


def test_splits_that_the_files_lack_videos_of_are_left_out(tmp_path: Path) -> None:
    whole = made()
    # all videos of split 1; split 2 as if the dataset had more of it, as HMDB51's splits do
    whole.about["data"]["num_videos"]["2"]["train"] += 7
    save_features(tmp_path / "f.parquet", whole)
    result = svm("--features", str(tmp_path / "f.parquet"), "--c", "1")
    assert [line.split()[0] for line in result.stdout.splitlines()[2:5]] == ["1", "3", "mean"]
    assert "note: left out, split 2: the files lack 7 of its videos; extract them with --subset all" in result.stdout
    refused = svm("--features", str(tmp_path / "f.parquet"), "--splits", "1,2")
    assert refused.exit_code == 1
    assert refused.stderr == "error: split 2: the files lack 7 of its videos; extract them with --subset all\n"


def test_one_split_has_no_spread(gym: str) -> None:
    assert "±" not in svm("--features", gym, "--splits", "2", "--c", "1").stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--splits", "4"], 2, "--splits: split 4 does not exist; choose 1, 2, 3 or all"),
        (["--c", "1,x"], 2, "'1,x' is not a list of numbers such as 10,100"),
        (["--c", "0"], 2, "'0' has a number that is not above 0"),
        (["--pca", "1.5"], 2, "'1.5' is not a list of numbers"),
        (["--layer", "fc6"], 1, "has no fc6; choose pool5"),
        (
            ["--features", "nowhere.parquet"],
            1,
            "nowhere.parquet does not exist; make it with tools/",
        ),
    ],
)
def test_errors_name_the_value(gym: str, options: list[str], code: int, message: str) -> None:
    result = svm("--features", gym, *options)
    assert result.exit_code == code
    assert message in result.stderr


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("sklearn.svm", [], "sklearn.svm is not installed; pip install -e '.[features]'"),
        ("matplotlib.figure", ["--out", "svm"], 'matplotlib is not installed; pip install "res3d-video[bench]"'),
    ],
)
def test_a_missing_package_is_one_line(
    gym: str, monkeypatch: pytest.MonkeyPatch, module: str, options: list[str], message: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = svm("--features", gym, *options)
    assert (result.exit_code, result.stderr) == (1, f"error: {message}\n")


def test_the_end_of_the_grid_is_told_when_more_might_be_gained(tmp_path: Path) -> None:
    save_features(tmp_path / "noisy.parquet", made(noise=0.6))
    out = tmp_path / "svm.json"
    result = svm("--features", str(tmp_path / "noisy.parquet"), "--c", "0.0001,0.01", "--json", str(out))
    for name, split in json.loads(out.read_text())["splits"].items():
        right = split["c_accuracy"]
        told = f"note: split {name}: C = 0.01 is at the end of --c; try a wider range" in result.stdout
        assert told == (right["0.01"] > right["0.0001"])
    equal = svm("--features", str(tmp_path / "noisy.parquet"), "--c", "1,1.0000001")
    assert "at the end of --c" not in equal.stdout
