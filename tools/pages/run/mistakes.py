"""The sections that an evaluation fills: classes, what they are taken for, and the surest mistakes."""

from collections.abc import Sequence
from typing import Any

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.pages.page import Markup, Section, render
from res3d_video.tools.pages.run.boxes import folded, joined, note
from res3d_video.tools.pages.run.classes import class_table, matrix_html, matrix_of, pair_table
from res3d_video.tools.pages.run.clips import FPS, mistake_players, mistake_table, shards_of
from res3d_video.tools.pages.run.facts import Run
from res3d_video.tools.pages.run.looks import MOST_DRAWN
from res3d_video.tools.pages.run.scores import SCORES, Scores, surest_mistakes

MOST_CLIPS = 96  # on a page, of all runs together
TABLE_MISTAKES = 40
FACT_MISTAKES = 12


def classes(runs: Sequence[Run], scores: dict[str, Scores]) -> Section:
    """Accuracy of each class, and what it is taken for."""
    lead = "video@1 of each class, and the classes it is taken for; from tools/evaluate.py."
    if not scores:
        return Section("classes", "Classes", lead, evaluate_hint(runs))
    body = []
    groups: dict[tuple[str, ...], list[tuple[Run, Scores]]] = {}
    for run in runs:
        if run.name in scores:
            groups.setdefault(tuple(scores[run.name].classes), []).append((run, scores[run.name]))
    for group in groups.values():
        if len(groups) > 1:
            body.append(Markup("<h3>{}</h3>").format(str(group[0][1].about.get("data", group[0][0].data))))
        body.append(Markup('<div class="tall">{}</div>').format(class_table(group[:MOST_DRAWN])))
        for place, (run, scored) in enumerate(group):
            body.append(confusion(run, scored, is_open=place == 0 and len(groups) < 3))
    missing = [run for run in runs if run.name not in scores]
    return Section("classes", "Classes", lead, joined([*body, evaluate_hint(missing)]))


def confusion(run: Run, scores: Scores, *, is_open: bool) -> Markup:
    """The confusion matrix of a run, to be unfolded."""
    matrix = matrix_of(scores)
    caption = f"{run.name}: videos by class, and what they are taken for"
    if matrix.num_left:
        caption += f"; the classes with the most mistakes, the other {matrix.num_left} put together"
    told = f"{run.name}, confusion matrix: {scores.num_right:,} of {scores.num_videos:,} videos right"
    if (step := scores.about.get("step")) is not None:
        told += f", step {step:,}"
    if (subset := scores.about.get("subset", "test")) != "test":
        told += f", {subset} side"
    return folded(
        told,
        joined([matrix_html(matrix, caption=caption), *([pair_table(scores)] if matrix.num_left else [])]),
        is_open=is_open,
    )


def evaluate_hint(runs: Sequence[Run]) -> Markup:
    """How to get what is missing; nothing where nothing is."""
    if not runs:
        return Markup("")
    folder = runs[0].folder
    command = f"python tools/evaluate.py --checkpoint {folder / 'latest.pt'} --data SHARDS --json {folder / SCORES}"
    return render("evaluate_hint.html", names=[run.name for run in runs], command=command)


def mistakes(runs: Sequence[Run], scores: dict[str, Scores], data: Sequence[ShardIndex], *, most: int) -> Section:
    """The most confident mistakes as clips, and in a table."""
    scored = [run for run in runs if run.name in scores]
    lead = (
        f"Videos that the network was surest of and wrong about: the frames of the centre clip, {FPS} a second; the "
        "bar shows where in the video they lie."
    )
    if not scored:
        return Section("mistakes", "Mistakes", lead, note("They need the same evaluation as the classes above."))
    each = min(most, max(1, MOST_CLIPS // min(len(scored), MOST_DRAWN)))
    body = []
    for place, run in enumerate(scored):
        found = surest_mistakes(scores[run.name])
        inner = mistakes_of(run, scores[run.name], data, most=each if place < MOST_DRAWN else 0)
        told = f"{run.name}: {len(found):,} of {scores[run.name].num_videos:,} videos wrong"
        body.append(inner if len(scored) == 1 else folded(told, inner, is_open=place == 0))
    return Section("mistakes", "Mistakes", lead, joined(body))


def mistakes_of(run: Run, scores: Scores, data: Sequence[ShardIndex], *, most: int) -> Markup:
    """The mistakes of one run."""
    found = surest_mistakes(scores)
    if not found:
        return note(f"{run.name}: every video is right.")
    players, remark = [], ""
    if most and run.config is not None:
        index, remark = shards_of(run, data)
        if index is not None:
            players = mistake_players(index, found[:most], run.config.clip, name=run.name)
            if len(players) < len(found[:most]):
                remark += f" {len(found[:most]) - len(players)} of the clips cannot be read from these shards."
    words = mistake_table(found[:TABLE_MISTAKES])
    body = [note(remark.strip())] if remark else []
    body += (
        [joined(players, box="gallery"), folded(f"The surest mistakes of {run.name} as a table", words)]
        if players
        else [words]
    )
    return joined(body)


def mistake_facts(scores: Scores | None) -> list[dict[str, Any]] | None:
    """The surest mistakes for JSON; None without an evaluation."""
    if scores is None:
        return None
    names = ("key", "label", "predicted", "confidence")
    return [{name: getattr(one, name) for name in names} for one in surest_mistakes(scores)[:FACT_MISTAKES]]
