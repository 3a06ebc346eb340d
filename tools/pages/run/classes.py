"""Accuracy of each class, and which classes are taken for which, of runs on the same data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from res3d_video.tools.pages.page import Markup, Number, escape, render, table
from res3d_video.tools.pages.run.boxes import by_run
from res3d_video.tools.pages.run.facts import Run
from res3d_video.tools.pages.run.scores import Scores

MOST_IN_MATRIX = 24  # classes; more are put together
MOST_PAIRS = 20
OTHERS = "all others"


class Share(Number):
    """A share, 0 to 1, drawn as a bar behind its per cent."""

    def __html__(self) -> str:
        percent = f"{100 * self.value:.1f}"
        return f'<span class="bar" style="--share: {percent}%">{escape(self.text)}</span>'


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix small enough to be read.

    Attributes:
        names: C, the last may stand for all classes that are not named.
        counts: int64 [C, C], videos by class (row) and predicted class (column).
        num_left: Classes put together as the last one.
    """

    names: list[str]
    counts: np.ndarray
    num_left: int

    def shares(self) -> np.ndarray:
        """float64 [C, C], each row's sum is 1, or 0 for a class without videos."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)


def matrix_of(scores: Scores, *, most: int = MOST_IN_MATRIX) -> Matrix:
    """The classes that occur; of more than `most` those with the most mistakes, the rest put together."""
    shown = scores.occurring
    if len(shown) <= most:
        return Matrix([scores.classes[k] for k in shown], scores.confusion[np.ix_(shown, shown)], 0)
    wrong = scores.confusion.sum(axis=1) + scores.confusion.sum(axis=0) - 2 * scores.confusion.diagonal()
    kept = np.sort(shown[np.argsort(-wrong[shown], kind="stable")[: most - 1]])
    rest = np.setdiff1d(shown, kept)
    inner = scores.confusion[np.ix_(kept, kept)]
    right = scores.confusion[np.ix_(kept, rest)].sum(axis=1, keepdims=True)
    below = scores.confusion[np.ix_(rest, kept)].sum(axis=0, keepdims=True)
    corner = scores.confusion[np.ix_(rest, rest)].sum(keepdims=True).reshape(1, 1)
    counts = np.block([[inner, right], [below, corner]])
    return Matrix([*(scores.classes[k] for k in kept), OTHERS], counts, len(rest))


def matrix_html(matrix: Matrix, *, caption: str) -> Markup:
    """The matrix as a table, cells shaded by their share of the row: blue what is right, orange what is not."""
    rows = [
        (name, list(zip(counts, shares, strict=True)))
        for name, counts, shares in zip(matrix.names, matrix.counts.tolist(), matrix.shares().tolist(), strict=True)
    ]
    return render("confusion.html", names=matrix.names, rows=rows, caption=caption)


def class_table(scored: Sequence[tuple[Run, Scores]]) -> Markup:
    """A row a class, a column a run, and what the class is most often taken for; runs on the same data.

    Raises:
        ValueError: Their classes differ.
    """
    classes = scored[0][1].classes
    if any(scores.classes != classes for _, scores in scored):
        raise ValueError("class_table: the runs have other classes; make a table for each")
    accuracies = [scores.class_accuracy for _, scores in scored]
    rows: list[list[object]] = []
    for k, name in enumerate(classes):
        num_videos = max(int(scores.confusion[k].sum()) for _, scores in scored)
        if not num_videos:
            continue
        shares: list[object] = [
            Number(-1, "–") if np.isnan(accuracy[k]) else Share(float(accuracy[k]), f"{100 * accuracy[k]:.1f} %")
            for accuracy in accuracies
        ]
        row: list[object] = [name, num_videos, *shares]
        if len(scored) > 1:
            known = [float(accuracy[k]) for accuracy in accuracies if not np.isnan(accuracy[k])]
            spread = max(known) - min(known) if len(known) > 1 else None
            row.append(Number(-1, "–") if spread is None else Number(spread, f"{100 * spread:.1f}"))
        taken = [taken for _, scores in scored if (taken := scores.taken_for(k))]
        row.append(", ".join(dict.fromkeys(f"{other} ({count})" for other, count in taken)) or "never mistaken")
        rows.append(row)
    names = ["video@1"] if len(scored) == 1 else [*(run.name for run, _ in scored), "spread, points"]
    columns = ["class", "videos", *names, "most often taken for"]
    caption = "video@1 of each class; a click on a heading sorts"
    return by_run(table(columns, rows, caption=caption, is_sorted_by_click=True))


def pair_table(scores: Scores) -> Markup:
    """The pairs of classes that are mistaken most often."""
    rows = [[label, predicted, count] for label, predicted, count in scores.pairs()[:MOST_PAIRS]]
    return table(["class", "taken for", "videos"], rows, caption="Most frequent mistakes")
