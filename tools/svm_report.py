"""How tools/linear_svm.py reports: lines for people, the confusion matrix, the curve of compactness."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tools.bench.chart import OURS, picture
from train.evaluation.linear_svm import SplitScores, mean_and_spread

MOST_NAMES = 40  # classes whose names still fit beside a matrix


def mean_of(scores: dict[str, SplitScores]) -> tuple[float, float | None]:
    """Mean accuracy of the splits, and its spread."""
    return mean_and_spread([split.accuracy for split in scores.values()])


def percent(mean: float, spread: float | None) -> str:
    """ "52.3% ± 0.4"."""
    return f"{mean:.1%}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def score_lines(scores: dict[str, SplitScores], by_dims: dict[int, dict[str, SplitScores]]) -> list[str]:
    """A line a split, the mean, and a line a number of principal components; aligned."""
    lines = [f"{'split':<10}  train   test        C  video@1"]
    for name, split in scores.items():
        lines.append(f"{name:<10} {split.num_train:6} {len(split.labels):6} {split.c:8g}  {split.accuracy:7.1%}")
    lines.append(f"{'mean':<10} {'':22}  {percent(*mean_of(scores)):>7}")
    if by_dims:
        lines += ["", f"{'components':<10}  video@1"]
    lines += [f"{d:<10}  {percent(*mean_of(found)):>7}" for d, found in by_dims.items()]
    return lines


def draw_confusion(path: Path, title: str, *, classes: Sequence[str], confusion: np.ndarray) -> None:
    """Write a PNG: each class's videos (row) as shares of the predicted classes (column); classes without any stay out.

    Args:
        confusion: int64 [K, K], videos by class and predicted class.

    Raises:
        BenchError: matplotlib is not installed.
    """
    present = present_classes(confusion)
    classes = [classes[k] for k in present]
    confusion = confusion[np.ix_(present, present)]
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with picture(path, title, size=(1100, 1000)) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class's test videos")
        axes.set_xlabel("predicted")
        axes.set_ylabel("class")
        if len(classes) <= MOST_NAMES:
            axes.set_xticks(range(len(classes)), classes, rotation=90)
            axes.set_yticks(range(len(classes)), classes)


def present_classes(confusion: np.ndarray) -> np.ndarray:
    """Classes that a video is of, or was taken for: int64 [k], ascending.

    >>> present_classes(np.array([[0, 0, 0], [0, 2, 1], [0, 0, 0]]))
    array([1, 2])
    """
    return np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))


def draw_compactness(path: Path, title: str, accuracy: Mapping[int, Sequence[float]], *, whole: float) -> None:
    """Write a PNG: accuracy against the number of principal components.

    Args:
        accuracy: Components -> one accuracy a split.
        whole: Mean accuracy of the features as they are.

    Raises:
        BenchError: matplotlib is not installed.
    """
    dims = sorted(accuracy)
    found = [mean_and_spread(accuracy[d]) for d in dims]
    means, spreads = [100 * mean for mean, _ in found], [100 * (spread or 0.0) for _, spread in found]
    with picture(path, title, size=(1000, 700)) as figure:
        axes = figure.add_subplot()
        axes.errorbar(dims, means, yerr=spreads, color=OURS, marker="o", capsize=4, label="principal components")
        axes.axhline(100 * whole, color="0.5", linestyle="--", label="all dimensions")
        axes.set_xscale("log")
        axes.set_xticks(dims, [str(d) for d in dims])
        axes.minorticks_off()
        axes.set_xlabel("dimensions")
        axes.set_ylabel("video@1, %: mean and spread over the splits")
        axes.grid(alpha=0.3)
        axes.legend()


def write_confusion(path: Path, *, classes: Sequence[str], confusion: np.ndarray) -> None:
    """CSV: a line a class, a column a predicted class, videos in the cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", *classes])
        writer.writerows([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))
