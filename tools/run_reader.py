"""Reads config.json and metrics.jsonl of run folders, for reports and plots.

Damaged parts are left out; `Run.problems` has a line for each of them.
"""

import fcntl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np
from msgspec import Meta

from res3d_video.pipeline.errors import UserError, os_errors_of_the_user
from res3d_video.pipeline.files import read_plain
from res3d_video.pipeline.typed_json import (
    MAX_JSON_BYTES,
    MOST,
    Count,
    Real,
    SchemaError,
    Size,
    Text,
    convert,
    decode,
    read_json,
)
from res3d_video.train.config import LOCK, TrainConfig, from_dict

MAX_LINES = 500_000  # of metrics.jsonl
# Settings of how and where a run is recorded, which change nothing about the result.
BOOKKEEPING = {"eval_every", "eval_clips", "save_every", "keep_every", "log_every", "folder"}


class DamagedSample(TypedDict, total=False):
    """A sample that could not be read."""

    key: Text
    tar: Text
    reason: Text


class RankNumbers(TypedDict, total=False):
    """A value per rank."""

    own_step_s: list[Real]
    data_wait: list[Real]


class MetricsLine(DamagedSample):
    """The fields of a line of metrics.jsonl that are not numbers, and the step."""

    event: Text
    step: Count
    unreadable: NotRequired[list[DamagedSample]]
    ranks: NotRequired[RankNumbers]
    host: NotRequired[Text]
    waits_for: NotRequired[Text]


class RunData(TypedDict, total=False):
    """The shards of a run."""

    name: Text
    fingerprint: Text
    folder: Text


Values = Annotated[dict[Text, bool | Count | Real | Text | None], Meta(max_length=1000)]


class About(TypedDict, total=False):
    """What is read of config.json; `train.config.from_dict` checks `config`."""

    preset: Text
    config: dict[str, Any]
    data: RunData
    world_size: Size
    device: Text
    loader: Values
    step: Values
    versions: Values


@dataclass(frozen=True)
class Curve:
    """Values over optimizer steps.

    Attributes:
        steps: int64 [n], ascending.
        values: float64 [n].
    """

    steps: np.ndarray
    values: np.ndarray

    @property
    def median(self) -> float | None:
        """Median without the first point, which includes the start-up; None if there is no point."""
        values = self.values[1:] if len(self.values) > 1 else self.values
        return float(median(values)) if len(values) else None


@dataclass(frozen=True)
class Run:
    """What could be read of a run folder.

    Attributes:
        name: A short name that differs from those of the other runs.
        about: config.json; empty if it cannot be read.
        config: The configuration in it; None if this version cannot read it.
        lines: Lines of metrics.jsonl, by step.
        is_locked: Whether a trainer is running there.
        evaluation: Accuracies of scores.json; empty if there is none.
        problems: A line for each part that could not be read.
    """

    folder: Path
    name: str
    about: About = field(default_factory=About)
    config: TrainConfig | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    is_locked: bool = False
    evaluation: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def train(self) -> list[dict[str, Any]]:
        """Lines of training."""
        return [line for line in self.lines if line["event"] == "train"]

    @property
    def tests(self) -> list[dict[str, Any]]:
        """Lines of evaluations, with the final one."""
        return [line for line in self.lines if line["event"] in ("eval", "final")]

    def curve(self, name: str) -> Curve:
        """A value of the training lines over steps."""
        return curve_of(self.train, name)

    def rank_curves(self, name: str) -> list[Curve]:
        """A value over steps for each rank, from lines with as many ranks as the last one; [] for a single process."""
        lines = [(line["step"], line["ranks"][name]) for line in self.train if name in line.get("ranks", {})]
        alike = [(step, values) for step, values in lines if len(values) == len(lines[-1][1])]
        steps, values = np.array([step for step, _ in alike], np.int64), np.array([row for _, row in alike], np.float64)
        return [Curve(steps, own) for own in values.T] if alike else []

    @property
    def accuracy(self) -> Curve:
        """clip@1 of the evaluations, 0 to 1."""
        return curve_of(self.tests, "clip_at_1")

    @property
    def data(self) -> str:
        """Name of the dataset; "" if unknown."""
        return self.about.get("data", {}).get("name", "")

    @property
    def step(self) -> int:
        """The last step in the log."""
        return max((line["step"] for line in self.lines), default=0)

    @property
    def state_text(self) -> str:
        """A text such as "stopped at step 420 of 1,000"; a run is finished if its final evaluation is in the log."""
        steps = self.config.steps if self.config else None
        if any(line["event"] == "final" and line["step"] == (steps or line["step"]) for line in self.lines):
            return f"finished, {self.step:,} steps"
        state = "running" if self.is_locked else "stopped"
        return f"{state} at step {self.step:,}" + (f" of {steps:,}" if steps else "")

    @property
    def damaged(self) -> list[dict[str, Any]]:
        """Damaged samples of training and of the last evaluation, with the step at which they were found."""
        met = [line for line in self.lines if line["event"] == "damaged"]
        met += [one | {"step": line["step"]} for line in self.tests[-1:] for one in line.get("unreadable", [])]
        return [{name: one.get(name, "") for name in ("key", "tar", "reason")} | {"step": one["step"]} for one in met]

    @property
    def stragglers(self) -> list[dict[str, Any]]:
        """Lines about ranks that made the others wait."""
        names = {"rank", "host", "own_step_s", "over", "waits_for"}
        return [line for line in self.lines if line["event"] == "straggler" and names <= line.keys()]

    @property
    def last_test(self) -> dict[str, Any]:
        """The final evaluation, or the latest one; {} if there is none.

        The values of scores.json replace its own if they are of the same step and the test side.
        """
        finals = [line for line in self.tests if line["event"] == "final"]
        found = (finals or self.tests or [{"event": "final"}])[-1]
        if found["event"] == "eval":  # of one clip per video
            found = {name: value for name, value in found.items() if not name.startswith("video_at")}
        same = self.evaluation.get("subset") == "test" and self.evaluation.get("step") == found.get("step", self.step)
        return found | self.evaluation if same else found if "step" in found else {}

    @property
    def best(self) -> tuple[float, int] | None:
        """The highest clip@1 of all evaluations, and its first step."""
        accuracy = self.accuracy
        place = int(np.argmax(accuracy.values)) if len(accuracy.values) else None
        return None if place is None else (float(accuracy.values[place]), int(accuracy.steps[place]))

    @property
    def hours(self) -> float:
        """Hours of training, without evaluations."""
        lines = [line for line in self.train if line.get("clips_per_s")]
        steps = np.diff([0, *(line["step"] for line in lines)])
        clips = steps * (self.config.global_batch_size if self.config else 0)
        return float(sum(clips / [line["clips_per_s"] for line in lines])) / 3600

    @property
    def clips_per_s(self) -> float | None:
        """Median over all lines but the first."""
        return self.curve("clips_per_s").median

    @property
    def data_wait(self) -> float | None:
        """Share of the time that training waited for clips; median over all lines but the first."""
        return self.curve("data_wait").median


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders, each once; raises UserError if one of them cannot be read."""
    unique = list({folder.resolve(): folder for folder in folders}.values())
    return [read_run(folder, name=name) for folder, name in zip(unique, distinct_names(unique), strict=True)]


def read_run(folder: Path, *, name: str = "") -> Run:
    """Read a run folder.

    Args:
        name: Name of the run; "" takes that of the folder.

    Raises:
        UserError: The folder does not exist, or neither config.json nor metrics.jsonl can be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run; give the --out of train/main.py")
    run = Run(folder, name or folder.name, is_locked=_is_locked(folder))
    try:
        run.about.update(read_about(folder))
        run = replace(run, config=config_of(folder, run.about))
    except UserError as error:
        run.problems.append(str(error))
    log = folder / "metrics.jsonl"
    try:
        lines, damaged = read_metrics(log)
        run.lines.extend(sorted(lines, key=lambda line: line["step"]))
        if not lines:
            run.problems.append(f"{log} has no line yet")
        if damaged:
            what = f"{len(damaged)} damaged line{'s' * (len(damaged) > 1)} left out"
            run.problems.append(f"{log}: {what}, the first is line {damaged[0]}")
    except UserError as error:
        run.problems.append(str(error))
    if not run.about and not run.lines:
        raise UserError(f"{folder}: nothing in it can be shown ({run.problems[0]}); give the --out of train/main.py")
    return run


def read_about(folder: Path, *, way_out: str = "settings are unknown") -> About:
    """Read config.json of a run folder; raises SchemaError if it is not from the trainer, with `way_out` at the end."""
    return read_json(folder / "config.json", About, what="the trainer's", way_out=way_out)


def config_of(folder: Path, about: About) -> TrainConfig:
    """The configuration of a run; raises UserError if this version cannot read it."""
    try:
        return from_dict(about.get("config", {"": ""}))
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Read metrics.jsonl: its lines, with their numbers and the fields of `MetricsLine`, and the 1-based numbers of
    damaged lines. An incomplete last line is ignored, because a running trainer may be writing it.

    Raises:
        UserError: The file cannot be read, or is too long.
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


def curve_of(lines: Sequence[dict[str, Any]], name: str) -> Curve:
    """A value over steps, from the lines that have it; null, which stands for NaN, is left out."""
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    steps, values = [step for step, _ in points], [value for _, value in points]
    return Curve(np.array(steps, np.int64), np.array(values, np.float64))


def running_mean(curve: Curve, *, window: int) -> Curve:
    """Mean over the points of the last `window` steps.

    >>> running_mean(Curve(np.array([10, 20, 30, 50]), np.array([4.0, 2.0, 6.0, 1.0])), window=20).values.tolist()
    [4.0, 3.0, 4.0, 1.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(curve.values)])
    ends = np.arange(1, len(curve.steps) + 1)
    starts = np.searchsorted(curve.steps, curve.steps - window, side="right")
    return Curve(curve.steps, (sums[ends] - sums[starts]) / (ends - starts))


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many parts before it as are needed to tell the paths apart.

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


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names whose values are not the same everywhere; those in BOOKKEEPING are left out.

    >>> differing([{"lr": "1", "seed": "2", "save_every": "1"}, {"lr": "1", "seed": "3", "save_every": "2"}])
    ['seed']
    """
    first = settings[0]
    found = (name for one in settings for name in {**first, **one} if one.get(name) != first.get(name))
    return [name for name in dict.fromkeys(found) if name not in BOOKKEEPING]


def short_name(name: str) -> str:
    """ "model.name" is "model", any other "part.field" is "field".

    >>> short_name("model.name"), short_name("optim.lr"), short_name("seed")
    ('model', 'lr', 'seed')
    """
    part, _, field = name.rpartition(".")
    return part if field == "name" else field


def _is_locked(folder: Path) -> bool:
    """Whether a trainer holds the lock of a folder; False if the file system has no locks."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when the file is closed
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
