"""Scoring trained models; here the confusion matrix: videos by class (row) and predicted class (column)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np

from res3d_video.train.terminal import text_table

SCORES = "scores.json"  # of tools/evaluate.py, in the folder of a run that is done


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Videos by class (row) and predicted class (column), int64 [K, K].

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), num_classes=2)
    array([[1, 1],
           [0, 1]])
    """
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of each class's videos that are right: float64 [K]; NaN for a class without videos.

    >>> class_accuracy(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    array([0.75, 1.  ,  nan])
    """
    num_videos = confusion.sum(axis=1)
    return np.where(num_videos > 0, confusion.diagonal() / np.maximum(num_videos, 1), np.nan)


def precision_rows(
    class_ap: Mapping[str, float | None], predictions: Iterable[Mapping[str, Any]]
) -> list[tuple[str, int, float]]:
    """Of videos with several labels, every class that has videos: its name, how many have it, its average precision.

    Args:
        class_ap, predictions: As tools/evaluate.py writes them.
    """
    counts = Counter(name for video in predictions for name in video.get("labels", [video["label"]]))
    return [(name, counts[name], precision) for name, precision in class_ap.items() if precision is not None]


def accuracies_by_name(classes: Sequence[str], confusion: np.ndarray) -> dict[str, float | None]:
    """Accuracy of each class for JSON; None for a class without videos."""
    shares = class_accuracy(confusion)
    return {name: None if np.isnan(share) else float(share) for name, share in zip(classes, shares, strict=True)}


def percent(shares: Sequence[float]) -> str:
    """Mean and sample deviation, per cent.

    >>> percent([0.45, 0.47]), percent([0.5])
    ('46.0 ± 1.4', '50.0')
    """
    return f"{100 * mean(shares):.1f}" + (f" ± {100 * stdev(shares):.1f}" if len(shares) > 1 else "")


def class_rows(classes: Sequence[str], confusion: np.ndarray) -> list[tuple[str, int, float, str | None]]:
    """Every class that has videos: name, videos, accuracy, and the most frequent wrong class with its videos, if any.

    >>> class_rows(["run", "walk", "jump"], np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    [('run', 4, 0.75, 'walk (1)'), ('walk', 2, 1.0, None)]
    """
    wrong = confusion - np.diag(confusion.diagonal())
    return [
        (name, int(counts.sum()), float(accuracy), f"{classes[int(of.argmax())]} ({of.max()})" if of.any() else None)
        for name, accuracy, counts, of in zip(classes, class_accuracy(confusion), confusion, wrong, strict=True)
        if counts.any()
    ]


def class_table(classes: Sequence[str], confusion: np.ndarray) -> list[str]:
    """`class_rows` as an aligned table, after an empty line."""
    rows = [[name, str(n), f"{share:.1%}", other or ""] for name, n, share, other in class_rows(classes, confusion)]
    return ["", *text_table(["class", "videos", "video@1", "most often taken for"], rows, left=(0, 3))]
