"""Run folders read for a page: damage costs what it hit and no more, and is said."""

import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from res3d_video.pipeline.errors import UserError, os_errors_of_the_user
from res3d_video.pipeline.files import read_plain
from res3d_video.pipeline.typed_json import MAX_JSON_BYTES, MOST, Count, SchemaError, Text, convert, decode, read_json
from res3d_video.tools.figures.runs import distinct_names
from res3d_video.tools.pages.run.facts import About, Run
from res3d_video.train.config import TrainConfig, from_dict
from res3d_video.train.run_folder import LOCK

MAX_LINES = 500_000  # of metrics.jsonl; a dict each


class DamagedSample(TypedDict, total=False):
    """One that training or an evaluation could not read."""

    key: Text
    tar: Text
    reason: Text


class MetricsLine(DamagedSample):
    """What is read of a line beside its numbers."""

    event: Text
    step: Count
    unreadable: NotRequired[list[DamagedSample]]


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


def _read_config(path: Path, problems: list[str]) -> tuple[About, TrainConfig | None]:
    about: About = {}
    try:
        about = read_json(path, About, what="the trainer's", way_out="settings are unknown")
        return about, from_dict(about.get("config", {"": ""}))
    except UserError as error:
        problems.append(str(error) if str(path) in str(error) else f"{path}: {error}")
        return about, None


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        lines, damaged = read_metrics(path)
    except UserError as error:
        problems.append(str(error))
        return []
    if not lines:
        problems.append(f"{path} has no line yet")
    if damaged:
        problems.append(
            f"{path}: {len(damaged)} damaged line{'s' * (len(damaged) > 1)} left out, the first is line {damaged[0]}"
        )
    return sorted(lines, key=lambda line: line["step"])


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The lines of a metrics.jsonl, of which only numbers are kept, beside "event"; and the numbers of damaged ones.

    A last line that is cut off, as a running trainer may leave it, is neither.

    Raises:
        UserError: The file cannot be read, or is too long to be the trainer's.
    """
    with os_errors_of_the_user(path):
        texts = read_plain(path, max_bytes=MAX_JSON_BYTES).splitlines()
    if len(texts) > MAX_LINES:
        raise UserError(f"{path}: has {len(texts):,} lines; at most {MAX_LINES:,} are read, use a larger --log-every")
    lines, damaged = [], []
    for number, text in enumerate(texts, start=1):
        try:
            found = decode(text, dict[str, Any])
            line = dict(convert(found, MetricsLine))
        except SchemaError:
            if number < len(texts):
                damaged.append(number)
            continue
        numbers = {k: v for k, v in found.items() if isinstance(v, int | float) and -MOST < v < MOST}
        lines.append(numbers | line)
    return lines, damaged
