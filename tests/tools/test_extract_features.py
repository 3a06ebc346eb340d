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
from click.testing import Result

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.extract_features import main
from res3d_video.tools.linear_svm import main as svm_main
from res3d_video.train.evaluation import extraction
from res3d_video.train.evaluation.features import COLUMNS, load_features
from tests.tools.commands import run
from tests.warm import Warm, run_warm

SMALL_PARTS = """
from res3d_video.train.evaluation import extraction
extraction.VIDEOS_PER_PART = 1
from res3d_video.tools.extract_features import main
main()
"""


def arguments(trained: Path, squares: ShardIndex, out: Path, *options: str) -> list[str]:
    common = ["--device", "cpu", "--num-threads", "1", "--batch-size", "4", "--layers", "res5,pool5", "--clips", "3"]
    files = ["--checkpoint", str(trained / "latest.pt"), "--data", str(squares.data_dir), "--out", str(out)]
    return [*files, *common, *options]


def extract(trained: Path, squares: ShardIndex, out: Path, *options: str, code: int = 0) -> Result:
    return run(main, *arguments(trained, squares, out, *options), code=code)


def test_from_a_checkpoint_to_a_file_that_is_made_once_and_the_accuracy_of_an_svm(
    squares: ShardIndex, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features.parquet"
    assert extract(trained, squares, out).stdout == f"features {out}: 12 rows of squares, one a video\n"
    shapes = {name: rows.shape for name, rows in load_features(out, ["res5", "pool5"]).layers.items()}
    assert shapes == {"res5": (12, 128), "pool5": (12, 32)}
    run(svm_main, "--features", out, "--layer", "res5", "--json", tmp_path / "svm.json")
    found = json.loads((tmp_path / "svm.json").read_text())
    assert (found["splits"]["1"]["num_train"], found["splits"]["1"]["num_test"]) == (8, 4)
    assert found["video_at_1"] >= 0.5

    before = (out / "000000.parquet").stat().st_mtime_ns
    assert extract(trained, squares, out).stdout == f"features {out} is there already, made in the same way\n"
    assert (out / "000000.parquet").stat().st_mtime_ns == before
    for options, message in (
        (["--clips", "2"], f"error: {out}: was made with another num_clips; choose another --out"),
        (["--out", f"{out}.parquet", "--layers", ""], "layers must be one or more, each once, got none"),
    ):
        assert message in extract(trained, squares, out, *options, code=1).stderr


@pytest.mark.long
def test_two_processes_go_on_after_a_kill_of_one_and_find_what_one_finds(
    squares: ShardIndex, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--batch-size", "1", "--clips", "20")
    out, one = tmp_path / "two.parquet", tmp_path / "one.parquet"
    (tmp_path / "small.py").write_text(SMALL_PARTS)
    command = [str(tmp_path / "small.py"), *arguments(trained, squares, out, *small)]
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
    extract(trained, squares, one, *small)
    ours, theirs = load_features(one, ["res5", "pool5"]), load_features(out, ["res5", "pool5"])
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name in ("res5", "pool5"):  # the number of threads differs, and with it the rounding
        np.testing.assert_allclose(ours.layers[name], theirs.layers[name], rtol=1e-4, atol=1e-5)
