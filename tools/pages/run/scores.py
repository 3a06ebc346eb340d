"""What an evaluation left in a run folder, scores.json: which classes are taken for which, and the surest mistakes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from train.evaluation.confusion import class_accuracy

SCORES = "scores.json"  # as in train.study.runs, whose import would load DALI


@dataclass(frozen=True)
class Mistake:
    """A video that was taken for another class.

    Attributes:
        rank: The network's own order of its guesses: where the true class stands, 2 for the second likeliest; None
            where it is not among those that were written down.
        confidence: Probability of the predicted class, 0 to 1.
        true_confidence: Of the true class; None where it is not known.
    """

    key: str
    source: str
    label: str
    predicted: str
    confidence: float
    true_confidence: float | None
    rank: int | None


@dataclass(frozen=True)
class Scores:
    """An evaluation by tools/evaluate.py.

    Attributes:
        about: Its accuracies, the step and the data's name.
        classes: Names, K.
        confusion: int64 [K, K], videos by class (row) and predicted class (column).
        predictions: One a video, as `VideoScores.predictions` gives them.
    """

    about: dict[str, Any]
    classes: list[str]
    confusion: np.ndarray
    predictions: list[dict[str, Any]]

    @property
    def occurring(self) -> np.ndarray:
        """Classes that have videos or were predicted: int64 [C], rising."""
        return np.flatnonzero(self.confusion.sum(axis=0) + self.confusion.sum(axis=1))

    @property
    def class_accuracy(self) -> np.ndarray:
        """float64 [K], NaN for a class without videos."""
        return class_accuracy(self.confusion)

    @property
    def num_videos(self) -> int:
        return int(self.confusion.sum())

    @property
    def num_right(self) -> int:
        return int(self.confusion.diagonal().sum())

    def taken_for(self, label: int) -> tuple[str, int] | None:
        """The class that a class is most often taken for, and how often; None where all is right."""
        counts = self.confusion[label].copy()
        counts[label] = 0
        return (self.classes[int(counts.argmax())], int(counts.max())) if counts.any() else None

    def pairs(self) -> list[tuple[str, str, int]]:
        """Class, what it was taken for, how many videos: the most frequent first."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        rows, columns = np.nonzero(wrong)
        found = [
            (self.classes[row], self.classes[column], int(wrong[row, column]))
            for row, column in zip(rows, columns, strict=True)
        ]
        return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))


def read_scores(path: Path) -> Scores:
    """What tools/evaluate.py wrote with --json.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is damaged, or of another program; in one line.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        classes, confusion = list(found["class_accuracy"]), np.array(found["confusion"], np.int64)
        if confusion.shape != (len(classes), len(classes)):
            raise ValueError(f"{len(classes)} classes, a confusion matrix of {'×'.join(map(str, confusion.shape))}")
        predictions = [one for one in found["predictions"] if {"key", "label", "predicted", "top5"} <= set(one)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what tools/evaluate.py writes ({error!r:.80}); evaluate again") from None
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float | str)}
    return Scores(numbers, classes, confusion, predictions)


def surest_mistakes(scores: Scores) -> list[Mistake]:
    """Videos taken for a wrong class, the most confident mistake first; among equals by key.

    Of a video with several labels any of them is right.
    """
    found = []
    for one in scores.predictions:
        right = one.get("labels", [one["label"]])
        if one["predicted"] in right:
            continue
        top: dict[str, float] = one["top5"]
        order = sorted(top, key=lambda name: -top[name])
        found.append(
            Mistake(
                key=one["key"],
                source=one.get("source", one["key"]),
                label=one["label"],
                predicted=one["predicted"],
                confidence=top.get(one["predicted"], 0.0),
                true_confidence=top.get(one["label"]),
                rank=order.index(one["label"]) + 1 if one["label"] in top else None,
            )
        )
    return sorted(found, key=lambda mistake: (-mistake.confidence, mistake.key))
