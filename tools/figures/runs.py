"""Curves of a run over its steps, and short names of runs and settings. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.train.config import TrainConfig

# How a run was recorded, which changes nothing that is drawn.
BOOKKEEPING = frozenset({"eval_every", "eval_clips", "save_every", "keep_every", "log_every"})


@dataclass(frozen=True)
class Curve:
    """Values over optimiser steps.

    Attributes:
        steps: int64 [n], updates done, ascending.
        values: float64 [n].
    """

    steps: np.ndarray
    values: np.ndarray


def curve_of(lines: Sequence[dict[str, Any]], name: str) -> Curve:
    """The lines that have a number under `name`; null, which stands for NaN, is left out."""
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    steps, values = [step for step, _ in points], [value for _, value in points]
    return Curve(np.array(steps, np.int64), np.array(values, np.float64))


def running_mean(curve: Curve, *, window: int) -> Curve:
    """Mean over the points of the last `window` steps; at the start over those there are.

    >>> running_mean(Curve(np.array([10, 20, 30, 50]), np.array([4.0, 2.0, 6.0, 1.0])), window=20).values.tolist()
    [4.0, 3.0, 4.0, 1.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(curve.values)])
    ends = np.arange(1, len(curve.steps) + 1)
    starts = np.searchsorted(curve.steps, curve.steps - window, side="right")
    return Curve(curve.steps, (sums[ends] - sums[starts]) / (ends - starts))


def rate_drops(config: TrainConfig, *, last_step: int) -> list[int]:
    """Steps up to `last_step` after which a step schedule lowers the learning rate; a cosine has none.

    >>> rate_drops(TrainConfig(), last_step=60_000)
    [20000, 40000, 60000]
    """
    if config.schedule.kind != "step":
        return []
    return list(range(config.schedule.decay_every, min(last_step, config.steps - 1) + 1, config.schedule.decay_every))


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, and as many before it as keep the names apart.

    >>> distinct_names([Path("runs/a/seed0"), Path("runs/b/seed0"), Path("runs/c")])
    ['a/seed0', 'b/seed0', 'c']
    """
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        count = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        names.append("/".join(own[-count:]))
    return names


def short_name(name: str) -> str:
    """ "model.name" is "model", any other "part.field" is "field".

    >>> short_name("model.name"), short_name("optim.lr"), short_name("seed")
    ('model', 'lr', 'seed')
    """
    part, _, field = name.rpartition(".")
    return part if field == "name" else field
