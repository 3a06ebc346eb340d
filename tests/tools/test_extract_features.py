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
from res3d_video.train.evaluation.features import COLUMNS, FeatureFile
from res3d_video.train.main import main as train_main
from tests.schemas import check_schema
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
    result = extract(checkpoint, squares, out, "--json", str(tmp_path / "features.json"))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "videos      12 of squares, up to 3 clips each",
        "rows        12, one a video",
        "layers      res5 of 512 dimensions, pool5 of 128 dimensions; float32",
        f"features    {out}",
    ]
    summary = json.loads((tmp_path / "features.json").read_text())
    check_schema("extract_features", summary)
    assert (summary["num_rows"], summary["num_dims"]) == (12, {"res5": 512, "pool5": 128})
    command = ["--features", str(out), "--layer", "res5", "--json", str(tmp_path / "svm.json")]
    scored = CliRunner().invoke(svm_main, command, catch_exceptions=False)
    assert scored.exit_code == 0, scored.output
    found = json.loads((tmp_path / "svm.json").read_text())
    assert (found["splits"]["1"]["num_train"], found["splits"]["1"]["num_test"]) == (8, 4)
    assert found["video_at_1"] >= 0.5


def test_others_read_what_is_written(squares: ShardIndex, checkpoint: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is in the extra `features`")
    out = tmp_path / "features.parquet"
    result = extract(checkpoint, squares, out, "--layers", "pool5", "--dtype", "float16", "--clips", "1")
    assert result.exit_code == 0, result.output
    assert "layers      pool5 of 128 dimensions; float16" in result.stdout
    table = pq.read_table(out)
    assert table.column_names == [
        "key", "source", "group", "label", "class", "subset", "num_clips", "start", "pool5",
    ]  # fmt: skip
    assert set(zip(table["label"].to_pylist(), table["class"].to_pylist(), strict=True)) == {(0, "left"), (1, "right")}
    assert np.stack(table["pool5"].to_numpy()).shape == (12, 128)


def test_a_finished_file_is_not_made_again(squares: ShardIndex, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    extract(checkpoint, squares, out, "--clips", "1")
    before = (out / "000000.parquet").stat().st_mtime_ns
    again = extract(checkpoint, squares, out, "--clips", "1")
    assert (again.exit_code, again.stdout) == (0, f"features    {out} is there already, made in the same way\n")
    assert (out / "000000.parquet").stat().st_mtime_ns == before
    refused = extract(checkpoint, squares, out, "--clips", "2")
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"error: num_clips: {out} was made with 1, this run has 2; choose another --out")


def test_the_two_sides_of_a_split_together_are_the_whole(squares: ShardIndex, checkpoint: Path, tmp_path: Path) -> None:
    accuracy = []
    for subsets in (["all"], ["train", "test"]):
        files = []
        for subset in subsets:
            out = tmp_path / f"{subset}.parquet"
            assert extract(checkpoint, squares, out, "--subset", subset, "--layers", "pool5").exit_code == 0
            files += ["--features", str(out)]
        command = [*files, "--layer", "pool5", "--c", "1", "--json", str(tmp_path / "svm.json")]
        assert CliRunner().invoke(svm_main, command).exit_code == 0
        accuracy.append(json.loads((tmp_path / "svm.json").read_text())["splits"])
    assert accuracy[0] == accuracy[1]
    alone = CliRunner().invoke(svm_main, ["--features", str(tmp_path / "train.parquet"), "--layer", "pool5"])
    assert alone.exit_code == 1
    assert "split 1: the files lack 4 of its videos; extract them with --subset all" in alone.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--split", "7", "--subset", "test"], 2, "squares: split 7 does not exist; choose 1"),
        (["--split", "1"], 2, "--split: 1 says nothing about all videos; add --subset train or test"),
        (["--layers", ""], 2, "layers: none is not possible"),
        (["--layers", "fc9"], 1, "error: layers: fc9 does not exist; this model has"),
        (["--out", "features.npz"], 2, "--out: features.npz must end in .parquet"),
        (["--checkpoint", "nowhere.pt"], 1, "nowhere.pt does not exist"),
    ],
)
def test_errors_name_the_value(
    squares: ShardIndex, checkpoint: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = extract(checkpoint, squares, tmp_path / "f.parquet", *options)
    assert result.exit_code == code
    assert message in result.stderr


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
    names = [*COLUMNS.values(), "res5", "pool5"]
    ours, theirs = FeatureFile(one).read(names), FeatureFile(out).read(names)
    for name in names:
        if name in ("res5", "pool5"):  # the number of threads differs, and with it the rounding
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(ours[name], theirs[name])
