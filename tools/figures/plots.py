"""Plots: bars of a benchmark, learning curves of runs, accuracy against cost, and the study beside the paper."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.bench.measure import BenchError, Spread
from res3d_video.tools.run_reader import (
    BOOKKEEPING,
    Run,
    distinct_names,
    rate_drops,
    read_run,
    running_mean,
    short_name,
)
from res3d_video.train.config import differences

DPI = 100
OURS, PEERS = "#3b6ea5", "#b0a18f"


def draw(path: Path, title: str, ours: Mapping[str, Spread], peers: Mapping[str, Spread]) -> None:
    """Write a PNG.

    Args:
        title: One or two lines.
        ours, peers: Lane -> clips/s; drawn from top to bottom, in two colours.

    Raises:
        BenchError: matplotlib is not installed.
    """
    lanes = {**ours, **peers}
    with picture(path, title, size=(1200, 700)) as figure:
        draw_bars(figure.add_subplot(), lanes, [OURS] * len(ours) + [PEERS] * len(peers))


def draw_bars(axes: Any, lanes: Mapping[str, Spread], colors: Sequence[str]) -> None:
    """One bar a lane, from top to bottom."""
    rates = list(lanes.values())
    places = range(len(lanes))
    below_above = [[r.median - r.min for r in rates], [r.max - r.median for r in rates]]
    axes.barh(places, [r.median for r in rates], xerr=below_above, color=colors, capsize=6, height=0.6)
    widest = max(r.max for r in rates)
    for place, rate in zip(places, rates, strict=True):
        axes.text(
            rate.max + 0.012 * widest,
            place,
            f"{rate.median:,.{0 if rate.median >= 100 else 1}f}",
            va="center",
            fontsize=15,
        )
    axes.set_yticks(places, list(lanes), fontsize=14)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.13 * widest)
    axes.set_xlabel("clips/s: median of the turns, lowest and highest", fontsize=13)
    axes.tick_params(axis="x", labelsize=12)
    axes.spines[["top", "right"]].set_visible(False)


@contextmanager
def picture(path: Path, title: str, *, size: tuple[int, int]) -> Iterator[Any]:
    """matplotlib's figure to draw in, with a title to the left; written when the block is over.

    Args:
        size: Width and height, pixels.

    Raises:
        BenchError: matplotlib is not installed.
    """
    figure_of, canvas_of = load_matplotlib()
    figure = figure_of(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, layout="constrained")
    canvas_of(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=14)
    yield figure
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def load_matplotlib() -> tuple[Any, Any]:
    """matplotlib's Figure and the Agg canvas, which needs no display.

    Raises:
        BenchError: It is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BenchError('matplotlib is not installed; pip install "res3d-video[bench]"') from None
    return Figure, FigureCanvasAgg


# Okabe and Ito (2008), which color-blind readers tell apart: blue, vermilion, green, purple, orange, sky blue, black.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", ":", "-.")
GREY = "#8c8c8c"
Along = Literal["steps", "clips"]


def line_style(place: int) -> dict[str, str]:
    """Of one of many lines; 28 differ in color or dashes.

    >>> line_style(8)
    {'color': '#d55e00', 'linestyle': '--'}
    """
    return {"color": COLORS[place % len(COLORS)], "linestyle": DASHES[place // len(COLORS) % len(DASHES)]}


def short_count(count: float) -> str:
    """A number with three digits and its prefix.

    >>> [short_count(count) for count in (950, 33_222_309, 20_451_000_000, 5e9, 999_900, 2e12)]
    ['950', '33.2M', '20.5G', '5G', '1M', '2T']
    """
    for unit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * unit:
            return f"{float(f'{count / unit:.3g}'):g}{prefix}"
    return f"{count:g}"


def style_axes(axes: Any, *, x: str, y: str) -> None:
    """Labels, and the look of all plots."""
    axes.set_xlabel(x, fontsize=12)
    axes.set_ylabel(y, fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def read_curves(folder: Path) -> Run:
    """A run, ended or still going on, that has a training loss.

    Raises:
        UserError: The folder is not a run's, has no metrics yet, or a file is damaged.
    """
    run = read_run(folder)
    has_loss = len(run.curve("loss").steps) > 0
    if run.config is None or (run.problems and has_loss):
        raise UserError(f"{run.problems[0]}; mend the file, or give another folder")
    if not has_loss:
        raise UserError(f"{folder}: no training step in metrics.jsonl yet; wait for --log-every steps")
    return run


def default_window(runs: Sequence[Run]) -> int:
    """Steps over which losses are averaged: a fiftieth of the longest run so far."""
    return max(1, max(int(run.curve("loss").steps[-1]) for run in runs) // 50)


def draw_curves(path: Path, runs: Sequence[Run], *, title: str, x: Along = "steps") -> None:
    """Write a PNG: the loss on the left, smoothed over its faint raw curve, clip@1 on the right.

    Args:
        runs: At least one, of `read_curves`.
        x: Optimizer steps, or the clips trained on: steps times the global batch.

    Raises:
        BenchError: matplotlib is not installed.
    """
    window = default_window(runs)
    names = distinct_names([run.folder for run in runs])
    texts = [f"{name}:  {text}" if text else name for name, text in zip(names, what_differs(runs), strict=True)]
    entries = ["\n".join(textwrap.wrap(text, 150, subsequent_indent="    ")) for text in texts]
    num_lines = sum(entry.count("\n") + 1 for entry in entries)
    with picture(path, title, size=(1400, 584 + 24 * num_lines)) as figure:
        left, right = figure.subplots(1, 2)
        for place, (run, entry) in enumerate(zip(runs, entries, strict=True)):
            style, unit = line_style(place), clips_a_step(run) if x == "clips" else 1
            loss, accuracy = run.curve("loss"), run.accuracy
            left.plot(unit * loss.steps, loss.values, color=style["color"], alpha=0.18, linewidth=0.7, zorder=1)
            left.plot(unit * loss.steps, running_mean(loss, window=window).values, **style, linewidth=2, label=entry)
            right.plot(unit * accuracy.steps, 100 * accuracy.values, **style, marker="o", linewidth=1.6)
            for step in rate_drops(run.config, last_step=int(loss.steps[-1])) if run.config else ():
                for axes in (left, right):
                    axes.axvline(unit * step, color=GREY, linestyle=(0, (2, 3)), linewidth=1, zorder=0)
        for chance in {run.tests[-1]["chance"] for run in runs if run.tests and "chance" in run.tests[-1]}:
            right.axhline(100 * chance, color=GREY, linestyle=":", linewidth=1.2, zorder=0)
        for axes in (left, right):
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
        along = "clips trained on" if x == "clips" else "step"
        style_axes(left, x=along, y=f"training loss, mean of {window:,} steps (faint: as logged)")
        style_axes(right, x=f"{along} (dashed: the learning rate drops)", y="clip@1, % (dotted: chance)")
        look = {"frameon": False, "fontsize": 11, "handlelength": 3.5}
        figure.legend(handles=left.get_legend_handles_labels()[0], loc="outside lower left", **look)


def clips_a_step(run: Run) -> int:
    """The global batch."""
    return run.config.global_batch_size if run.config else 1


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For JSON: where each run stands; the loss is smoothed as it is drawn, accuracies are 0 to 1."""
    names, window = distinct_names([run.folder for run in runs]), default_window(runs)
    return [
        {
            "run": str(run.folder),
            "name": name,
            "differs": text,
            "step": int(run.curve("loss").steps[-1]),
            "loss": float(running_mean(run.curve("loss"), window=window).values[-1]),
            "clip_at_1": float(run.accuracy.values[-1]) if len(run.accuracy.values) else None,
            "chance": run.tests[-1].get("chance") if run.tests else None,
        }
        for run, name, text in zip(runs, names, what_differs(runs), strict=True)
    ]


def what_differs(runs: Sequence[Run]) -> list[str]:
    """For each run the values of the fields in which not all agree, as "lr 0.01, seed 2"; bookkeeping is left out."""
    configs = [run.config for run in runs if run.config]
    found = [name for config in configs[1:] for name in differences(configs[0], config)]
    fields = [name for name in dict.fromkeys(found) if name not in BOOKKEEPING]
    texts = [
        [f"{short_name(name)} {reduce(getattr, name.split('.'), config)}" for name in fields] for config in configs
    ]
    if len({run.data for run in runs}) > 1:
        texts = [[f"data {run.data}", *text] for run, text in zip(runs, texts, strict=True)]
    return [", ".join(text) for text in texts]


LARGEST_AREA = 500.0  # of a point, square typographic points
# Where a name may stand beside its point, typographic points: right, left, above, below, farther away, …
OFFSETS = [(dx * d, dy * d) for d in (9, 20, 34, 50) for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7))]


@dataclass(frozen=True)
class CostPoint:
    """A network.

    Attributes:
        multiply_adds: Of one clip.
        accuracy: Per cent.
        spread: Half the length of the error bar, percentage points; None where there was one run only.
    """

    name: str
    parameters: int
    multiply_adds: int
    accuracy: float
    spread: float | None = None


def pareto_front(points: Sequence[CostPoint]) -> list[CostPoint]:
    """Networks than which none is both as cheap and as accurate, and better in one; cheapest first."""

    def beats(a: CostPoint, b: CostPoint) -> bool:
        better = a.multiply_adds < b.multiply_adds or a.accuracy > b.accuracy
        return better and a.multiply_adds <= b.multiply_adds and a.accuracy >= b.accuracy

    front = [point for point in points if not any(beats(other, point) for other in points)]
    return sorted(front, key=lambda point: point.multiply_adds)


def draw_cost(path: Path, points: Sequence[CostPoint], *, title: str) -> None:
    """Write a PNG: a point a network, its area the parameters, and a line through the Pareto front.

    Raises:
        BenchError: matplotlib is not installed.
    """
    front, most = pareto_front(points), max(point.parameters for point in points)
    with picture(path, title, size=(1100, 750)) as figure:
        from matplotlib.ticker import LogLocator, NullLocator

        axes = figure.add_subplot()
        line = {"color": COLORS[0], "linewidth": 1.5, "alpha": 0.75, "zorder": 1, "label": "Pareto front"}
        axes.plot([p.multiply_adds for p in front], [p.accuracy for p in front], **line)
        for point in sorted(points, key=lambda point: -point.parameters):  # small ones above
            place, area = (point.multiply_adds, point.accuracy), LARGEST_AREA * point.parameters / most
            color = COLORS[0] if point in front else GREY
            axes.scatter(*place, s=area, color=color, alpha=0.75, edgecolors="white", zorder=3)
            if point.spread is not None:
                axes.errorbar(*place, yerr=point.spread, fmt="none", ecolor="0.15", capsize=5, zorder=4)
        costs = [point.multiply_adds for point in points]
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 2, max(costs) * 2)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
        axes.margins(y=0.15)
        style_axes(axes, x="multiply-adds of a clip", y="clip accuracy, %: mean and spread")
        size = f"the largest point: {short_count(most)} parameters; areas are in proportion"
        axes.scatter([], [], s=LARGEST_AREA, color=GREY, alpha=0.75, label=size)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=12, borderpad=1.0)
        name_points(figure, axes, points)


def name_points(figure: Any, axes: Any, points: Sequence[CostPoint]) -> None:
    """Names beside their points, where they cover no point, error bar or other name if there is such a place."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # now the axes have their final place
    taken = []
    for point in points:
        ends = [(point.multiply_adds, point.accuracy + sign * (point.spread or 0)) for sign in (-1, 1)]
        bottom, top = axes.transData.transform(ends)  # of the error bar
        taken.append(Bbox([bottom - 8, top + 8]))
    inside = axes.get_window_extent()
    for point in points:
        place = (point.multiply_adds, point.accuracy)
        name = axes.annotate(point.name, place, (0, 0), textcoords="offset points", fontsize=12)
        for x, y in OFFSETS:
            name.xyann = (x, y)
            name.set(ha="left" if x > 0 else "right" if x < 0 else "center")
            name.set(va="bottom" if y > 0 else "top" if y < 0 else "center")
            box = name.get_window_extent(figure.canvas.get_renderer())
            if not box.count_overlaps(taken) and inside.x0 < box.x0 and box.x1 < inside.x1:
                break
        taken.append(box)


@dataclass(frozen=True)
class TableRow:
    """A row of a study's table; accuracies per cent, None where there is none.

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
    with picture(path, title, size=(max(1000, 200 + 95 * len(rows)), 650)) as figure:
        axes = figure.add_subplot()
        ours = {"color": COLORS[0], "marker": "o", "markersize": 10, "capsize": 7, "linestyle": "none"}
        values = np.array([(row.accuracy, row.spread or 0, row.paper) for row in rows], np.float64)  # None is NaN
        places = range(len(rows))
        axes.errorbar(places, values[:, 0], yerr=values[:, 1], **ours, label="ours: mean, spread over seeds", zorder=3)
        for place, (mean, spread, _) in enumerate(values):
            if not math.isnan(mean):
                above = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 12}
                axes.annotate(f"{mean:.1f}", (place, mean + spread), (0, 7), **above, color=COLORS[0])
        paper = {"marker": "D", "s": 80, "facecolors": "none", "edgecolors": COLORS[1], "linewidths": 2}
        axes.scatter(places, values[:, 2], **paper, label="the paper, all of UCF101", zorder=2)
        axes.axhline(chance, color=GREY, linestyle="--", linewidth=1.2, label=f"chance here, {chance:.0f} %")
        axes.set_xticks(places, [row.name for row in rows])
        axes.set_xlim(-0.6, len(rows) - 0.4)
        axes.set_ylim(bottom=0)
        style_axes(axes, x=factor, y="clip accuracy, %")
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=12, columnspacing=1.5)
