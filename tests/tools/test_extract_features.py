"""tools/extract_features.py: from a checkpoint to a file, with a kill in between, on two processes; then the SVM."""

import contextlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.extract_features import main
from res3d_video.tools.linear_svm import main as svm_main
from res3d_video.train.evaluation import extraction
from res3d_video.train.evaluation.features import COLUMNS, load_features
from res3d_video.train.main import main as train_main
from tests.train.conftest import SMALL, build_squares
from tests.warm import Warm, run_warm


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return build_squares(tmp_path_factory.mktemp("squares"), classes={"left": -3, "right": 3})


@pytest.fixture(scope="module")
def checkpoint(squares: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of two steps."""
    out = tmp_path_factory.mktemp("run")
    command = ["--data", str(squares.data_dir), "--out", str(out), *SMALL, "--steps", "2", "--eval-clips", "1"]
    result = CliRunner().invoke(train_main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out / "latest.pt"


SMALL_PARTS = """
from res3d_video.train.evaluation import extraction
extraction.VIDEOS_PER_PART = 1
from res3d_video.tools.extract_features import main
main()
"""


def arguments(checkpoint: Path, squares: ShardIndex, out: Path, *options: str) -> list[str]:
    """Later options win."""
    common = ["--device", "cpu", "--num-threads", "1", "--batch-size", "4", "--layers", "res5,pool5", "--clips", "3"]
    return ["--checkpoint", str(checkpoint), "--data", str(squares.data_dir), "--out", str(out), *common, *options]


def extract(checkpoint: Path, squares: ShardIndex, out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, arguments(checkpoint, squares, out, *options), catch_exceptions=False)


def test_from_a_checkpoint_to_the_accuracy_of_an_svm(squares: ShardIndex, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    result = extract(checkpoint, squares, out)
    assert (result.exit_code, result.stdout) == (0, f"features {out}: 12 rows of squares, one a video\n"), result.output
    assert {name: rows.shape for name, rows in load_features(out, ["res5", "pool5"]).layers.items()} == {
        "res5": (12, 512), "pool5": (12, 128)
    }  # fmt: skip
    command = ["--features", str(out), "--layer", "res5", "--json", str(tmp_path / "svm.json")]
    scored = CliRunner().invoke(svm_main, command, catch_exceptions=False)
    assert scored.exit_code == 0, scored.output
    found = json.loads((tmp_path / "svm.json").read_text())
    assert (found["splits"]["1"]["num_train"], found["splits"]["1"]["num_test"]) == (8, 4)
    assert found["video_at_1"] >= 0.5


def test_a_finished_file_is_not_made_again(squares: ShardIndex, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    extract(checkpoint, squares, out, "--clips", "1")
    before = (out / "000000.parquet").stat().st_mtime_ns
    again = extract(checkpoint, squares, out, "--clips", "1")
    assert (again.exit_code, again.stdout) == (0, f"features {out} is there already, made in the same way\n")
    assert (out / "000000.parquet").stat().st_mtime_ns == before
    refused = extract(checkpoint, squares, out, "--clips", "2")
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"error: {out}: was made with another num_clips; choose another --out")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--layers", ""], 1, "layers: none is not possible"),
        (["--layers", "fc9"], 1, "error: layers: fc9 does not exist; this model has"),
        (["--checkpoint", "nowhere.pt"], 1, "nowhere.pt does not exist"),
    ],
)
def test_errors_name_the_value(
    squares: ShardIndex, checkpoint: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = extract(checkpoint, squares, tmp_path / "f.parquet", *options)
    assert (result.exit_code, message in result.stderr) == (code, True)


@pytest.mark.long
def test_two_processes_go_on_after_a_kill_of_one_and_find_what_one_finds(
    squares: ShardIndex, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--batch-size", "1", "--clips", "20")
    out, one = tmp_path / "two.parquet", tmp_path / "one.parquet"
    (tmp_path / "small.py").write_text(SMALL_PARTS)
    command = [str(tmp_path / "small.py"), *arguments(checkpoint, squares, out, *small)]
    process = Warm([sys.executable, *command])
    while not (out / "000000.parquet").exists() and process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(list(out.glob("*.parquet"))) < 12
    done = run_warm([sys.executable, *command], world_size=2)
    assert done.returncode == 0, done.stderr
    (num_batches,) = re.findall(r"extracting: (\d+)/\1 batches", done.stderr)
    assert int(num_batches) < 6 * 20  # six parts are rank 0's, the first of which was there
    monkeypatch.setattr(extraction, "VIDEOS_PER_PART", 1)
    assert extract(checkpoint, squares, one, *small).exit_code == 0
    ours, theirs = load_features(one, ["res5", "pool5"]), load_features(out, ["res5", "pool5"])
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name in ("res5", "pool5"):  # the number of threads differs, and with it the rounding
        np.testing.assert_allclose(ours.layers[name], theirs.layers[name], rtol=1e-4, atol=1e-5)
