"""Learning curves of runs, in one picture: training loss, and clip@1 on the test side."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.bench.chart import picture
from res3d_video.tools.figures.colors import GREY, look_of
from res3d_video.tools.figures.cost import short_count
from res3d_video.tools.figures.runs import BOOKKEEPING, Curve, distinct_names, rate_drops, running_mean, short_name
from res3d_video.tools.run_reader import read_run
from res3d_video.train.config import TrainConfig, differences

WIDTH, PANEL_HEIGHT = 1400, 560  # pixels
LEGEND_CHARACTERS = 150  # in a line
IN_COLUMN = 70  # characters of an entry that leaves room for another beside it
NOTE = {"color": "0.35", "fontsize": 10, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}, "zorder": 2}
Along = Literal["steps", "clips"]


@dataclass(frozen=True)
class RunCurves:
    """A run folder of the trainer.

    Attributes:
        data: Name of the dataset.
        loss: Mean training loss since the line before.
        accuracy: clip@1 on the test side, 0 to 1; may be empty.
        chance: Accuracy of guessing; None where nothing has been evaluated.
    """

    folder: Path
    config: TrainConfig
    data: str
    loss: Curve
    accuracy: Curve
    chance: float | None


def read_curves(folder: Path) -> RunCurves:
    """What is drawn of a run, of one that has ended or still goes on.

    Raises:
        UserError: The folder is not a run's, has no metrics yet, or a file is damaged; in one line.
    """
    run = read_run(folder, name=folder.name)
    loss = run.curve("loss")
    if run.config is None or (run.problems and len(loss.steps)):
        raise UserError(f"{run.problems[0]}; mend the file, or give another folder")
    if not len(loss.steps):
        raise UserError(f"{folder}: no training step in metrics.jsonl yet; wait for --log-every steps")
    chance = run.tests[-1].get("chance") if run.tests else None
    return RunCurves(folder, run.config, run.data, loss, run.accuracy, chance)


def draw_curves(
    path: Path, runs: Sequence[RunCurves], *, title: str, x: Along = "steps", window: int | None = None
) -> None:
    """Write a PNG: the loss on the left, smoothed over its faint raw curve, clip@1 on the right.

    Args:
        x: Optimiser steps, or the clips trained on: steps times the global batch.
        window: Steps over which the loss is averaged; None is a fiftieth of the longest run.

    Raises:
        BenchError: matplotlib is not installed.
        ValueError: There is no run.
    """
    if not runs:
        raise UserError("curves: there is no run; give at least one folder")
    window = window or default_window(runs)
    entries = legend_entries(runs)
    num_columns = 2 if len(entries) > 4 and max(map(len, entries)) <= IN_COLUMN else 1
    num_lines = -(-sum(entry.count("\n") + 1 for entry in entries) // num_columns)
    with picture(path, title, size=(WIDTH, PANEL_HEIGHT + 24 * (num_lines + 1))) as figure:
        left, right = figure.subplots(1, 2)
        handles = draw_losses(left, runs, entries, x=x, window=window)
        draw_accuracies(right, runs, x=x)
        mark_drops([left, right], runs, x=x)
        for axes in (left, right):
            finish(axes, x=x)
        left.set_ylim(0, 1.05 * max(float(run.loss.values.max()) for run in runs))
        right.set_ylim(0, min(100, 110 * max([0.1, *(v for run in runs for v in run.accuracy.values.tolist())])) + 2)
        left.set_ylabel(f"training loss, mean of {window:,} steps (faint: as logged)", fontsize=12)
        right.set_ylabel("clip@1 on the test side, %", fontsize=12)
        look = {"frameon": False, "fontsize": 11, "handlelength": 3.5, "columnspacing": 4}
        figure.legend(handles=handles, loc="outside lower left", ncols=num_columns, **look)


def default_window(runs: Sequence[RunCurves]) -> int:
    """A fiftieth of the longest run so far, steps."""
    return max(1, max(int(run.loss.steps[-1]) for run in runs) // 50)


def legend_entries(runs: Sequence[RunCurves]) -> list[str]:
    """Folder name and what sets the run apart, in lines that fit the picture."""
    entries = []
    for name, text in zip(distinct_names([run.folder for run in runs]), what_differs(runs), strict=True):
        whole = f"{name}:  {text}" if text else name
        entries.append("\n".join(textwrap.wrap(whole, LEGEND_CHARACTERS, subsequent_indent="    ")))
    return entries


def along(run: RunCurves, steps: np.ndarray, *, x: Along) -> np.ndarray:
    """Where steps stand on the horizontal axis."""
    return steps * (run.config.global_batch_size if x == "clips" else 1)


def draw_losses(axes: Any, runs: Sequence[RunCurves], entries: Sequence[str], *, x: Along, window: int) -> list[Any]:
    """Raw and smoothed losses; the smoothed lines, for the legend."""
    handles = []
    for place, (run, entry) in enumerate(zip(runs, entries, strict=True)):
        color, dashes, marker = look_of(place)
        places = along(run, run.loss.steps, x=x)
        axes.plot(places, run.loss.values, color=color, alpha=0.18, linewidth=0.7, zorder=1)
        mean = running_mean(run.loss, window=window).values
        axes.plot(places, mean, color=color, linestyle=dashes, linewidth=2, zorder=3)
        handles += axes.plot([], [], color=color, linestyle=dashes, linewidth=2, marker=marker, label=entry)
    return handles


def draw_accuracies(axes: Any, runs: Sequence[RunCurves], *, x: Along) -> None:
    """clip@1 of every evaluation, and the level of guessing where all runs have the same."""
    for place, run in enumerate(runs):
        color, dashes, marker = look_of(place)
        axes.plot(
            along(run, run.accuracy.steps, x=x), 100 * run.accuracy.values,
            color=color, linestyle=dashes, marker=marker, markersize=6, linewidth=1.6, zorder=3,
        )  # fmt: skip
    chances = {run.chance for run in runs if run.chance is not None}
    for chance in chances if len(chances) <= 2 else ():
        axes.axhline(100 * chance, color=GREY, linestyle=":", linewidth=1.2, zorder=1)
        axes.annotate(
            f"chance {chance:.1%}", (0, 100 * chance), (5, 4), xycoords=("axes fraction", "data"),
            textcoords="offset points", **NOTE,
        )  # fmt: skip
    if not any(len(run.accuracy.steps) for run in runs):
        axes.text(0.5, 0.5, "not evaluated yet", transform=axes.transAxes, ha="center", color="0.35", fontsize=13)


def mark_drops(panels: Sequence[Any], runs: Sequence[RunCurves], *, x: Along) -> None:
    """A dashed line where the learning rate goes down; grey where runs agree, else in the run's colour."""
    by_place: dict[int, list[int]] = {}
    for place, run in enumerate(runs):
        for step in rate_drops(run.config, last_step=int(run.loss.steps[-1])):
            by_place.setdefault(int(along(run, np.array(step), x=x)), []).append(place)
    for where, places in by_place.items():
        alone = len(places) == 1 and len(runs) > 1
        for axes in panels:
            axes.axvline(where, color=look_of(places[0])[0] if alone else GREY, linestyle=(0, (2, 3)), linewidth=1)
    if by_place:
        panels[0].annotate(
            "learning rate steps", (min(by_place), 1), (4, -12), xycoords=("data", "axes fraction"),
            textcoords="offset points", **NOTE,
        )  # fmt: skip


def finish(axes: Any, *, x: Along) -> None:
    """Axes as in the other pictures."""
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
    axes.set_xlabel("clips trained on" if x == "clips" else "step", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def summarise(runs: Sequence[RunCurves], *, window: int) -> list[dict[str, Any]]:
    """For JSON: where each run stands; the loss is the mean of the last `window` steps, accuracies are 0 to 1."""
    names = distinct_names([run.folder for run in runs])
    return [
        {
            "run": str(run.folder),
            "name": name,
            "differs": text,
            "step": int(run.loss.steps[-1]),
            "loss": float(running_mean(run.loss, window=window).values[-1]),
            "clip_at_1": float(run.accuracy.values[-1]) if len(run.accuracy.values) else None,
            "chance": run.chance,
        }
        for run, name, text in zip(runs, names, what_differs(runs), strict=True)
    ]


def what_differs(runs: Sequence[RunCurves]) -> list[str]:
    """For each run the values of the fields in which not all agree, as "lr 0.01, seed 2"; bookkeeping is left out."""
    fields: list[str] = []
    for run in runs[1:]:
        found = differences(runs[0].config, run.config)
        fields += [name for name in found if name not in BOOKKEEPING and name not in fields]
    same_data = len({run.data for run in runs}) == 1
    texts = []
    for run in runs:
        values = [f"{short_name(name)} {value_of(run.config, name)}" for name in fields]
        texts.append(", ".join(values if same_data else [f"data {run.data}", *values]))
    return texts


def value_of(config: TrainConfig, name: str) -> Any:
    """A field by its name in `differences`, such as "optim.lr"."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
