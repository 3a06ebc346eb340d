"""Long curves with no more points than a screen shows. Pure numpy."""

import numpy as np

from res3d_video.tools.figures.runs import Curve

MOST_POINTS = 600


def thin(curve: Curve, *, most: int = MOST_POINTS) -> Curve:
    """The lowest and the highest point of each of `most` / 2 equal parts, in order: what a narrow line would show.

    A curve with no more points stays as it is; so do the first and the last point.

    >>> thin(Curve(np.arange(8), np.array([5.0, 1, 2, 9, 3, 3, 7, 4])), most=4).values.tolist()
    [5.0, 1.0, 9.0, 3.0, 7.0, 4.0]
    """
    num_points = len(curve.steps)
    if num_points <= most:
        return curve
    kept = {0, num_points - 1}
    for part in np.array_split(np.arange(num_points), max(most // 2, 1)):
        kept |= {int(part[np.argmin(curve.values[part])]), int(part[np.argmax(curve.values[part])])}
    places = np.array(sorted(kept))
    return Curve(curve.steps[places], curve.values[places])


def evenly(num_points: int, *, most: int) -> list[int]:
    """At most `most` places from 0 to the last, evenly spread, both ends among them.

    >>> evenly(3, most=5), evenly(101, most=5), evenly(0, most=5)
    ([0, 1, 2], [0, 25, 50, 75, 100], [])
    """
    return sorted({round(place) for place in np.linspace(0, num_points - 1, min(num_points, most))})
