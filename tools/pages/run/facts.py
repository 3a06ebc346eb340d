"""What a run folder tells of a training: how far it is, how accurate, how fast. Pure; run_reading.py reads."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
from msgspec import Meta

from res3d_video.pipeline.typed_json import Count, Real, Size, Text
from res3d_video.tools.figures.runs import Curve, curve_of, rate_drops
from res3d_video.train.config import TrainConfig

Plain = Annotated[dict[Text, bool | Count | Real | Text | None], Meta(max_length=1000)]


class RunData(TypedDict, total=False):
    """The shards that a run was trained on."""

    name: Text
    fingerprint: Text
    folder: Text


class About(TypedDict, total=False):
    """What is read of config.json; `config` is for `train.config.from_dict`."""

    preset: Text
    config: dict[str, Any]
    data: RunData
    world_size: Size
    device: Text
    loader: Plain
    step: Plain
    versions: Plain


State = Literal["finished", "running", "stopped"]


@dataclass(frozen=True)
class Run:
    """A run folder as far as it can be read.

    Attributes:
        name: Short, unlike those of the other runs.
        about: config.json; empty where it cannot be read.
        config: None where config.json does not hold one that this version knows.
        lines: Of metrics.jsonl, by step; numbers of another kind are left out.
        evaluation: Accuracies of scores.json, {} without.
        is_locked: Whether a trainer is at work there.
        problems: What could not be read, a line each.
    """

    folder: Path
    name: str
    about: About
    config: TrainConfig | None
    lines: list[dict[str, Any]]
    is_locked: bool = False
    evaluation: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @cached_property
    def train(self) -> list[dict[str, Any]]:
        """Lines of training."""
        return [line for line in self.lines if line["event"] == "train"]

    @cached_property
    def tests(self) -> list[dict[str, Any]]:
        """Lines of evaluations, the one at the end among them."""
        return [line for line in self.lines if line["event"] in ("eval", "final")]

    def curve(self, name: str) -> Curve:
        """A number of the training lines over steps."""
        return curve_of(self.train, name)

    @cached_property
    def accuracy(self) -> Curve:
        """clip@1 of the evaluations, 0 to 1."""
        return curve_of(self.tests, "clip_at_1")

    @property
    def data(self) -> str:
        """The dataset's name, "" where unknown."""
        return self.about.get("data", {}).get("name", "")

    @property
    def step(self) -> int:
        """Updates done, as far as the log says."""
        return max((line["step"] for line in self.lines), default=0)

    @property
    def steps(self) -> int | None:
        """Updates of the whole run."""
        return self.config.steps if self.config else None

    @property
    def state(self) -> State:
        """Finished when its last evaluation is in the log."""
        if any(line["event"] == "final" and line["step"] == (self.steps or line["step"]) for line in self.lines):
            return "finished"
        return "running" if self.is_locked else "stopped"

    @property
    def state_text(self) -> str:
        """For people, as "stopped at step 420 of 1,000"."""
        if self.state == "finished":
            return f"finished, {self.step:,} steps"
        return f"{self.state} at step {self.step:,}" + (f" of {self.steps:,}" if self.steps else "")

    @property
    def damaged(self) -> list[dict[str, Any]]:
        """Damaged samples with the step that met them: of training, and of its last evaluation."""
        met = [line for line in self.lines if line["event"] == "damaged"]
        met += [one | {"step": line["step"]} for line in self.tests[-1:] for one in line.get("unreadable", [])]
        return [{name: one.get(name, "") for name in ("key", "tar", "reason")} | {"step": one["step"]} for one in met]

    @property
    def num_replaced(self) -> int:
        """Clips that took the place of damaged ones."""
        return int(self.train[-1].get("num_replaced", 0)) if self.train else 0

    @property
    def drops(self) -> list[int]:
        """Steps after which a step schedule lowered the learning rate."""
        return rate_drops(self.config, last_step=self.step) if self.config else []

    @property
    def last_test(self) -> dict[str, Any]:
        """The evaluation that stands for the run: the one at its end, else the latest; {} for none.

        One by tools/evaluate.py on the test side of the same step takes its place: it has more clips, or as many.
        """
        finals = [line for line in self.tests if line["event"] == "final"]
        found = (finals or self.tests or [{"event": "final"}])[-1]
        if found["event"] == "eval":  # of one clip a video
            found = {name: value for name, value in found.items() if not name.startswith("video_at")}
        same = self.evaluation.get("subset") == "test" and self.evaluation.get("step") == found.get("step", self.step)
        return found | self.evaluation if same else found if "step" in found else {}

    @property
    def best(self) -> tuple[float, int] | None:
        """The highest clip@1 of all evaluations and its first step."""
        if not len(self.accuracy.values):
            return None
        place = int(np.argmax(self.accuracy.values))
        return float(self.accuracy.values[place]), int(self.accuracy.steps[place])

    @cached_property
    def seconds(self) -> list[float]:
        """Time of training that each of its lines stands for, evaluations left out; 0 where it does not say."""
        before = [0, *(line["step"] for line in self.train)]
        batch = self.config.global_batch_size if self.config else 0
        return [
            line_seconds(line, num_clips=(line["step"] - step) * batch)
            for line, step in zip(self.train, before[:-1] if self.train else [], strict=True)
        ]

    @property
    def hours(self) -> float:
        """Of training, evaluations left out."""
        return sum(self.seconds) / 3600

    @property
    def clips_per_s(self) -> float | None:
        """Median of the lines but the first, in which everything starts."""
        return _median(self.curve("clips_per_s"))

    @property
    def data_wait(self) -> float | None:
        """Median share of the time that training waited for clips, of the same lines."""
        return _median(self.curve("data_wait"))

    @property
    def whole_wait(self) -> float | None:
        """Share of all the time of the same lines that training waited for clips; None where it is not known."""
        lines = list(zip(self.train, self.seconds, strict=True))
        known = [(line["data_wait_s"], s) for line, s in lines[1:] or lines if "data_wait_s" in line and s > 0]
        return sum(wait for wait, _ in known) / sum(s for _, s in known) if known else None


def line_seconds(line: dict[str, Any], *, num_clips: int) -> float:
    """Time that a line of training stands for.

    Args:
        num_clips: Since the line before, for lines without any wait.

    >>> line_seconds({"data_wait_s": 0.5, "data_wait": 0.25}, num_clips=9)
    2.0
    >>> line_seconds({"clips_per_s": 8}, num_clips=4)
    0.5
    """
    if line.get("data_wait") and "data_wait_s" in line:
        return line["data_wait_s"] / line["data_wait"]
    return num_clips / line["clips_per_s"] if line.get("clips_per_s") else 0.0


def _median(curve: Curve) -> float | None:
    values = curve.values[1:] if len(curve.values) > 1 else curve.values
    return float(median(values)) if len(values) else None
