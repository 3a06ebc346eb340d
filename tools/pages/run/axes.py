"""What the axes of all charts of runs have: scales, marks where the learning rate goes down, levels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from res3d_video.tools.figures.cost import short_count
from res3d_video.tools.pages.charts import GRID, MUTED
from res3d_video.tools.pages.run.facts import Run
from res3d_video.tools.pages.run.looks import drawn

MOST_DROPS = 30
TOO_SHORT = 12  # times shorter than the longest


def mark_drops(axes: Any, runs: Sequence[Run]) -> None:
    """A dotted line where a step schedule lowers the learning rate: grey, or of the only run that does so there."""
    by_step: dict[int, list[str]] = {}
    for run, look in drawn(runs):
        for step in run.drops:
            by_step.setdefault(step, []).append(look.color)
    if len(by_step) > MOST_DROPS:
        return  # the chart of the rate shows them
    for step, colors in by_step.items():
        alone = len(colors) == 1 and len(runs) > 1
        axes.axvline(step, color=colors[0] if alone else MUTED, linestyle=(0, (2, 3)), linewidth=1.2, zorder=0)
    if by_step:
        is_late = differ_in_length(runs) or 2 * min(by_step) > max(run.step for run, _ in drawn(runs))
        text = axes.annotate(
            "learning rate goes down", (min(by_step), 1), (-3 if is_late else 3, -10),
            xycoords=("data", "axes fraction"), textcoords="offset points", ha="right" if is_late else "left",
            color=MUTED, fontsize=10.5,
        )  # fmt: skip
        text.set_in_layout(False)


def differ_in_length(runs: Sequence[Run]) -> bool:
    """Whether the shortest run would be hard to see beside the longest."""
    steps = [run.step for run, _ in drawn(runs) if run.step]
    return len(steps) > 1 and max(steps) > TOO_SHORT * min(steps)


def mark_level(axes: Any, level: float, text: str, *, place: int = 0) -> None:
    """A dotted line across with a text on it, to the left, or in another of three places."""
    axes.axhline(level, color=MUTED, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
    axes.annotate(
        text, (place / 3, level), (4, 3), xycoords=("axes fraction", "data"), textcoords="offset points", color=MUTED,
        fontsize=10.5,
    )  # fmt: skip


def finish(axes: Any, runs: Sequence[Run], *, label: str, highest: float | None) -> None:
    """Axes as in all charts of runs.

    Args:
        highest: End of the vertical axis, which begins at 0; None leaves it alone.
    """
    if differ_in_length(runs):
        axes.set_xscale("log")
        axes.minorticks_off()
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(_few_ticks())
    if highest is not None:
        axes.set_ylim(0, highest or 1.0)
    axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
    axes.set_xlabel("step, logarithmic" if differ_in_length(runs) else "step")
    axes.set_ylabel(label)
    axes.grid(color=GRID, linewidth=0.8)


def top_of(values: np.ndarray, means: np.ndarray) -> float:
    """Where the vertical axis ends: above nearly every value and every mean, not above a lone peak.

    >>> top_of(np.array([1.0] * 999 + [500.0]), np.array([1.0, 2.0]))
    2.1
    """
    return 1.05 * max(
        float(np.quantile(values, 0.99)), float(means.max()) if len(means) < 3 else float(means[1:].max())
    )


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10])
