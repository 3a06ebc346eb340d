"""One table of the paper as a picture: our accuracies with their spread, the paper's beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.bench.chart import picture
from tools.figures.colors import MANY

OURS_COLOR, PAPER_COLOR, CHANCE_COLOR = MANY[0], MANY[1], "0.45"
OURS_MARK, PAPER_MARK = "o", "D"
HEIGHT, ROW_WIDTH, LEAST_WIDTH = 650, 95, 1000  # pixels


@dataclass(frozen=True)
class TableRow:
    """A row; accuracies per cent, None where there is none.

    Attributes:
        spread: Half the length of the error bar, percentage points.
    """

    name: str
    accuracy: float | None
    spread: float | None
    paper: float | None


def draw_table(path: Path, rows: Sequence[TableRow], *, title: str, factor: str, chance: float) -> None:
    """Write a PNG: rows from left to right in the table's order, accuracy upwards.

    Args:
        factor: What the rows differ in.
        chance: Per cent, of a uniform guess among the classes that were scored; the paper's are others.

    Raises:
        BenchError: matplotlib is not installed.
    """
    with picture(path, title, size=(max(LEAST_WIDTH, 200 + ROW_WIDTH * len(rows)), HEIGHT)) as figure:
        axes = figure.add_subplot()
        ours = [(i, row.accuracy, row.spread or 0.0) for i, row in enumerate(rows) if row.accuracy is not None]
        if ours:
            places, means, spreads = zip(*ours, strict=True)
            style = {"color": OURS_COLOR, "marker": OURS_MARK, "markersize": 10, "capsize": 7, "linestyle": "none"}
            axes.errorbar(places, means, yerr=spreads, **style, label="ours: mean, spread over seeds", zorder=3)
        for place, mean, spread in ours:
            beside = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 12}
            axes.annotate(f"{mean:.1f}", (place, mean + spread), (0, 7), **beside, color=OURS_COLOR)
        printed = [(i, row.paper) for i, row in enumerate(rows) if row.paper is not None]
        if printed:
            style = {"marker": PAPER_MARK, "s": 80, "facecolors": "none", "edgecolors": PAPER_COLOR, "linewidths": 2}
            axes.scatter(*zip(*printed, strict=True), **style, label="the paper, all of UCF101", zorder=2)
        axes.axhline(chance, color=CHANCE_COLOR, linestyle="--", linewidth=1.2, label=f"chance here, {chance:.0f} %")
        axes.set_xticks(range(len(rows)), [row.name for row in rows], fontsize=13)
        axes.set_xlim(-0.6, len(rows) - 0.4)
        highest = max([chance, *(mean + spread for _, mean, spread in ours), *(value for _, value in printed)])
        axes.set_ylim(0, min(100.0, 1.05 * highest) + 0.1 * highest)
        axes.set_xlabel(factor, fontsize=13)
        axes.set_ylabel("clip accuracy, %", fontsize=13)
        axes.tick_params(axis="y", labelsize=12)
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=12, columnspacing=1.5)
