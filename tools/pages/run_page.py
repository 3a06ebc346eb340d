"""The HTML page of one or several runs: learning curves, speed, confused classes, mistakes, settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from res3d_video.pipeline.clip import frame_indices, uniform_starts
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardError, ShardIndex, open_index
from res3d_video.pipeline.plan import stored_clip
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.pipeline.typed_json import Count, Real, SchemaError, Share, Size, Text, read_json
from res3d_video.tools.pages.markup import Clip, Line, flatten, line_chart, render, video_of
from res3d_video.tools.run_reader import Curve, Run, differing, running_mean
from res3d_video.train.config import TrainConfig, to_dict
from res3d_video.train.evaluation import SCORES, class_rows, precision_rows
from res3d_video.train.terminal import Report

MAX_DRAWN = 12  # runs, or ranks of a run, in a chart; the tables have all runs
MAX_CLIPS = 96  # clips of mistakes on a page
MAX_MISTAKES = 40  # rows in the table of a run
MAX_IN_MATRIX = 24  # classes


class ScoredVideo(TypedDict):
    """A prediction in scores.json."""

    key: Text
    source: NotRequired[Text]
    label: Text
    labels: NotRequired[list[Text]]
    predicted: Text
    top5: dict[Text, Real]


class Evaluation(TypedDict, total=False):
    """The values in scores.json of all videos together."""

    step: Count
    data: Text
    split: Text
    subset: Text
    clip_at_1: Share
    video_at_1: Share
    video_at_5: Share | None
    chance: Share


class Scores(Evaluation):
    """The values that are read of scores.json."""

    class_accuracy: dict[Text, Share | None]
    class_ap: NotRequired[dict[Text, Share | None] | None]
    confusion: list[list[Size]]
    predictions: list[ScoredVideo]


def run_page(runs: list[Run], *, data: Sequence[ShardIndex] = (), num_mistakes: int = 12, report: Report) -> str:
    """The page of runs.

    Args:
        data: Shards in which to look for clips, before the place in a run's config.json.
        num_mistakes: Most clips of mistakes per run.

    Raises:
        OSError: A file cannot be read.
    """
    scored = []
    for run in runs:
        try:
            if (run.folder / SCORES).exists():
                scores = read_scores(run.folder / SCORES)
                run.evaluation.update(
                    {name: value for name, value in scores.items() if name in Evaluation.__annotations__}
                )
                scored.append((run, scores))
        except UserError as error:
            run.problems.append(str(error))
    results = []
    for done, (run, scores) in enumerate(scored):
        report(done, len(scored), "mistakes")
        results.append(result_of(run, scores, data, num_clips=min(num_mistakes, MAX_CLIPS // len(scored))))
    report(len(scored), len(scored))
    settings = {run.name: settings_of(run) for run in runs}
    return render(
        "run_page",
        runs=runs,
        charts=charts(runs[:MAX_DRAWN]),
        ranks=[ranks for run in runs[:MAX_DRAWN] if (ranks := ranks_of(run)) is not None],
        max_drawn=MAX_DRAWN,
        results=results,
        settings=settings,
        names_of_settings=list(dict.fromkeys(name for one in settings.values() for name in one)),
        differ=differing(list(settings.values())),
    )


# Curves


def charts(runs: Sequence[Run]) -> list[str]:
    """Charts of loss, accuracy, learning rate and speed, with a line per run."""
    accuracies = [Line(run.name, scaled(run.accuracy, 100), place) for place, run in enumerate(runs)]
    rates = [Line(run.name, run.curve("lr"), place) for place, run in enumerate(runs)]
    chances = {run.last_test["chance"] for run in runs if "chance" in run.last_test}
    level = 100 * chances.pop() if len(chances) == 1 else None
    found = [
        line_chart("Training loss", smoothed(runs, "loss"), write="{:.3f}".format, caption="faint: as logged"),
        line_chart("Test accuracy, clip@1, %", accuracies, write="{:.1f} %".format, level=level,
                   caption="" if level is None else f"dotted: chance, {level:.3g} %"),
        line_chart("Learning rate", rates, write="{:.3g}".format),
        line_chart("Clips per second", smoothed(runs, "clips_per_s"), write="{:,.1f}".format),
        line_chart("Waiting for data, % of the time", smoothed(runs, "data_wait", factor=100), write="{:.2f} %".format),
    ]  # fmt: skip
    return [chart for chart in found if chart]


class RankCharts(NamedTuple):
    """Charts of the processes of a run, with the ranks that are drawn in them."""

    run: Run
    drawn: list[int]
    num_ranks: int
    charts: list[str]


def ranks_of(run: Run) -> RankCharts | None:
    """Charts of each rank's own time per step and its data wait; of many ranks, the slowest. None for one process."""
    own_s, waits = run.rank_curves("own_step_s"), run.rank_curves("data_wait")
    if not own_s or len(own_s) != len(waits):
        return None
    means_s = [curve.values[len(curve.values) > 1 :].mean() for curve in own_s]  # the first includes the start-up
    drawn = sorted(np.argsort(means_s)[-MAX_DRAWN:].tolist())
    steps, shares = (
        [Line(f"rank {rank}", scaled(curves[rank], factor), place) for place, rank in enumerate(drawn)]
        for curves, factor in ((own_s, 1), (waits, 100))
    )
    return RankCharts(run, drawn, len(own_s), [
        line_chart("Own time for a step by rank, s", steps, write="{:.3g} s".format,
                   caption="without waiting for other ranks"),
        line_chart("Waiting for data by rank, % of the time", shares, write="{:.2f} %".format),
    ])  # fmt: skip


def smoothed(runs: Sequence[Run], name: str, *, factor: float = 1) -> list[Line]:
    """A value of the training lines of each run: as logged, and its mean over a fiftieth of the run."""
    lines = []
    for place, run in enumerate(runs):
        curve = scaled(run.curve(name), factor)
        mean = running_mean(curve, window=max(1, run.step // 50))
        lines += [Line(run.name, curve, place, is_faint=True), Line(run.name, mean, place)]
    return lines


def scaled(curve: Curve, factor: float) -> Curve:
    """A curve with its values multiplied by a factor."""
    return Curve(curve.steps, curve.values * factor)


# Evaluations


def read_scores(path: Path) -> Scores:
    """Read scores.json, as tools/evaluate.py writes it.

    Raises:
        SchemaError: The file is missing, damaged, or of another program.
    """
    what, way_out = "what tools/evaluate.py writes", "evaluate again"
    scores = read_json(path, Scores, what=what, way_out=way_out)
    num_classes, rows = len(scores["class_accuracy"]), scores["confusion"]
    if not num_classes or {len(rows), *map(len, rows)} != {num_classes}:
        raise SchemaError(f"{path}: not {what} (confusion must have {num_classes} rows and columns); {way_out}")
    return scores


class Result(NamedTuple):
    """The evaluation of a run, as the page shows it.

    Attributes:
        classes: Rows of a table, as from `class_rows`.
        precisions: Rows of `precision_rows`, of videos with several labels; in place of classes and matrix.
        matrix: Names of classes, and counts by class (row) and predicted class (column), int [C, C].
        mistakes: Rows of a table: video, class, predicted class, its probability; the most confident first.
        clips: Clips of the first mistakes.
        remark: A sentence on the shards; "" if they are those of the run.
    """

    run: Run
    num_videos: int
    num_wrong: int
    classes: list[tuple[str, int, float, str | None]]
    precisions: list[tuple[str, int, float]]
    matrix: tuple[list[str], list[list[int]]]
    mistakes: list[tuple[str, str, str, float]]
    clips: list[Clip]
    remark: str


def result_of(run: Run, scores: Scores, data: Sequence[ShardIndex], *, num_clips: int) -> Result:
    """Prepare the evaluation of a run for the page."""
    names, confusion = list(scores["class_accuracy"]), np.array(scores["confusion"], np.int64)
    wrong = confusion - np.diag(confusion.diagonal())
    num_seen, num_wrong_of = confusion.sum(axis=0) + confusion.sum(axis=1), wrong.sum(axis=0) + wrong.sum(axis=1)
    shown = np.sort(np.lexsort((-num_wrong_of, num_seen == 0))[:MAX_IN_MATRIX])
    shown = shown[num_seen[shown] > 0]
    mistakes, clips, remark = mistakes_of(scores), list[Clip](), ""
    if mistakes and num_clips and run.config is not None:
        index, remark = shards_of(run, data)
        clips = mistake_clips(index, mistakes[:num_clips], run.config) if index is not None else []
    return Result(
        run=run,
        num_videos=int(confusion.sum()),
        num_wrong=len(mistakes),
        classes=class_rows(names, confusion),
        precisions=precision_rows(scores.get("class_ap") or {}, scores["predictions"]),
        matrix=([names[k] for k in shown], confusion[np.ix_(shown, shown)].tolist()),
        mistakes=[
            (video.get("source", video["key"]), video["label"], video["predicted"], confidence(video))
            for video in mistakes[:MAX_MISTAKES]
        ],
        clips=clips,
        remark=remark,
    )


def mistakes_of(scores: Scores) -> list[ScoredVideo]:
    """Videos with a wrong predicted class, the most confident first; if a video has several labels, any is right."""
    wrong = [
        video for video in scores["predictions"] if video["predicted"] not in video.get("labels", [video["label"]])
    ]
    return sorted(wrong, key=lambda video: (-confidence(video), video["key"]))


def confidence(video: ScoredVideo) -> float:
    """Probability of the predicted class, 0 to 1."""
    return video["top5"].get(video["predicted"], 0.0)


def shards_of(run: Run, given: Sequence[ShardIndex]) -> tuple[ShardIndex | None, str]:
    """The shards of a run: one of those given, or from the place in its config.json.

    Returns:
        The index, or None if it is not found; and a sentence on what is wrong with it, or "".
    """
    about = run.about.get("data", {})
    alike = [index for index in given if index.name == about.get("name")]
    try:
        index = alike[0] if alike else open_index(Path(about["folder"]))
    except (KeyError, ShardError, OSError):
        return None, "The shards of this run are not found; give them with --data to see the clips."
    index = next((one for one in alike if one.fingerprint == about.get("fingerprint")), index)
    is_same = index.fingerprint == about.get("fingerprint")
    return index, "" if is_same else f"The shards have been built anew; a clip of {index.name} may be another."


def mistake_clips(index: ShardIndex, mistakes: Sequence[ScoredVideo], config: TrainConfig) -> list[Clip]:
    """The center clip of each mistake whose video is in the shards."""
    files, spec, clips = FrameFiles(index), stored_clip(config.clip, frame_step=index.frame_step), []
    for video in mistakes:
        rows = np.flatnonzero(index.keys == video["key"].encode(errors="replace"))
        if not len(rows):
            continue
        num_frames = int(index.num_frames[rows[0]])
        start = int(uniform_starts(1, spec, video_frames=num_frames)[0])
        frames = np.unique(frame_indices(start, spec, video_frames=num_frames))
        caption = f"{video['label']}, predicted {video['predicted']}, {100 * confidence(video):.0f} %"
        clips.append(video_of(index, int(rows[0]), frames, files=files, fps=8, caption=caption))
    return clips


def is_to_score(run: Run) -> bool:
    """Whether a run is not being trained, and has a checkpoint newer than its scores."""
    checkpoint, scores = run.folder / "latest.pt", run.folder / SCORES
    if run.is_locked or not checkpoint.exists():
        return False
    return not scores.exists() or scores.stat().st_mtime_ns < checkpoint.stat().st_mtime_ns


# Settings


def settings_of(run: Run) -> dict[str, str]:
    """Everything in config.json; fields that are newer than it have their defaults."""
    about: dict[str, Any] = {**run.about}
    config = to_dict(run.config) if run.config else about.get("config", {})
    others = {name: value for name, value in about.items() if name != "config"}
    return flatten(others | config | {"folder": str(run.folder)})
