"""Charts of runs: loss, accuracy, learning rate, clips a second and the wait for them, each with its numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from res3d_video.tools.figures.runs import Curve, running_mean
from res3d_video.tools.pages.charts import Chart
from res3d_video.tools.pages.page import Markup, Number, table
from res3d_video.tools.pages.run.axes import finish, mark_drops, mark_level, top_of
from res3d_video.tools.pages.run.boxes import by_run
from res3d_video.tools.pages.run.facts import Run
from res3d_video.tools.pages.run.looks import drawn
from res3d_video.tools.pages.run.thinning import evenly, thin

SIZE = (380, 270)
TABLE_ROWS = 20


def smoothing_window(run: Run) -> int:
    """Steps over which a run's curves are averaged: a fiftieth of what it has."""
    return max(1, run.step // 50)


def loss_chart(runs: Sequence[Run]) -> Markup:
    """Training loss, smoothed over its faint raw curve."""
    return smoothed_chart(runs, "loss", name="loss", title="Training loss", label="loss", write="{:.3f}".format)


def speed_chart(runs: Sequence[Run]) -> Markup:
    """Clips trained on in a second, without the first line."""
    return smoothed_chart(
        runs,
        "clips_per_s",
        name="speed",
        title="Clips per second",
        label="clips/s",
        write="{:,.1f}".format,
        first=1,
    )


def wait_chart(runs: Sequence[Run], *, most: float) -> Markup:
    """Share of the time that training waited for clips, without the first line.

    Args:
        most: The share that is right.
    """
    return smoothed_chart(
        runs,
        "data_wait",
        name="wait",
        title="Waiting for clips",
        label="share of the time, %",
        write="{:.2f} %".format,
        factor=100,
        first=1,
        level=100 * most,
        level_text=f"at most {100 * most:.0f} % is right",
    )


def smoothed_chart(
    runs: Sequence[Run],
    number: str,
    *,
    name: str,
    title: str,
    label: str,
    write: Callable[[float], str],
    factor: float = 1,
    first: int = 0,
    level: float | None = None,
    level_text: str = "",
) -> Markup:
    """A number of the training lines over steps: as logged, faint, and its mean over the last steps.

    Args:
        first: Place of the first line that is shown; 1 leaves out the one in which everything starts.
        level, level_text: A dotted line across, and what it means.
        factor: By which values are multiplied.
        write: A value for people.
    """
    curves = {run.name: _shown(run.curve(number), factor, first) for run in runs}
    windows = {run.name: smoothing_window(run) for run in runs}
    means = {run: running_mean(curve, window=windows[run]) for run, curve in curves.items()}
    highest = 0.0
    with Chart(name, title=title, size=SIZE) as chart:
        axes = chart.axes
        for run, look in drawn(runs):
            raw, mean = thin(curves[run.name]), thin(means[run.name])
            if not len(raw.steps):
                continue
            axes.plot(raw.steps, raw.values, color=look.color, alpha=0.25, linewidth=0.7, zorder=1)
            axes.plot(mean.steps, mean.values, color=look.color, linestyle=look.dashes, linewidth=2, zorder=3)
            highest = max(highest, top_of(curves[run.name].values, mean.values))
        if level is not None:
            mark_level(axes, level, level_text)
            highest = max(highest, 1.25 * level)
        mark_drops(axes, runs)
        finish(axes, runs, label=label, highest=highest)
    text = "; ".join(_from_to(run, means[run.name], write) for run, _ in drawn(runs))
    is_smooth = any(is_other(means[run], curve) for run, curve in curves.items())
    steps = f"{max(windows.values()):,} steps" if len(set(windows.values())) == 1 else "a fiftieth of each run"
    raw_text = f"Faint: as logged; strong: mean of {steps}." if is_smooth else "As logged."
    raw_text += " A few values are higher than the chart." if _is_cut(curves.values(), highest) else ""
    return chart.html(
        text=text + ".",
        caption=raw_text,
        numbers=numbers(
            runs, means, label=label, write=write, caption=f"{title}, mean of {steps}" if is_smooth else title
        ),
    )


def accuracy_chart(runs: Sequence[Run]) -> Markup:
    """clip@1 of every evaluation, with the level of guessing."""
    highest = 0.0
    with Chart("accuracy", title="Test accuracy", size=SIZE) as chart:
        axes = chart.axes
        for run, look in drawn(runs):
            curve = thin(run.accuracy)
            if not len(curve.steps):
                continue
            axes.plot(
                curve.steps, 100 * curve.values, color=look.color, linestyle=look.dashes, linewidth=1.8,
                marker=look.marker, markersize=6 if len(curve.steps) < 50 else 0, zorder=3,
            )  # fmt: skip
            highest = max(highest, 100 * float(curve.values.max()))
        for place, chance in enumerate(sorted(chances(runs))[:3]):
            mark_level(axes, 100 * chance, f"chance {100 * chance:.1f} %", place=place)
        mark_drops(axes, runs)
        finish(axes, runs, label="clip@1 on the test side, %", highest=min(105.0, 1.05 * highest))
    curves = {run.name: _shown(run.accuracy, 100) for run in runs}
    best = [f"{run.name} is best at step {run.best[1]:,} with {100 * run.best[0]:.1f} %" for run in runs if run.best]
    few = any(len(run.accuracy.steps) == 1 for run in runs)
    return chart.html(
        text="; ".join(best) + ".",
        caption="One centre clip a video." + (" A lone point: evaluated at the end only." if few else ""),
        numbers=numbers(runs, curves, label="clip@1", write="{:.1f} %".format, caption="clip@1 of the evaluations"),
    )


def rate_chart(runs: Sequence[Run]) -> Markup:
    """The learning rate of every step, on a logarithmic axis."""
    curves = {run.name: run.curve("lr") for run in runs}
    positive = [v for curve in curves.values() for v in curve.values.tolist() if v > 0]
    with Chart("rate", title="Learning rate", size=SIZE) as chart:
        axes = chart.axes
        for run, look in drawn(runs):
            curve = thin(curves[run.name])
            shape = "steps-pre" if run.drops else "default"
            axes.plot(
                curve.steps, curve.values, color=look.color, linestyle=look.dashes, linewidth=1.8, drawstyle=shape
            )
        axes.set_yscale("log")
        if positive:  # the last steps of a cosine would take the whole chart
            axes.set_ylim(max(min(positive), max(positive) / 1e4) / 1.5, max(positive) * 1.5)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        finish(axes, runs, label="learning rate", highest=None)
    text = "; ".join(_from_to(run, curves[run.name], "{:.3g}".format) for run, _ in drawn(runs))
    return chart.html(
        text=text + ".",
        caption="As logged, on a logarithmic axis; rates below a ten-thousandth of the highest are not shown.",
        numbers=numbers(runs, curves, label="rate", write="{:.3g}".format, caption="Learning rate"),
    )


def chances(runs: Sequence[Run]) -> set[float]:
    """Accuracies of guessing."""
    return {line["chance"] for run, _ in drawn(runs) for line in run.tests if "chance" in line}


def numbers(
    runs: Sequence[Run], curves: dict[str, Curve], *, label: str, write: Callable[[float], str], caption: str
) -> Markup:
    """Some points of the curves as a table: a row a step and a column a run; of many runs a row a run."""
    steps = sorted({int(step) for curve in curves.values() for step in curve.steps})
    steps = [steps[place] for place in evenly(len(steps), most=TABLE_ROWS)]
    found = {
        run.name: dict(zip(curves[run.name].steps.tolist(), curves[run.name].values.tolist(), strict=True))
        for run in runs
    }

    def cell(run: Run, step: int) -> Number:
        value = found[run.name].get(step)
        return Number(-1, "–") if value is None else Number(value, write(value))

    if len(runs) > 4:
        steps = [steps[place] for place in evenly(len(steps), most=8)]
        rows = [[run.name, *(cell(run, step) for step in steps)] for run in runs]
        return table(["run", *(f"step {step:,}" for step in steps)], rows, caption=caption)
    rows = [[Number(step, f"{step:,}"), *(cell(run, step) for run in runs)] for step in steps]
    names = [label] if len(runs) == 1 else [run.name for run in runs]
    return by_run(table(["step", *names], rows, caption=caption))


def is_other(mean: Curve, curve: Curve) -> bool:
    """Whether a mean is not the curve itself; sums leave a rounding error."""
    return not np.allclose(mean.values, curve.values, rtol=1e-6)


def _shown(curve: Curve, factor: float, first: int = 0) -> Curve:
    """Times a factor, from a place on where there is more than that."""
    first = first if len(curve.steps) > first else 0
    return Curve(curve.steps[first:], curve.values[first:] * factor)


def _from_to(run: Run, curve: Curve, write: Callable[[float], str]) -> str:
    if not len(curve.steps):
        return f"{run.name} has no values"
    first, last = float(curve.values[0]), float(curve.values[-1])
    lowest, highest = float(curve.values.min()), float(curve.values.max())
    return (
        f"{run.name} goes from {write(first)} at step {curve.steps[0]:,} to {write(last)} at step "
        f"{curve.steps[-1]:,}, between {write(lowest)} and {write(highest)}"
    )


def _is_cut(curves: Any, highest: float) -> bool:
    return any(bool((curve.values > highest).any()) for curve in curves)
