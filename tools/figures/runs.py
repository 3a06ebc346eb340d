"""What a run folder tells about learning: losses, test accuracies, the configuration; and what sets runs apart."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from train.config import TrainConfig, differences, from_dict

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


@dataclass(frozen=True)
class RunCurves:
    """A run folder of the trainer.

    Attributes:
        data: Name of the dataset.
        loss: Mean training loss since the line before.
        accuracy: clip@1 on the test side, 0 to 1; may be empty.
        chance: Accuracy of guessing; None where nothing has been evaluated.
    """

    folder: Path
    config: TrainConfig
    data: str
    loss: Curve
    accuracy: Curve
    chance: float | None


def read_run(folder: Path) -> RunCurves:
    """Read config.json and metrics.jsonl, of a run that has ended or still goes on.

    Raises:
        ValueError: The folder is not a run's, has no metrics yet, or a file is damaged; in one line.
    """
    config_file, metrics_file = folder / "config.json", folder / "metrics.jsonl"
    if not config_file.is_file():
        raise UserError(f"{folder}: no config.json, so it is not a run's folder; give the --out of train/main.py")
    try:
        about = json.loads(config_file.read_text(encoding="utf-8"))
        config, data = from_dict(about["config"]), about["data"]["name"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{config_file}: not the trainer's ({error!r}); give another folder") from None
    except ValueError as error:
        raise UserError(f"{config_file}: {error}") from None
    lines = read_metrics(metrics_file) if metrics_file.is_file() else []
    tested = [line for line in lines if line["event"] in ("eval", "final")]
    loss = curve_of([line for line in lines if line["event"] == "train"], "loss")
    if not len(loss.steps):
        raise UserError(f"{folder}: no training step in metrics.jsonl yet; wait for --log-every steps")
    chance = tested[-1].get("chance") if tested else None
    return RunCurves(folder, config, data, loss, curve_of(tested, "clip_at_1"), chance)


def read_metrics(path: Path, *, on_damage: Callable[[int], None] | None = None) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last one that is cut off, as a running trainer may leave it, is left out.

    Args:
        on_damage: Told the number of any other damaged line, which is left out then; None refuses the file.

    Raises:
        ValueError: Any other line is damaged.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or "event" not in values or not isinstance(values.get("step"), int):
                raise ValueError("no event and step")
        except ValueError:  # JSON's errors too
            if number == len(lines):
                break
            if on_damage is not None:
                on_damage(number)
                continue
            raise UserError(f"{path}:{number}: not a line of the trainer; mend or remove it") from None
        found.append(values)
    return found


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


def summarise(runs: Sequence[RunCurves], *, window: int) -> list[dict[str, Any]]:
    """For JSON: where each run stands; the loss is the mean of the last `window` steps, accuracies are 0 to 1."""
    names = distinct_names([run.folder for run in runs])
    return [
        {
            "run": str(run.folder),
            "name": name,
            "differs": text,
            "step": int(run.loss.steps[-1]),
            "loss": float(running_mean(run.loss, window=window).values[-1]),
            "clip_at_1": float(run.accuracy.values[-1]) if len(run.accuracy.values) else None,
            "chance": run.chance,
        }
        for run, name, text in zip(runs, names, what_differs(runs), strict=True)
    ]


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


def what_differs(runs: Sequence[RunCurves]) -> list[str]:
    """For each run the values of the fields in which not all agree, as "lr 0.01, seed 2"; bookkeeping is left out."""
    fields: list[str] = []
    for run in runs[1:]:
        found = differences(runs[0].config, run.config)
        fields += [name for name in found if name not in BOOKKEEPING and name not in fields]
    same_data = len({run.data for run in runs}) == 1
    texts = []
    for run in runs:
        values = [f"{short_name(name)} {value_of(run.config, name)}" for name in fields]
        texts.append(", ".join(values if same_data else [f"data {run.data}", *values]))
    return texts


def short_name(name: str) -> str:
    """ "model.name" is "model", any other "part.field" is "field".

    >>> short_name("model.name"), short_name("optim.lr"), short_name("seed")
    ('model', 'lr', 'seed')
    """
    part, _, field = name.rpartition(".")
    return part if field == "name" else field


def value_of(config: TrainConfig, name: str) -> Any:
    """A field by its name in `differences`, such as "optim.lr"."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
