"""What ASLAN and THUMOS14 read of a feature file: names of rows and the features of some layers."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np

from res3d_video.train.evaluation.features.files import FeatureError, read_layer, read_names


def read_rows(
    path: Path, *, layers: Sequence[str], names: Sequence[str] = ("keys",)
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names and features of a file written by tools/extract_features.py, or of any .npz with these arrays.

    Args:
        path: .npz with `keys` or `sources`, str [R], and `layer/NAME`, [R, D], for each layer.
        layers: Names without "layer/".
        names: The arrays that may name the rows; the first that is there does.

    Returns:
        R different names, and a float array [R, D] by layer.

    Raises:
        FeatureError: The file is missing or damaged, lacks an array, or has a name twice.
    """
    keys = _first_names(path, names)
    values = {name: read_layer(path, name, num_rows=len(keys)) for name in layers}
    for name, rows in values.items():
        if not np.isfinite(rows).all():
            raise FeatureError(f"features: layer {name} of {path} holds values that are not finite; extract it again")
    if len(set(keys)) < len(keys):
        twice = next(first for first, second in pairwise(sorted(keys)) if first == second)
        raise FeatureError(f"features: {path} has {twice} twice; extract one row a video, not one a clip")
    return keys, values


def _first_names(path: Path, names: Sequence[str]) -> list[str]:
    """The first of these arrays that the file has."""
    for name in names[:-1]:
        with suppress(FeatureError):
            return read_names(path, name)
    return read_names(path, names[-1])


def l2_normalised(features: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length, float32 [R, D]; a row of zeros stays one.

    >>> l2_normalised(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    rows = np.asarray(features, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)  # [R, 1]
    return rows / np.where(lengths > 0, lengths, 1)
