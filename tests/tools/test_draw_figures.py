"""tools/draw_figures.py: a command a picture, numbers for machines, errors of one line."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from res3d_video.tools.draw_figures import main
from tests.schemas import check_schema
from tests.tools.figures.made import pixels_of, write_checkpoint, write_run


def draw(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_filters_are_drawn_and_summarised(tmp_path: Path) -> None:
    three = write_checkpoint(tmp_path / "3d.pt", model="res3d10")
    two = write_checkpoint(tmp_path / "2d.pt", model="res2d18")
    out, numbers = tmp_path / "f.png", tmp_path / "new" / "f.json"
    result = draw("filters", "--checkpoint", three, "--checkpoint", two, "--out", out, "--json", numbers)
    assert result.exit_code == 0, result.output
    assert pixels_of(out).shape[1] == 1200
    check_schema("draw_figures filters", json.loads(numbers.read_text()))
    assert [(n["model"], n["shape"]) for n in json.loads(numbers.read_text())] == [
        ("res3d10", [4, 3, 3, 7, 7]),
        ("res2d18", [4, 3, 1, 7, 7]),
    ]
    assert f"{three}  res3d10  stem.conv.weight  4×3×3×7×7" in result.output


def test_curves_are_drawn_and_summarised(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, losses={1: 2.0, 2: 1.0}, seed=seed) for seed, name in enumerate("ab")]
    (runs[1] / "metrics.jsonl").write_text((runs[1] / "metrics.jsonl").read_text() + '{"event": "tr')
    out, numbers = tmp_path / "c.png", tmp_path / "c.json"
    result = draw("curves", *runs, "--x", "clips", "--out", out, "--json", numbers)
    assert result.exit_code == 0, result.output
    assert pixels_of(out).shape[1] == 1400
    table = [line.split() for line in result.output.splitlines()]
    assert table[0] == ["run", "step", "loss", "clip@1"]
    assert ["b", "2", "1.000", "not", "evaluated", "yet"] in table
    check_schema("draw_figures curves", json.loads(numbers.read_text()))
    assert [n["differs"] for n in json.loads(numbers.read_text())] == ["seed 0", "seed 1"]


def test_what_is_not_there_gets_one_line_and_exit_code_1(tmp_path: Path) -> None:
    commands = {
        "does not exist; give a .pt file of a run folder": ("filters", "--checkpoint", tmp_path / "no.pt"),
        "so it is not a run's folder; give the --out": ("curves", tmp_path),
    }
    for message, words in commands.items():
        result = draw(*words, "--out", tmp_path / "x.png")
        assert result.exit_code == 1
        (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
        assert message in line
        assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("curves", "--out", "c.png"),
        ("curves", "a", "--out", "c.pdf"),
        ("curves", "a", "--out", "c.png", "--x", "hours"),
        ("filters", "--out", "f.png"),
    ],
)
def test_wrong_usage_has_exit_code_2(words: tuple) -> None:
    assert draw(*words).exit_code == 2


def test_without_matplotlib_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    checkpoint = write_checkpoint(tmp_path / "3d.pt", model="res3d10")
    result = draw("filters", "--checkpoint", checkpoint, "--out", tmp_path / "f.png")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == 'error: matplotlib is not installed; pip install "res3d-video[bench]"'
