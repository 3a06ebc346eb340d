"""Which classes are taken for which, from counts of videos by class (row) and predicted class (column)."""

from collections.abc import Sequence

import numpy as np

SCORES = "scores.json"  # of tools/evaluate.py, in the folder of a run that is done

from res3d_video.train.terminal import text_table


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Videos by class (row) and predicted class (column), int64 [K, K].

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), num_classes=2)
    array([[1, 1],
           [0, 1]])
    """
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of each class's videos that are right: float64 [K]; NaN for a class without videos.

    >>> class_accuracy(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    array([0.75, 1.  ,  nan])
    """
    num_videos = confusion.sum(axis=1)
    return np.where(num_videos > 0, confusion.diagonal() / np.maximum(num_videos, 1), np.nan)


def class_table(classes: Sequence[str], confusion: np.ndarray) -> list[str]:
    """Every class that has videos: its accuracy and what it is taken for most often; aligned, after an empty line."""
    rows = []
    for k, accuracy in enumerate(class_accuracy(confusion)):
        counts = confusion[k].copy()
        num_videos = int(counts.sum())
        if not num_videos:
            continue
        counts[k] = 0
        other = f"{classes[int(counts.argmax())]} ({counts.max()})" if counts.any() else ""
        rows.append([classes[k], str(num_videos), f"{accuracy:.1%}", other])
    return ["", *text_table(["class", "videos", "video@1", "most often taken for"], rows, left=(0, 3))]


def accuracies_by_name(classes: Sequence[str], confusion: np.ndarray) -> dict[str, float | None]:
    """Accuracy of each class for JSON; None for a class without videos."""
    shares = class_accuracy(confusion)
    return {name: None if np.isnan(share) else float(share) for name, share in zip(classes, shares, strict=True)}
