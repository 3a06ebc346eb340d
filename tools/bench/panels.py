"""A picture of a sweep: a small panel a factor, clips/s over its values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.bench.chart import OURS, picture
from tools.bench.measure import BenchError, Spread


def draw_panels(path: Path, title: str, panels: Mapping[str, Sequence[tuple[int, Spread]]], *, base: str) -> None:
    """Write a PNG of up to four panels.

    Args:
        panels: Factor -> (value, clips/s), in rising order of values, which are drawn in powers of two.
        base: The values of the factors that stay, for people.

    Raises:
        BenchError: matplotlib is not installed, or there is nothing to draw.
    """
    drawn = {factor: points for factor, points in panels.items() if points}
    if not drawn:
        raise BenchError("chart: not one point was measured; see the table for the reasons")
    with picture(path, f"{title}\n{base}", size=(1200, 800)) as figure:
        for place, (factor, points) in enumerate(drawn.items(), start=1):
            draw_panel(figure.add_subplot(2, 2, place), factor, points)


def draw_panel(axes: Any, factor: str, points: Sequence[tuple[int, Spread]]) -> None:
    """clips/s over the values of one factor."""
    values, rates = [value for value, _ in points], [rate for _, rate in points]
    below_above = [[r.median - r.min for r in rates], [r.max - r.median for r in rates]]
    axes.errorbar(values, [r.median for r in rates], yerr=below_above, color=OURS, marker="o", capsize=4)
    for value, rate in points:
        axes.annotate(f"{rate.median:,.0f}", (value, rate.max), (0, 6), textcoords="offset points", ha="center")
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    axes.margins(x=0.1)
    axes.set_ylim(0, 1.15 * max(r.max for r in rates))
    axes.set_xlabel(factor, fontsize=12)
    axes.set_ylabel("clips/s", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
