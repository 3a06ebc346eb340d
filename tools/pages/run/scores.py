"""What an evaluation left in a run folder, scores.json: which classes are taken for which, and the surest mistakes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from res3d_video.pipeline.typed_json import Count, Real, SchemaError, Share, Size, Text, read_json
from res3d_video.train.evaluation.confusion import SCORES, class_accuracy

__all__ = ["SCORES", "Mistake", "Scores", "read_scores", "surest_mistakes"]


class ScoredVideo(TypedDict):
    """A prediction in scores.json."""

    key: Text
    source: NotRequired[Text]
    label: Text
    labels: NotRequired[list[Text]]
    predicted: Text
    top5: dict[Text, Real]


class Evaluation(TypedDict, total=False):
    """What is said of all videos together."""

    step: Count
    data: Text
    split: Text
    subset: Text
    clip_at_1: Share
    video_at_1: Share
    video_at_5: Share | None
    chance: Share


class ScoresFile(Evaluation):
    """What is read of scores.json."""

    class_accuracy: dict[Text, Share | None]
    confusion: list[list[Size]]
    predictions: list[ScoredVideo]


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
    predictions: list[ScoredVideo]

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
        SchemaError: There is no such file, or it is damaged, or of another program; in one line.
    """
    what, way_out = "what tools/evaluate.py writes", "evaluate again"
    found = read_json(path, ScoresFile, what=what, way_out=way_out)
    classes, rows = list(found["class_accuracy"]), found["confusion"]
    if not classes or {len(rows), *map(len, rows)} != {len(classes)}:
        raise SchemaError(f"{path}: not {what} (confusion is no square of {len(classes)} classes); {way_out}")
    about = {name: value for name, value in found.items() if name in Evaluation.__annotations__}
    return Scores(about, classes, np.array(rows, np.int64), found["predictions"])


def surest_mistakes(scores: Scores) -> list[Mistake]:
    """Videos taken for a wrong class, the most confident mistake first; among equals by key.

    Of a video with several labels any of them is right.
    """
    found = []
    for one in scores.predictions:
        right = one.get("labels", [one["label"]])
        if one["predicted"] in right:
            continue
        top = one["top5"]
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
