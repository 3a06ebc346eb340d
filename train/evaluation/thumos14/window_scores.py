"""Scores of windows: from a file, or from features and a detector trained on others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.train.evaluation.features.files import read_array, read_names
from res3d_video.train.evaluation.features.rows import read_rows
from res3d_video.train.evaluation.thumos14.annotations import Segments
from res3d_video.train.evaluation.thumos14.detector import train_detector
from res3d_video.train.evaluation.thumos14.windows import WindowList


def with_rows(keys: list[str], windows: WindowList, *, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The windows that a file has something for, and where: int64 [w] and int64 [w].

    Raises:
        ValueError: It has nothing for any of them.
    """
    row_of = {key: row for row, key in enumerate(keys)}
    rows = np.array([row_of.get(key, -1) for key in windows.keys], np.int64)
    if not (rows >= 0).any():
        first = windows.keys[0] if len(windows) else "none"
        raise UserError(f"{what}: nothing for any of {len(windows)} windows, the first is {first}; give their file")
    return np.flatnonzero(rows >= 0), rows[rows >= 0]


def read_scores(path: Path, windows: WindowList) -> tuple[WindowList, np.ndarray, list[str]]:
    """Scores out of a .npz with `keys` [W], `classes` [K] and `scores` [W, K].

    Returns:
        The windows that are in it, their scores, float64 [W, K], and the names of the columns.

    Raises:
        ValueError: It holds something else, or nothing for these windows.
    """
    scores, classes, keys = read_array(path, "scores"), read_names(path, "classes"), read_names(path, "keys")
    fits = scores.dtype.kind in "fiu" and scores.shape == (len(keys), len(classes))
    if not fits or not np.isfinite(scores).all():
        raise UserError(
            f"{path}: scores of shape {list(scores.shape)} for {len(keys)} windows and {len(classes)} classes; "
            "expected finite ones, windows x classes"
        )
    found, rows = with_rows(keys, windows, what=str(path))
    return windows.take(found), scores[rows].astype(np.float64), classes


def scores_from_features(
    features: Path,
    windows: WindowList,
    *,
    train_features: Path,
    train_windows: WindowList,
    annotations: dict[str, Segments],
    layer: str,
    c: float,
    on_class: Callable[[int, int], None] | None = None,
) -> tuple[WindowList, np.ndarray, list[str]]:
    """Train a detector on annotated windows and score others with it.

    Args:
        features, train_features: .npz with `keys` and `layer/NAME`.
        c: Of the SVM.
        on_class: Told (classes done, classes in all).

    Returns:
        The windows that have features, their scores, float64 [W, K], and the classes.

    Raises:
        ValueError: A file is damaged, or no window can be trained on or scored.
    """
    keys, values = read_rows(train_features, layers=[layer])
    found, rows = with_rows(keys, train_windows, what=str(train_features))
    detector = train_detector(values[layer][rows], train_windows.take(found), annotations, c=c, on_class=on_class)
    keys, values = read_rows(features, layers=[layer])
    found, rows = with_rows(keys, windows, what=str(features))
    return windows.take(found), detector.scores(values[layer][rows]), detector.classes
