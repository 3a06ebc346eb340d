"""tools/figures/plots.py: a PNG of the promised size."""

import struct
import sys
from pathlib import Path

import pytest

from res3d_video.tools.bench.measure import BenchError, Spread
from res3d_video.tools.figures.plots import draw

OURS = {"loader alone": Spread(15_000, 14_200, 15_100), "real step": Spread(2_500, 2_480, 2_520)}
PEERS = {"PyAV DataLoader": Spread(19.7, 19.0, 21.0)}


def test_a_chart_is_a_png_of_1200_by_700_pixels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="charts need matplotlib")
    path = tmp_path / "new" / "bench.png"
    draw(path, "saturation 0.982\n8×112×112", OURS, PEERS)
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == (1200, 700)


def test_a_bar_is_as_long_as_its_median_and_its_number_stands_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure_module = pytest.importorskip("matplotlib.figure", reason="charts need matplotlib")
    figures = []
    made = figure_module.Figure.__init__

    def remember(self: object, *args: object, **options: object) -> None:
        made(self, *args, **options)
        figures.append(self)

    monkeypatch.setattr(figure_module.Figure, "__init__", remember)
    draw(tmp_path / "bench.png", "title", OURS, PEERS)
    (axes,) = figures[0].axes
    assert [bar.get_width() for bar in axes.patches] == [15_000, 2_500, 19.7]
    assert [text.get_text() for text in axes.texts] == ["15,000", "2,500", "19.7"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*OURS, *PEERS]
    assert figures[0].get_suptitle() == "title"


def test_without_matplotlib_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchError, match=r'^matplotlib is not installed; pip install "res3d-video\[bench\]"$'):
        draw(tmp_path / "bench.png", "title", OURS, {})
