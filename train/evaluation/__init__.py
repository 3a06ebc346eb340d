"""Scoring trained models; here the confusion matrix: videos by class (row) and predicted class (column)."""

from collections.abc import Sequence
from statistics import mean, stdev

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


def class_table(classes: Sequence[str], confusion: np.ndarray) -> list[str]:
    """Lines of a table of all classes with videos: accuracy and the class most often predicted instead."""
    wrong = confusion - np.diag(confusion.diagonal())
    rows = []
    for name, accuracy, counts, others in zip(classes, class_accuracy(confusion), confusion, wrong, strict=True):
        if counts.any():
            other = f"{classes[int(others.argmax())]} ({others.max()})" if others.any() else ""
            rows.append([name, str(counts.sum()), f"{accuracy:.1%}", other])
    return ["", *text_table(["class", "videos", "video@1", "most often taken for"], rows, left=(0, 3))]
