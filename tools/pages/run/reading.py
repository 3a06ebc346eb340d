"""Run folders read for a page: damage costs what it hit and no more, and is said."""

import fcntl
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from tools.figures.runs import distinct_names, read_metrics
from tools.pages.run.facts import Run, part_of
from train.config import TrainConfig, from_dict
from train.run_folder import LOCK


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Run folders in the order given, each once.

    Raises:
        ValueError: One of them is not a run's, or holds nothing yet; in one line.
    """
    unique = list({folder.resolve(): folder for folder in folders}.values())
    return [read_run(folder, name=name) for folder, name in zip(unique, names_of(unique), strict=True)]


def names_of(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many of each as keep all apart.

    >>> names_of([Path("runs/a/seed0"), Path("runs/b/seed0"), Path("runs/b/seed1")])
    ['a/seed0', 'b/seed0', 'b/seed1']
    """
    count = max((name.count("/") + 1 for name in distinct_names(folders)), default=1)
    return ["/".join(folder.resolve().parts[-count:]) for folder in folders]


def read_run(folder: Path, *, name: str) -> Run:
    """One run folder; what is damaged in it is left out and said.

    Raises:
        ValueError: There is no such folder, or neither config.json nor metrics.jsonl is in it, or both are empty.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run; give the --out of train/main.py")
    problems: list[str] = []
    about, config = _read_config(folder / "config.json", problems)
    lines = _read_lines(folder / "metrics.jsonl", problems)
    if not about and not lines:
        files = [path for path in (folder / "config.json", folder / "metrics.jsonl") if path.exists()]
        if not files:
            raise UserError(
                f"{folder}: neither config.json nor metrics.jsonl, so it is not a run's folder; "
                "give the --out of train/main.py"
            )
        raise UserError(f"{folder}: nothing in it can be shown ({problems[0]}); wait for a first line, or give another")
    return Run(folder, name, about, config, lines, is_locked=is_locked(folder), problems=problems)


def is_locked(folder: Path) -> bool:
    """Whether a trainer is at work in a folder; False where nobody can say."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go when the file is closed
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read_config(path: Path, problems: list[str]) -> tuple[dict[str, Any], TrainConfig | None]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problems.append(f"{path} cannot be read ({reason}): settings are unknown")
        return {}, None
    if not isinstance(about, dict):
        problems.append(f"{path} is not the trainer's: settings are unknown")
        return {}, None
    try:
        return about, from_dict(part_of(about, "config") or {"": ""})
    except (ValueError, TypeError) as error:
        problems.append(f"{path}: {error}")
        return about, None


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    damaged: list[int] = []
    try:
        lines = read_metrics(path, on_damage=damaged.append)
    except OSError as error:
        problems.append(f"{path} cannot be read ({error.strerror})")
        return []
    if not lines:
        problems.append(f"{path} has no line yet")
    if damaged:
        problems.append(
            f"{path}: {len(damaged)} damaged line{'s' * (len(damaged) > 1)} left out, the first is line {damaged[0]}"
        )
    return sorted(map(_numbers, lines), key=lambda line: line["step"])


def _numbers(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what is no finite number, event aside."""
    kept = {k: v for k, v in line.items() if isinstance(v, int | float) and math.isfinite(v)}
    return kept | {"event": line["event"]}
