"""A picture of a sweep: a small panel a factor, clips/s over its values."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.bench.chart import load_matplotlib
from tools.bench.measure import BenchError, Spread

SIZE_INCHES, DPI = (12, 8), 100  # 1200×800 pixels
LINE = "#3b6ea5"


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
    figure_of, canvas_of = load_matplotlib()
    figure = figure_of(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    canvas_of(figure)
    figure.suptitle(f"{title}\n{base}", fontsize=14, x=0.01, ha="left")
    for place, (factor, points) in enumerate(drawn.items(), start=1):
        axes = figure.add_subplot(2, 2, place)
        values, rates = [value for value, _ in points], [rate for _, rate in points]
        below_above = [[r.median - r.min for r in rates], [r.max - r.median for r in rates]]
        axes.errorbar(values, [r.median for r in rates], yerr=below_above, color=LINE, marker="o", capsize=4)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
