"""Charts, tables and the file that a page becomes."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.pages.markup import Cell, Line, bin_edges, histogram, line_chart, render, thin, ticks, write_page
from res3d_video.tools.run_reader import Curve


def curve(num_points: int) -> Curve:
    return Curve(np.arange(num_points) * 3, np.random.default_rng(num_points).normal(size=num_points))


@pytest.mark.parametrize("num_points", [1, 599, 600, 601, 12_345])
def test_long_curves_keep_ends_and_extremes_in_order_with_few_points(num_points: int) -> None:
    whole = curve(num_points)
    thinned = thin(whole)
    assert len(thinned.steps) <= 602
    assert (np.diff(thinned.steps) > 0).all()
    assert thinned.steps[[0, -1]].tolist() == whole.steps[[0, -1]].tolist()
    assert (thinned.values.min(), thinned.values.max()) == (whole.values.min(), whole.values.max())
    assert (thinned.values == whole.values[thinned.steps // 3]).all()


def test_a_lone_peak_is_not_lost_wherever_it_stands() -> None:
    for place in range(0, 3_000, 7):
        values = np.zeros(3_000)
        values[place] = 1.0
        assert thin(Curve(np.arange(3_000), values), most=40).values.max() == 1.0


def test_a_point_is_drawn_where_the_ticks_say() -> None:
    html = line_chart("Loss", [Line("a", Curve(np.array([0, 40, 100]), np.array([4.0, 3.0, 1.0])))], unit="", write=str)
    points = [tuple(map(float, pair.split(","))) for pair in re.findall(r'points="([^"]*)"', html)[0].split()]
    y_ticks = {float(text): 100 - float(place) for place, text in re.findall(r'bottom: ([\d.]+)%">([\d.]+)<', html)}
    x_ticks = {float(text): float(place) for place, text in re.findall(r'left: ([\d.]+)%">([\d.]+)<', html)}
    assert [x for x, _ in points] == [x_ticks[0], x_ticks[40], x_ticks[100]]
    assert points[1][1] == pytest.approx(y_ticks[3], abs=0.02)
    assert points[2][1] == pytest.approx(y_ticks[1], abs=0.02)


def test_the_pointer_reads_every_run_at_its_step_and_a_dash_where_a_run_has_ended() -> None:
    lines = [
        Line("a", Curve(np.array([10, 20]), np.array([1.0, 2.0]))),
        Line("<b>", Curve(np.array([10]), np.array([5.0]))),
    ]
    html = line_chart("Loss", lines, unit="", write="{:.1f}".format)
    titles = [title.split("\n") for title in re.findall(r"<title>(.*?)\n</title>", html, re.DOTALL)]
    assert titles == [["step 10", "a: 1.0", "&lt;b&gt;: 5.0"], ["step 20", "a: 2.0", "&lt;b&gt;: –"]]


def test_bands_cover_the_chart_and_do_not_overlap() -> None:
    html = line_chart("Loss", [Line("a", curve(1000))], unit="", write=str)
    bands = [
        (float(x), float(width)) for x, width in re.findall(r'class="band" x="([\d.]+)" y="0" width="([\d.]+)"', html)
    ]
    assert len(bands) == 60
    assert sum(width for _, width in bands) == pytest.approx(100, abs=1)
    assert all(a + width == pytest.approx(b, abs=0.02) for (a, width), (b, _) in itertools.pairwise(bands))


def test_the_numbers_of_a_chart_have_its_first_and_last_step() -> None:
    for num_points in (1, 2, 12, 13, 500):
        html = line_chart("Loss", [Line("a", curve(num_points))], unit="", write=str)
        steps = [int(step.replace(",", "")) for step in re.findall(r'<th scope="row">([\d,]+)</th>', html)]
        assert steps == sorted(set(steps))
        assert (steps[0], steps[-1]) == (0, 3 * (num_points - 1))
        assert len(steps) <= 14


@pytest.mark.parametrize("values", [[0.0], [1e-9, 1e9], [0.0, 0.0], [5.0, 5.0]])
def test_any_values_become_a_chart(values: list[float]) -> None:
    line = [Line("a", Curve(np.arange(len(values)), np.array(values)))]
    for is_log in (False, True):
        html = line_chart("Rate", line, unit="", write=str, is_log=is_log)
        assert "nan" not in html
        assert "inf" not in html
    assert line_chart("Rate", [Line("a", Curve(np.array([], np.int64), np.array([])))], unit="", write=str) == ""


def test_28_runs_differ_in_color_and_dashes_and_neighbors_in_both() -> None:
    looks = [re.findall(r'class="line (s\d) (d\d)"', render("swatch", place))[0] for place in range(28)]
    assert len(set(looks)) == 28
    assert all(a != c and b != d for (a, b), (c, d) in itertools.pairwise(looks))


@pytest.mark.parametrize("values", [[1, 2, 3], list(range(100)), [29, 383], [0.1 * i for i in range(30)]])
def test_every_sample_is_in_one_bar_of_a_histogram(values: list[float]) -> None:
    different, counts = np.unique(np.array(values), return_counts=True)
    html = histogram("Length", different, counts * 3, unit="frames")
    assert sum(int(n) for n in re.findall(r": (\d+) samples</title>", html)) == 3 * len(values)
    bars = re.findall(r'class="filled" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', html)
    assert max(float(height) for *_, height in bars) == pytest.approx(100 / 1.05, abs=0.01)
    assert all(float(x) + float(width) <= 100.01 for x, _, width, _ in bars)


def test_ticks_are_few_and_inside_and_bins_hold_all_values() -> None:
    for exponent in range(-6, 9):
        for digit in (1.0, 1.7, 3.3, 9.9):
            high = digit * 10.0**exponent
            marks = ticks(high)
            assert 3 <= len(marks) <= 6
            assert marks[-1] <= high * (1 + 1e-6)
            edges = bin_edges(np.array([0.3 * high, high]))
            assert edges[0] <= 0.3 * high <= high < edges[-1] * (1 + 1e-9)
            assert len(edges) <= 34


def test_a_table_escapes_its_cells_and_sorts_by_value() -> None:
    rows = [["<b>", Cell(0.5, "50 %", 0.5)], ["a", Cell(-1, "–")]]
    html = render("table", ["name", "share"], rows, "<i>", True)
    assert "<b>" not in html
    assert "<i>" not in html
    assert re.findall(r'data-value="([^"]*)"', html) == ["0.5", "-1"]
    assert "--share: 50.0%" in html


def test_a_page_that_is_too_large_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the page has 15.0 MB, at most 15 MB are right; ask for fewer clips"):
        write_page(tmp_path / "page.html", "a" * 15_000_001)
    assert list(tmp_path.iterdir()) == []
