"""Feature files made on the spot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from res3d_video.train.evaluation.features import Features

ABOUT: dict[str, Any] = {
    "format": 1,
    "checkpoint": {"step": 5, "data": {"name": "sports1m"}, "split": "1"},
    "data": {"name": "ucf", "classes": ["left", "right"], "split_names": ["1", "2"]},
    "per_clip": False,
}


def made_features(names: Sequence[str], layers: Mapping[str, np.ndarray], **changes: Any) -> Features:
    """A row a name: key, source, and vectors float [R, D] of each layer; of `changes`, `about` is added to ABOUT.

    Split 1 trains on the even rows and tests on the odd ones, split 2 the other way around.
    """
    rows = np.arange(len(names))
    fields = {
        **dict.fromkeys(("keys", "sources"), np.array(names, np.str_)),
        "groups": np.array(["g1"] * len(names), np.str_),
        "labels": rows % 2,
        "subsets": np.stack([1 + rows % 2, 2 - rows % 2], axis=1).astype(np.int8),
        "num_clips": np.ones(len(names), np.int64),
        "starts": 10 * rows,
        "unreadable": np.array([], np.str_),
    }
    about = ABOUT | {"layers": list(layers)} | changes.pop("about", {})
    return Features(about=about, layers={n: v.astype(np.float32) for n, v in layers.items()}, **fields | changes)
