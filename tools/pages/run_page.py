"""The page of one or several runs: how they learned, how fast, what they confuse, and in what they differ."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from res3d_video.pipeline.clip import ClipSpec, frame_indices, uniform_starts
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.plan import stored_clip
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.tools.figures.filters import as_colors, read_filters, tile
from res3d_video.tools.pages.clips import Clip, read_clip
from res3d_video.tools.pages.markup import Line, Markup, line_chart, plural, render
from res3d_video.tools.pages.run_facts import (
    MAX_PAIRS,
    Mistake,
    Scores,
    checkpoint_files,
    differing,
    facts_of,
    is_to_score,
    machine_of,
    read_scores,
    settings_of,
    shards_of,
    side_by_side,
    small_matrix,
)
from res3d_video.tools.run_reader import BOOKKEEPING, Curve, Run, read_runs, running_mean
from res3d_video.train.evaluation import SCORES
from res3d_video.train.terminal import Report

MAX_DRAWN = 12  # runs in a chart; the tables have all
MAX_CLIPS = 96  # of mistakes, of all runs together
CLIP_BYTES = 60_000  # of a clip's frames
TABLE_MISTAKES = 40

__all__ = ["Gathered", "gather", "read_runs", "run_page", "runs_to_score"]


@dataclass(frozen=True)
class Gathered:
    """Everything that the page is made of.

    Attributes:
        scores: Name of a run -> its evaluation, for those that have one.
        checkpoints: Name of a run -> its checkpoints, as `checkpoint_files` gives them.
    """

    runs: list[Run]
    scores: dict[str, Scores]
    checkpoints: dict[str, list[dict[str, Any]]]

    def facts(self) -> dict[str, Any]:
        """The page for JSON."""
        return {
            "runs": [facts_of(run, self.checkpoints[run.name], self.scores.get(run.name)) for run in self.runs],
            "differ": differing([settings_of(run) for run in self.runs]),
        }


def runs_to_score(
    runs: Sequence[Run], given: Sequence[ShardIndex], *, evaluate: bool | None
) -> list[tuple[Run, ShardIndex]]:
    """Runs that are to be evaluated before the page is made, with the shards that each was trained on.

    Args:
        evaluate: True for all of them; None for those with a new checkpoint and their shards at hand; False for none.

    Raises:
        UserError: `evaluate` is True and the shards of a run are not found.
    """
    found = []
    for run in runs if evaluate is not False else []:
        if evaluate is None and not is_to_score(run):
            continue
        index, remark = shards_of(run, given)
        if index is None and evaluate:
            raise UserError(f"{run.folder}: --evaluate needs the shards; {remark[:1].lower()}{remark[1:].rstrip('.')}")
        if index is not None and (evaluate or not remark):
            found.append((run, index))
    return found


def gather(runs: list[Run]) -> Gathered:
    """Evaluations and checkpoints of runs; what is damaged becomes one of the run's problems."""
    scores = {}
    for run in runs:
        try:
            if (run.folder / SCORES).exists():
                scores[run.name] = read_scores(run.folder / SCORES)
                run.evaluation.update(scores[run.name].about)
        except UserError as error:
            run.problems.append(str(error))
    return Gathered(runs, scores, {run.name: checkpoint_files(run.folder) for run in runs})


def run_page(
    runs: list[Run], *, data: Sequence[ShardIndex] = (), num_mistakes: int = 12, report: Report
) -> tuple[str, dict[str, Any]]:
    """The page of runs, and its facts for JSON.

    Args:
        data: Shards in which clips are looked for, before the place that a run's config.json names.
        num_mistakes: Clips of mistakes of a run, at most.

    Raises:
        OSError: A file cannot be read.
    """
    report(0, 4, "evaluations and checkpoints")
    found = gather(runs)
    report(1, 4, "mistakes")
    mistakes = mistake_values(found, data, most=num_mistakes)
    report(2, 4, "filters")
    filters = [filter_values(run, found.checkpoints[run.name]) for run in runs[:MAX_DRAWN]]
    report(3, 4, "charts")
    settings = [settings_of(run) for run in runs]
    values = {
        "runs": runs,
        "scores": found.scores,
        "checkpoints": found.checkpoints,
        "mistakes": mistakes,
        "filters": filters,
        "differ": [name for name in differing(settings) if name not in BOOKKEEPING | {"preset", "data"}],
        "differing_rows": side_by_side(settings, differing(settings)),
        "setting_rows": side_by_side(settings),
        "machine_rows": side_by_side([machine_of(run) for run in runs]),
        "class_groups": class_groups(found),
        "max_drawn": MAX_DRAWN,
    }
    html = render("run_page", values | chart_values(runs))
    report(4, 4)
    return html, found.facts()


# Curves


def chart_values(runs: Sequence[Run]) -> dict[str, Any]:
    """Curves of runs on the same data and classes together, and of the speed of all."""
    drawn = list(enumerate(runs[:MAX_DRAWN]))
    known = {run.data: count for _, run in drawn if (count := num_classes_of(run))}
    groups: dict[tuple[str, int | None], list[tuple[int, Run]]] = {}
    for place, run in drawn:
        groups.setdefault((run.data, num_classes_of(run) or known.get(run.data)), []).append((place, run))
    return {
        "curve_groups": [
            {
                "name": f"{data or 'unknown data'}" + (f", {plural(count, 'class', 'classes')}" if count else ""),
                "legend": [(run.name, place) for place, run in group if len(runs) > 1],
                "charts": learning_charts(group),
            }
            for (data, count), group in groups.items()
            if any(run.lines for _, run in group)
        ],
        "legend": [(run.name, place) for place, run in drawn if len(runs) > 1],
        "speed_charts": [
            chart
            for chart in (
                line_chart(
                    "Clips per second", smoothed(drawn, "clips_per_s", first=1), unit="", write="{:,.1f}".format
                ),
                line_chart(
                    "Waiting for data",
                    smoothed(drawn, "data_wait", first=1, factor=100),
                    unit="% of the time",
                    write="{:.2f} %".format,
                ),
            )
            if chart
        ],
    }


def num_classes_of(run: Run) -> int | None:
    """Classes of a run's data, by the accuracy of guessing; None before an evaluation."""
    chances = [line["chance"] for line in [run.evaluation, *run.tests] if 1e-7 < line.get("chance", 0) <= 1]
    return round(1 / chances[0]) if chances else None


def learning_charts(group: Sequence[tuple[int, Run]]) -> list[Markup]:
    """Loss, accuracy and learning rate of runs whose numbers may be compared."""
    accuracies = [Line(run.name, scaled(run.accuracy, 100), place) for place, run in group]
    rates = [Line(run.name, run.curve("lr"), place) for place, run in group]
    chance = next((100 / count for _, run in group if (count := num_classes_of(run))), None)
    level = None if chance is None else (chance, f"chance, {chance:.3g} %")
    charts = [
        line_chart(
            "Training loss", smoothed(group, "loss"), unit="", write="{:.3f}".format, caption="faint: as logged"
        ),
        line_chart("Test accuracy, clip@1", accuracies, unit="%", write="{:.1f} %".format, level=level),
        line_chart("Learning rate", rates, unit="", write="{:.3g}".format, is_log=True),
    ]
    return [chart for chart in charts if chart]


def smoothed(group: Sequence[tuple[int, Run]], name: str, *, first: int = 0, factor: float = 1) -> list[Line]:
    """A number of the training lines: as logged, and its mean over a fiftieth of the run.

    Args:
        first: Place of the first line shown; 1 leaves out the one that holds the start of everything.
    """
    lines = []
    for place, run in group:
        curve = scaled(run.curve(name), factor)
        if len(curve.steps) > first:
            curve = Curve(curve.steps[first:], curve.values[first:])
        lines += [
            Line(run.name, curve, place, is_faint=True),
            Line(run.name, running_mean(curve, window=max(1, run.step // 50)), place),
        ]
    return lines


def scaled(curve: Curve, factor: float) -> Curve:
    """A curve with its values times a factor."""
    return Curve(curve.steps, curve.values * factor)


# Classes, mistakes, filters


def class_groups(found: Gathered) -> list[dict[str, Any]]:
    """Accuracy of each class, int and [R] shares, and confusions; of runs with the same classes together."""
    groups: dict[tuple[str, ...], list[tuple[Run, Scores]]] = {}
    for run in found.runs:
        if run.name in found.scores:
            scores = found.scores[run.name]
            groups.setdefault(tuple(scores.classes), []).append((run, scores))
    return [
        {
            "data": group[0][1].about.get("data", group[0][0].data),
            "names": [run.name for run, _ in group[:MAX_DRAWN]],
            "classes": [one for k in range(len(classes)) if (one := class_result(k, [own for _, own in group]))],
            "matrices": [matrix_values(run, scores) for run, scores in group],
        }
        for classes, group in groups.items()
    ]


def class_result(k: int, scored: Sequence[Scores]) -> dict[str, Any] | None:
    """A class in a table: name, videos, accuracy of each run, and what it is confused with; None without videos."""
    num_videos = max(int(scores.confusion[k].sum()) for scores in scored)
    if not num_videos:
        return None
    shares = [float(scores.accuracies[k]) for scores in scored[:MAX_DRAWN]]
    others = [other for scores in scored if (other := scores.confused_with(k))]
    return {
        "name": scored[0].classes[k],
        "num_videos": num_videos,
        "shares": [None if np.isnan(share) else share for share in shares],
        "others": ", ".join(dict.fromkeys(f"{other} ({count})" for other, count in others)) or "nothing",
    }


def matrix_values(run: Run, scores: Scores) -> dict[str, Any]:
    """The confusion matrix of a run, and its most frequent mistakes where the matrix does not name all classes."""
    names, counts, num_others = small_matrix(scores)
    total = int(scores.confusion.sum())
    title = f"Confusion matrix of {run.name}: {total - scores.num_wrong:,} of {plural(total, 'video')} right"
    title += f", step {scores.about['step']:,}" if "step" in scores.about else ""
    title += f", {scores.about['subset']} side" if scores.about.get("subset", "test") != "test" else ""
    pairs = scores.pairs()[:MAX_PAIRS] if num_others else []
    return {"title": title, "names": names, "counts": counts.tolist(), "num_others": num_others, "pairs": pairs}


def mistake_values(found: Gathered, data: Sequence[ShardIndex], *, most: int) -> list[dict[str, Any]]:
    """The most confident mistakes of each run, the first of them as clips."""
    scored = [run for run in found.runs if run.name in found.scores]
    each = min(most, max(1, MAX_CLIPS // max(len(scored), 1)))
    values = []
    for run in scored:
        scores = found.scores[run.name]
        mistakes, clips, remark = scores.mistakes(), list[Clip](), ""
        if mistakes and each and run.config is not None:
            index, remark = shards_of(run, data)
            if index is not None:
                clips = mistake_clips(index, mistakes[:each], run.config.clip, name=run.name)
                if num_absent := len(mistakes[:each]) - len(clips):
                    remark += f" {plural(num_absent, 'clip')} cannot be read from these shards."
        title = f"{run.name}: {scores.num_wrong:,} of {plural(int(scores.confusion.sum()), 'video')} wrong"
        values.append({"title": title, "remark": remark.strip(), "clips": clips, "mistakes": mistakes[:TABLE_MISTAKES]})
    return values


def mistake_clips(index: ShardIndex, mistakes: Sequence[Mistake], spec: ClipSpec, *, name: str) -> list[Clip]:
    """The center clip of each mistake that can be read.

    Args:
        spec: The clips of the run.
        name: Of the run, for those who hear the page.
    """
    keys = np.array([mistake.key.encode() for mistake in mistakes])
    rows = {index.key(int(row)): int(row) for row in np.flatnonzero(np.isin(np.asarray(index.keys), keys))}
    files, stored, clips = FrameFiles(index), stored_clip(spec, frame_step=index.frame_step), []
    for place, one in enumerate(mistakes, start=1):
        if one.key not in rows:
            continue
        row = rows[one.key]
        num_frames = int(index.num_frames[row])
        start = int(uniform_starts(1, stored, video_frames=num_frames)[0])
        frames = frame_indices(start, stored, video_frames=num_frames)
        caption = f"{one.label}, predicted {one.predicted}, {100 * one.confidence:.0f} %"
        clip = read_clip(
            index,
            row,
            files=files,
            max_bytes=CLIP_BYTES,
            name=f"mistake {place} of {name}, {one.key}",
            caption=caption,
            play_fps=8,
            frames=frames,
        )
        clips += [] if clip.fault else [clip]
    return clips


def filter_values(run: Run, files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first convolution of a run's newest readable checkpoint as an image, or why there is none."""
    newest = max((file for file in files if not file["error"]), key=lambda file: file["step"], default=None)
    if newest is None:
        return {"image": None, "caption": f"{run.name}: there is no checkpoint that can be read."}
    try:
        filters = read_filters(run.folder / newest["name"])
    except UserError as error:
        return {"image": None, "caption": str(error)}
    count, _, *size = filters.weight.shape
    caption = f"{run.name}: {count} filters of {'×'.join(map(str, size))}, step {filters.step:,}"
    return {"image": filter_image(filters.weight), "caption": caption}


def filter_image(weight: np.ndarray) -> bytes:
    """Filters [K, 3, T, H, W] as a PNG, the slices of each side by side."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(tile(as_colors(weight), columns=max(1, 18 // weight.shape[2]), scale=6)).save(
        file, format="PNG", optimize=True
    )
    return file.getvalue()
