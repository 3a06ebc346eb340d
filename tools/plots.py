"""Plots: bars of a benchmark, learning curves of runs, and a table of a study beside the paper's.

All of them write a PNG, and raise BenchError if matplotlib is not installed.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.bench.measure import BenchError, Spread
from res3d_video.tools.run_reader import Run, differing, distinct_names, read_run, running_mean, short_name
from res3d_video.train.config import flat, to_dict

DPI = 100
OURS, PEERS = "#3b6ea5", "#b0a18f"


def draw(path: Path, title: str, ours: Mapping[str, Spread], peers: Mapping[str, Spread]) -> None:
    """Draw the clips/s of each lane and peer as bars, from top to bottom."""
    lanes = {**ours, **peers}
    medians = [rate.median for rate in lanes.values()]
    below_above = [[r.median - r.min for r in lanes.values()], [r.max - r.median for r in lanes.values()]]
    widest = max(rate.max for rate in lanes.values())
    with picture(path, title, size=(1200, 700)) as figure:
        axes = figure.add_subplot()
        colors = [OURS] * len(ours) + [PEERS] * len(peers)
        axes.barh(range(len(lanes)), medians, xerr=below_above, color=colors, capsize=6, height=0.6)
        for place, rate in enumerate(lanes.values()):
            text = f"{rate.median:,.{0 if rate.median >= 100 else 1}f}"
            axes.text(rate.max + 0.012 * widest, place, text, va="center", fontsize=15)
        axes.set_yticks(range(len(lanes)), list(lanes), fontsize=14)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.13 * widest)
        axes.set_xlabel("clips/s: median of the rounds, lowest and highest", fontsize=13)
        axes.tick_params(axis="x", labelsize=12)
        axes.spines[["top", "right"]].set_visible(False)


@contextmanager
def picture(path: Path, title: str, *, size: tuple[int, int]) -> Iterator[Any]:
    """A figure of matplotlib with a title, which is written when the block ends.

    Args:
        size: Width and height, pixels.
    """
    figure_of, canvas_of = load_matplotlib()
    figure = figure_of(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, layout="constrained")
    canvas_of(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=14)
    yield figure
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def load_matplotlib() -> tuple[Any, Any]:
    """Figure and FigureCanvasAgg of matplotlib; the latter needs no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BenchError('matplotlib is not installed; pip install "res3d-video[bench]"') from None
    return Figure, FigureCanvasAgg


# Okabe and Ito (2008), for color-blind readers too: blue, vermilion, green, purple, orange, sky blue, black.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", ":", "-.")
GREY = "#8c8c8c"


def style_axes(axes: Any, *, x: str, y: str) -> None:
    """Labels, and the style of all plots."""
    axes.set_xlabel(x, fontsize=12)
    axes.set_ylabel(y, fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def read_curves(folder: Path) -> Run:
    """Read a run that has a training loss.

    Raises:
        UserError: The folder is not that of a run, has no metrics yet, or a file is damaged.
    """
    run = read_run(folder)
    has_loss = len(run.curve("loss").steps) > 0
    if run.config is None or (run.problems and has_loss):
        raise UserError(f"{run.problems[0]}; repair the file, or give another folder")
    if not has_loss:
        raise UserError(f"{folder}: no training step in metrics.jsonl yet; wait for --log-every steps")
    return run


def draw_curves(path: Path, runs: Sequence[Run]) -> None:
    """Draw the loss on the left, raw and smoothed, and clip@1 on the right.

    Args:
        runs: One or more, from `read_curves`.
    """
    window = max(1, max(int(run.curve("loss").steps[-1]) for run in runs) // 50)
    names = distinct_names([run.folder for run in runs])
    texts = [f"{name}:  {text}" if text else name for name, text in zip(names, what_differs(runs), strict=True)]
    entries = ["\n".join(textwrap.wrap(text, 150, subsequent_indent="    ")) for text in texts]
    num_lines = sum(entry.count("\n") + 1 for entry in entries)
    with picture(path, "Learning curves", size=(1400, 584 + 24 * num_lines)) as figure:
        left, right = figure.subplots(1, 2)
        for place, (run, entry) in enumerate(zip(runs, entries, strict=True)):
            color, dashes = COLORS[place % len(COLORS)], DASHES[place // len(COLORS) % len(DASHES)]
            loss, accuracy = run.curve("loss"), run.accuracy
            smooth = running_mean(loss, window=window).values
            left.plot(loss.steps, loss.values, color=color, alpha=0.18, linewidth=0.7, zorder=1)
            left.plot(loss.steps, smooth, color=color, linestyle=dashes, linewidth=2, label=entry)
            right.plot(accuracy.steps, 100 * accuracy.values, color=color, linestyle=dashes, marker="o", linewidth=1.6)
        for chance in {run.tests[-1]["chance"] for run in runs if run.tests and "chance" in run.tests[-1]}:
            right.axhline(100 * chance, color=GREY, linestyle=":", linewidth=1.2, zorder=0)
        for axes in (left, right):
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
        style_axes(left, x="step", y=f"training loss, mean of {window:,} steps (faint: as logged)")
        style_axes(right, x="step", y="clip@1, % (dotted: chance)")
        look = {"frameon": False, "fontsize": 11, "handlelength": 3.5}
        figure.legend(handles=left.get_legend_handles_labels()[0], loc="outside lower left", **look)


def what_differs(runs: Sequence[Run]) -> list[str]:
    """For each run the settings in which not all agree, such as "lr 0.01, seed 2"."""
    settings = [{"data": run.data} | flat(to_dict(run.config)) for run in runs if run.config]
    names = differing(settings)
    return [", ".join(f"{short_name(name)} {one[name]}" for name in names) for one in settings]


def draw_table(
    path: Path,
    ours: Mapping[str, Sequence[float]],
    paper: Mapping[str, float | None],
    *,
    title: str,
    factor: str,
    chance: float,
) -> None:
    """Draw the accuracies of a table's rows, ours and the paper's.

    Args:
        ours: Name of a row -> accuracy of each of its runs, percent; without rows that have no run.
        paper: Name of every row -> accuracy in the paper, percent, if it is printed there.
        factor: What the rows differ in.
        chance: Accuracy of a random guess among our classes, percent.
    """
    with picture(path, title, size=(max(1000, 200 + 95 * len(paper)), 650)) as figure:
        axes = figure.add_subplot()
        places = [place for place, name in enumerate(paper) if name in ours]
        means = [mean(ours[name]) for name in paper if name in ours]
        spreads = [stdev(ours[name]) if len(ours[name]) > 1 else 0.0 for name in paper if name in ours]
        look = {"color": COLORS[0], "marker": "o", "markersize": 10, "capsize": 7, "linestyle": "none"}
        axes.errorbar(places, means, yerr=spreads, **look, label="ours: mean, spread over seeds", zorder=3)
        above = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 12, "color": COLORS[0]}
        for place, value, spread in zip(places, means, spreads, strict=True):
            axes.annotate(f"{value:.1f}", (place, value + spread), (0, 7), **above)
        printed = np.array([*paper.values()], np.float64)  # None is NaN
        look = {"marker": "D", "s": 80, "facecolors": "none", "edgecolors": COLORS[1], "linewidths": 2}
        axes.scatter(range(len(paper)), printed, **look, label="the paper, all of UCF101", zorder=2)
        axes.axhline(chance, color=GREY, linestyle="--", linewidth=1.2, label=f"chance here, {chance:.0f} %")
        axes.set_xticks(range(len(paper)), [*paper])
        axes.set_xlim(-0.6, len(paper) - 0.4)
        axes.set_ylim(bottom=0)
        style_axes(axes, x=factor, y="clip accuracy, %")
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=12, columnspacing=1.5)
