"""Pictures of small panels: a sweep's, clips/s over a factor's values; and codecs, clips/s over bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.bench.chart import OURS, PEERS, picture
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


MANY_COLORS = (OURS, PEERS, "#7a5c3e")


def draw_trade_offs(
    path: Path,
    title: str,
    panels: Mapping[str, Mapping[str, Sequence[tuple[str, float, Spread]]]],
    *,
    ceilings: Mapping[str, float],
) -> None:
    """Write a PNG, two panels in a row.

    Args:
        panels: Name -> series -> (label, kB a frame, clips/s).
        ceilings: Name of a panel -> clips/s that no loader can exceed there.

    Raises:
        BenchError: matplotlib is not installed, or there is nothing to draw.
    """
    if not panels:
        raise BenchError("chart: not one point was measured; see the table for the reasons")
    rows = -(-len(panels) // 2)
    with picture(path, title, size=(1200, 100 + 450 * rows)) as figure:
        for place, (name, series) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(rows, 2, place)
            draw_trade_off(axes, series, ceiling=ceilings.get(name))
            axes.set_title(name, fontsize=13)


def draw_trade_off(
    axes: Any, series: Mapping[str, Sequence[tuple[str, float, Spread]]], *, ceiling: float | None
) -> None:
    """clips/s over kB a frame."""
    for (name, points), color, side in zip(series.items(), MANY_COLORS, (1, -1, 1), strict=False):
        sizes, rates = [size for _, size, _ in points], [rate for _, _, rate in points]
        below_above = [[r.median - r.min for r in rates], [r.max - r.median for r in rates]]
        axes.errorbar(
            sizes, [r.median for r in rates], yerr=below_above, color=color, marker="o", capsize=4, label=name
        )
        for label, size, rate in points:
            beside = {"textcoords": "offset points", "ha": "left" if side > 0 else "right", "va": "center"}
            axes.annotate(label, (size, rate.median), (8 * side, 0), **beside, color=color, fontsize=9)
    if ceiling is not None:
        axes.axhline(ceiling, color="grey", linestyle="--", label="ready clips")
    highest = max([ceiling or 0.0, *(rate.max for points in series.values() for _, _, rate in points)])
    axes.set_ylim(0, 1.15 * highest)
    sizes = [size for points in series.values() for _, size, _ in points]
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
    ticks = [2.0**power for power in range(-3, 6) if min(sizes) / 1.6 < 2.0**power < max(sizes) * 1.6]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("kB a frame", fontsize=12)
    axes.set_ylabel("clips/s", fontsize=12)
    axes.legend(fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
