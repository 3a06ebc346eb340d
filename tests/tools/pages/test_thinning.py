"""tools/pages/run/thinning.py: fewer points, the same picture."""

import numpy as np
import pytest

from res3d_video.tools.figures.runs import Curve
from res3d_video.tools.pages.run.thinning import evenly, thin


def curve(num_points: int) -> Curve:
    return Curve(np.arange(num_points) * 3, np.random.default_rng(num_points).normal(size=num_points))


@pytest.mark.parametrize("num_points", [0, 1, 2, 599, 600])
def test_short_curves_stay_as_they_are(num_points: int) -> None:
    assert thin(curve(num_points)).values.tolist() == curve(num_points).values.tolist()


@pytest.mark.parametrize("num_points", [601, 1_000, 12_345])
def test_long_curves_keep_ends_and_extremes_in_order_with_few_points(num_points: int) -> None:
    whole = curve(num_points)
    thinned = thin(whole)
    assert len(thinned.steps) <= 602
    assert (np.diff(thinned.steps) > 0).all()
    assert thinned.steps[[0, -1]].tolist() == whole.steps[[0, -1]].tolist()
    assert (thinned.values.min(), thinned.values.max()) == (whole.values.min(), whole.values.max())
    values = dict(zip(whole.steps.tolist(), whole.values.tolist(), strict=True))
    assert [values[step] for step in thinned.steps.tolist()] == thinned.values.tolist()


def test_a_lone_peak_is_not_lost_wherever_it_stands() -> None:
    for place in range(0, 3_000, 7):
        values = np.zeros(3_000)
        values[place] = 1.0
        assert thin(Curve(np.arange(3_000), values), most=40).values.max() == 1.0


def test_places_are_even_rising_and_include_both_ends() -> None:
    for num_points in range(1, 60):
        for most in range(2, 30):
            places = evenly(num_points, most=most)
            assert places == sorted(set(places))
            assert len(places) == min(num_points, most)
            assert (places[0], places[-1]) == (0, num_points - 1)
