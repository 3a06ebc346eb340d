"""Charts and tables of the pages."""

import re

import numpy as np
import pytest

from res3d_video.tools.pages.markup import Line, line_chart, render, thin
from res3d_video.tools.run_reader import Curve


@pytest.mark.parametrize("num_points", [1, 599, 600, 601, 12_345])
def test_long_curves_keep_ends_and_extremes_in_order_with_few_points(num_points: int) -> None:
    whole = Curve(np.arange(num_points) * 3, np.random.default_rng(num_points).normal(size=num_points))
    thinned = thin(whole)
    assert len(thinned.steps) <= 602
    assert (np.diff(thinned.steps) > 0).all()
    assert thinned.steps[[0, -1]].tolist() == whole.steps[[0, -1]].tolist()
    assert (thinned.values.min(), thinned.values.max()) == (whole.values.min(), whole.values.max())
    assert (thinned.values == whole.values[thinned.steps // 3]).all()


def test_a_point_is_drawn_where_the_ticks_say() -> None:
    html = line_chart("Loss", [Line("a", Curve(np.array([0, 40, 100]), np.array([4.0, 3.0, 1.0])))], write=str)
    points = [tuple(map(float, pair.split(","))) for pair in re.findall(r'points="([^"]*)"', html)[0].split()]
    y_ticks = {float(text): 100 - float(place) for place, text in re.findall(r'bottom: ([\d.]+)%">([\d.]+)<', html)}
    x_ticks = {float(text): float(place) for place, text in re.findall(r'left: ([\d.]+)%">([\d.]+)<', html)}
    assert [x for x, _ in points] == [x_ticks[0], x_ticks[40], x_ticks[100]]
    assert points[1][1] == pytest.approx(y_ticks[3], abs=0.06)
    assert points[2][1] == pytest.approx(y_ticks[1], abs=0.06)


def test_the_pointer_reads_every_run_at_its_step_and_a_dash_where_a_run_has_ended() -> None:
    long, short = Curve(np.array([10, 20]), np.array([1.0, 2.0])), Curve(np.array([10]), np.array([5.0]))
    html = line_chart("Loss", [Line("a", long), Line("<b>", short)], write="{:.1f}".format)
    titles = [title.split("\n") for title in re.findall(r"<title>(.*?)\n</title>", html, re.DOTALL)]
    assert titles == [["step 10", "a: 1.0", "&lt;b&gt;: 5.0"], ["step 20", "a: 2.0", "&lt;b&gt;: –"]]


def test_any_values_become_a_chart() -> None:
    for values in ([0.0], [1e-9, 1e9], [0.0, 0.0], [5.0, 5.0], [-1e30, 1e30], []):
        html = line_chart("Rate", [Line("a", Curve(np.arange(len(values)), np.array(values)))], write=str)
        assert ("nan" in html, "inf" in html, bool(html)) == (False, False, bool(values))


def test_a_table_escapes_its_cells_and_shows_shares_as_bars() -> None:
    html = render("table", columns=["name", "share"], rows=[["<b>", 0.5], ["a", None]], caption="<i>", is_sortable=True)
    assert ("<b>" in html, "<i>" in html) == (False, False)
    assert '<span class="bar" style="--share: 50.0%">50.0 %</span>' in html
    assert "<td>–</td>" in html
