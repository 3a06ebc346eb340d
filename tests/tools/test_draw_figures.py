"""tools/draw_figures.py: a command a picture, errors of one line."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from res3d_video.tools.draw_figures import main
from tests.tools.figures.made import pixels_of, write_checkpoint, write_run


def draw(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_filters_and_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    three, two = (write_checkpoint(tmp_path / f"{model}.pt", model=model) for model in ("res3d10", "res2d18"))
    runs = [write_run(tmp_path / name, losses={1: 2.0, 2: 1.0}, seed=seed) for seed, name in enumerate("ab")]
    for words, width in ((["filters", "--checkpoint", three, "--checkpoint", two], 1200), (["curves", *runs], 1400)):
        result = draw(*words, "--out", tmp_path / "f.png")
        assert (result.exit_code, result.stdout) == (0, f"picture {tmp_path / 'f.png'}\n")
        assert pixels_of(tmp_path / "f.png").shape[1] == width


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["filters", "--checkpoint", "no.pt", "--out", "x.png"], 1, "does not exist; give a .pt file of a run folder"),
        (["curves", "tests", "--out", "x.png"], 1, "so it is not a run's folder; give the --out"),
        (["curves", "--out", "c.png"], 2, "RUN"),
        (["curves", "a", "--out", "c.pdf"], 2, "c.pdf must end in .png"),
    ],
)
def test_errors_are_one_line(words: list[str], code: int, message: str) -> None:
    result = draw(*words)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert not Path("x.png").exists()


def test_without_matplotlib_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    checkpoint = write_checkpoint(tmp_path / "3d.pt", model="res3d10")
    result = draw("filters", "--checkpoint", checkpoint, "--out", tmp_path / "f.png")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == 'error: matplotlib is not installed; pip install "res3d-video[bench]"'
