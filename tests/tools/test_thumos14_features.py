"""tools/thumos14.py from a checkpoint to mAP: windows, their features, detections, the score."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.thumos14 import main
from res3d_video.train.evaluation.features import read_rows
from res3d_video.train.main import main as train_main
from res3d_video.train.paper import thumos14_features
from res3d_video.train.paper.thumos14 import read_windows
from tests.parquet import write_parquet
from tests.train.conftest import SMALL, build_squares
from tests.warm import run_warm


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return build_squares(tmp_path_factory.mktemp("squares"), classes={"left": -3, "right": 3}, num_groups=3)


@pytest.fixture(scope="module")
def folder(squares: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one step, and windows of all videos, which have 20 frames; the first 16 frames are a dive."""
    folder = tmp_path_factory.mktemp("run")
    command = ["--data", squares.data_dir, "--out", folder, *SMALL, "--steps", 1, "--eval-clips", 1]
    result = CliRunner().invoke(train_main, [str(word) for word in command], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    names = sorted(Path(squares.source(row)).stem for row in range(squares.num_samples))
    (folder / "videos.txt").write_text("".join(f"{name} 20 10\n" for name in names))
    (folder / "lists").mkdir()
    (folder / "lists" / "Diving_val.txt").write_text("".join(f"{name} 0 1.6\n" for name in names[:3]))
    (folder / "lists" / "Diving_test.txt").write_text("".join(f"{name} 0 1.6\n" for name in names))
    result = run("windows", "--videos", folder / "videos.txt", "--out", folder / "w.jsonl")
    assert "12 windows of 6 videos" in result.stdout
    return folder


SMALL_PARTS = """
from res3d_video.train.paper import thumos14_features
thumos14_features.WINDOWS_PER_PART = 2
from res3d_video.tools.thumos14 import main
main()
"""


def run(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def features(squares: ShardIndex, folder: Path, out: Path, *options: object) -> Result:
    words = ["--checkpoint", folder / "latest.pt", "--data", squares.data_dir, "--windows", folder / "w.jsonl"]
    return run("features", *words, "--device", "cpu", "--num-threads", 1, "--batch-size", 5, "--out", out, *options)


def test_from_a_checkpoint_to_mean_average_precision(squares: ShardIndex, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is in the extra `features`")
    result = features(squares, folder, tmp_path / "f.parquet")
    assert result.exit_code == 0, result.output
    assert f"pool5 of 12 windows: {tmp_path / 'f.parquet'}" in result.stdout
    names, values = read_rows(tmp_path / "f.parquet", layers=["pool5"])
    assert names == read_windows(folder / "w.jsonl").keys
    assert values["pool5"].shape == (12, 128)
    # The two windows of a video, 0…16 and 4…20, have IoU 1 and 0.6 with its dive; three videos have none.
    training = ["--train-windows", folder / "w.jsonl", "--train-features", tmp_path / "f.parquet"]
    words = ["--windows", folder / "w.jsonl", "--features", tmp_path / "f.parquet", "--annotations", folder / "lists"]
    result = run("detect", *words, *training, "--out", tmp_path / "d.txt")
    assert result.exit_code == 0, result.output
    assert "detections of 1 classes in 12 windows" in result.stdout
    words = ["--detections", tmp_path / "d.txt", "--annotations", folder / "lists", "--json", tmp_path / "r.json"]
    result = run("evaluate", *words)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["mean_average_precision"][:5] == [1.0] * 5  # both windows have IoU 0.6 and more with the dive


def test_a_finished_file_is_not_made_again_and_a_strange_one_not_replaced(
    squares: ShardIndex, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "f.parquet"
    assert features(squares, folder, out).exit_code == 0
    before = (out / "000000.parquet").stat().st_mtime_ns
    again = features(squares, folder, out)
    assert (again.exit_code, again.stdout) == (0, f"pool5 of 12 windows: {out}, there already, made in the same way\n")
    assert (out / "000000.parquet").stat().st_mtime_ns == before
    assert read_rows(out, layers=["pool5"])[1]["pool5"].dtype == np.float16
    refused = features(squares, folder, out, "--layer", "res5")
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"error: layers: {out} was made with pool5, this run has res5; choose another")
    (tmp_path / "strange.parquet").write_bytes(b"something else")
    refused = features(squares, folder, tmp_path / "strange.parquet")
    assert (refused.exit_code, (tmp_path / "strange.parquet").read_bytes()) == (1, b"something else")


@pytest.mark.slow
def test_two_processes_find_what_one_finds(
    squares: ShardIndex, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumos14_features, "WINDOWS_PER_PART", 2)
    assert features(squares, folder, tmp_path / "one.parquet").exit_code == 0
    words = ["--checkpoint", folder / "latest.pt", "--data", squares.data_dir, "--windows", folder / "w.jsonl"]
    words += ["--device", "cpu", "--num-threads", 1, "--batch-size", 5, "--out", tmp_path / "two.parquet"]
    (tmp_path / "small.py").write_text(SMALL_PARTS)
    done = run_warm([sys.executable, str(tmp_path / "small.py"), "features", *map(str, words)], world_size=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pool5 of 12 windows") == 1
    assert len(list((tmp_path / "two.parquet").iterdir())) == 6
    (keys, one), (keys_of_two, two) = (
        read_rows(tmp_path / f"{name}.parquet", layers=["pool5"]) for name in ("one", "two")
    )
    assert keys_of_two == keys
    np.testing.assert_allclose(
        two["pool5"], one["pool5"], rtol=2e-3, atol=2e-3
    )  # threads differ, and with them rounding


def test_windows_without_features_are_counted_and_named(squares: ShardIndex, folder: Path, tmp_path: Path) -> None:
    keys = read_windows(folder / "w.jsonl").keys
    write_parquet(tmp_path / "s.parquet", key=keys[1:], Diving=np.random.default_rng(0).random(11))
    words = ["--windows", folder / "w.jsonl", "--scores", tmp_path / "s.parquet", "--out", tmp_path / "d.txt"]
    result = run("detect", *words)
    assert result.exit_code == 0, result.output
    assert "note: nothing for 1 of 12 windows, such as g0_left/000000-000016" in result.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--layer", "fc6"], 1, "fc6 does not exist"),
        (["--out", "f.txt"], 2, "--out: f.txt must end in .parquet"),
        (["--batch-size", 0], 2, "--batch-size"),
        (["--windows", "{}/videos.txt"], 1, "videos.txt, line 1: not a window ("),
        (["--checkpoint", "{}/videos.txt"], 1, "videos.txt cannot be read"),
    ],
)
def test_errors_are_one_line_that_names_the_value(
    squares: ShardIndex, folder: Path, tmp_path: Path, options: list, code: int, message: str
) -> None:
    words = [str(option).format(folder) for option in options]
    result = features(squares, folder, tmp_path / "f.parquet", *words)
    assert result.exit_code == code, result.output
    assert message in result.stderr
