"""tools/evaluate.py: the trainer's numbers again, a table for people, a file for machines."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.evaluate import main
from res3d_video.train.main import main as train_main
from tests.schemas import check_schema
from tests.train.conftest import SMALL, build_squares, read_metrics
from tests.warm import run_warm


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return build_squares(tmp_path_factory.mktemp("squares"), classes={"left": -3, "right": 3}, num_groups=3)


@pytest.fixture(scope="module")
def trained(squares: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps."""
    out = tmp_path_factory.mktemp("run")
    command = ["--data", str(squares.data_dir), "--out", str(out), *SMALL, "--steps", "2"]
    result = CliRunner().invoke(train_main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


def evaluate(checkpoint: Path, data: Path, *options: str) -> Result:
    command = ["--checkpoint", str(checkpoint), "--data", str(data), "--device", "cpu", "--num-threads", "1"]
    return CliRunner().invoke(main, [*command, *options], catch_exceptions=False)


def test_the_numbers_are_those_at_the_end_of_training(squares: ShardIndex, trained: Path, tmp_path: Path) -> None:
    result = evaluate(trained / "latest.pt", squares.data_dir, "--clips", "3", "--json", str(tmp_path / "e.json"))
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "e.json").read_text())
    check_schema("evaluate", found)
    (final,) = read_metrics(trained, "final")
    both = set(final) & set(found)
    assert {"clip_at_1", "video_at_1", "video_at_5", "chance", "num_videos"} <= both
    assert {name: found[name] for name in both} == {name: final[name] for name in both}
    lines = result.stdout.splitlines()
    table = lines[lines.index("") + 1 : -1]
    assert [line.split()[0] for line in table] == ["class", "left", "right"]
    column = table[0].index("video@1") + len("video@1")
    assert all(line[column - 1] == "%" for line in table[1:])


def test_the_file_has_a_prediction_for_each_video(squares: ShardIndex, trained: Path, tmp_path: Path) -> None:
    evaluate(trained / "latest.pt", squares.data_dir, "--subset", "train", "--json", str(tmp_path / "e.json"))
    found = json.loads((tmp_path / "e.json").read_text())
    rows = squares.samples_of("1", "train")
    assert sorted(p["source"] for p in found["predictions"]) == sorted(squares.source(row) for row in rows)
    assert sum(map(sum, found["confusion"])) == len(rows)
    for prediction in found["predictions"]:
        assert sum(prediction["top5"].values()) == pytest.approx(1, abs=1e-5)
        assert prediction["predicted"] == max(prediction["top5"], key=prediction["top5"].get)


def test_other_classes_are_refused(trained: Path, tmp_path: Path) -> None:
    other = build_squares(tmp_path, classes={"down": -3, "up": 3}, num_groups=2)
    result = evaluate(trained / "latest.pt", other.data_dir)
    assert result.exit_code == 1
    assert "trained on 2 classes (left, right, …), squares has 2 (down, up, …)" in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--split", "7"], 1, "squares: split 7 does not exist; choose 1"),
        (["--checkpoint", "nowhere.pt"], 1, "nowhere.pt does not exist"),
    ],
)
def test_errors_name_the_value(squares: ShardIndex, trained: Path, options: list[str], code: int, message: str) -> None:
    result = evaluate(trained / "latest.pt", squares.data_dir, *options)
    assert (result.exit_code, message in result.stderr) == (code, True)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(squares: ShardIndex, trained: Path, tmp_path: Path) -> None:
    options = ["--subset", "train", "--clips", "3", "--batch-size", "10"]
    evaluate(trained / "latest.pt", squares.data_dir, *options, "--json", str(tmp_path / "one.json"))
    words = ["--checkpoint", str(trained / "latest.pt"), "--data", str(squares.data_dir)]
    to_file = ["--device", "cpu", "--json", str(tmp_path / "two.json")]
    done = run_warm([sys.executable, "tools/evaluate.py", *words, *options, *to_file], world_size=2)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert len(two["predictions"]) == len(squares.samples_of("1", "train"))
    for a, b in zip(one["predictions"], two["predictions"], strict=True):
        assert a["key"] == b["key"]
        assert b["top5"] == pytest.approx(a["top5"], abs=1e-5)
