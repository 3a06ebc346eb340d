"""What the runs of a study found: clip accuracies by test group, rows with their spread, and differences of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.typed_json import Count, Share, Size, Text, read_json
from res3d_video.train.evaluation.confusion import SCORES
from res3d_video.train.evaluation.linear_svm import mean_and_spread
from res3d_video.train.study.runs import StudyRun
from res3d_video.train.study.tables import Row

WAY_OUT = "remove the folder, or choose another --out"


class VideoClips(TypedDict):
    """A prediction in scores.json."""

    key: Text
    num_clips: Size
    num_clips_right: Size


class StudyScores(TypedDict):
    """What a study reads of scores.json."""

    step: Count
    video_at_1: Share
    chance: Share
    predictions: list[VideoClips]


@dataclass(frozen=True)
class RunScores:
    """Of one run.

    Attributes:
        right, total: int64 [G], clips of each test group that are classified rightly, and all of them. Groups hold
            what belongs together (UCF101: one recording), so they are what chance has drawn.
        video_at_1: Share of videos, 0 to 1.
        chance: 0 to 1.
    """

    right: np.ndarray
    total: np.ndarray
    video_at_1: float
    chance: float

    @property
    def clip_accuracy(self) -> float:
        """Share of all scored clips, 0 to 1 (section 3 measures so)."""
        return float(self.right.sum() / self.total.sum())


def is_done(out: Path, run: StudyRun) -> bool:
    """Whether the study's folder has a run's scores, after all of its steps."""
    try:
        return read_file(out / run.folder / SCORES)["step"] == run.config.steps
    except UserError:
        return False


def read_file(path: Path) -> StudyScores:
    """A file of tools/evaluate.py.

    Raises:
        UserError: It is not there, or something else; in one line.
    """
    return read_json(path, StudyScores, what="the scores of these shards", way_out=WAY_OUT)


def read_scores(out: Path, run: StudyRun, *, groups: Mapping[str, str]) -> RunScores:
    """The scores of a finished run.

    Args:
        groups: Key of a sample -> its group; defines the order of `right` and `total`.

    Raises:
        ValueError: The file is of other videos, or of another version.
    """
    path = out / run.folder / SCORES
    names = sorted(set(groups.values()))
    position = {name: i for i, name in enumerate(names)}
    right, total = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    scores = read_file(path)
    for video in scores["predictions"]:
        if video["key"] not in groups or video["num_clips_right"] > video["num_clips"]:
            raise UserError(f"{path}: not the scores of these shards ({video['key']!r:.80}); {WAY_OUT}")
        place = position[groups[video["key"]]]
        right[place] += video["num_clips_right"]
        total[place] += video["num_clips"]
    return RunScores(right, total, scores["video_at_1"], scores["chance"])


def groups_of(index: ShardIndex, split: str) -> dict[str, str]:
    """Key -> group of every test sample."""
    return {index.key(row): index.groups[row].decode() for row in index.samples_of(split, "test")}


@dataclass(frozen=True)
class RowScores:
    """Of the runs of a row that are done, one a seed."""

    row: Row
    parameters: int
    multiply_adds: int
    runs: tuple[RunScores, ...]

    @cached_property
    def clip_accuracy(self) -> tuple[float, float | None]:
        """Mean and spread over seeds, 0 to 1; the spread of one is None."""
        return mean_and_spread([run.clip_accuracy for run in self.runs])

    @cached_property
    def video_at_1(self) -> tuple[float, float | None]:
        """Likewise."""
        return mean_and_spread([run.video_at_1 for run in self.runs])


@dataclass(frozen=True)
class Difference:
    """How much more accurate one row is than another, 0 to 1, and the 95 % interval; None with less than two
    seeds or test groups."""

    mean: float
    interval: tuple[float, float] | None

    @property
    def is_above(self) -> bool:
        return self.interval is not None and self.interval[0] > 0

    @property
    def is_below(self) -> bool:
        return self.interval is not None and self.interval[1] < 0


def difference(row: RowScores, rival: RowScores) -> Difference:
    """Compare two rows scored on the same videos.

    Chance comes from two sides: which seeds, by the spread of each row's runs; and which test groups, by a jackknife
    over them (each left out in turn), for both rows together, since they share them. The interval is Student's t with
    Welch's degrees of freedom.
    """
    mean = row.clip_accuracy[0] - rival.clip_accuracy[0]
    num_groups = len(row.runs[0].total)
    if min(len(row.runs), len(rival.runs), num_groups) < 2:
        return Difference(mean, None)
    from scipy.stats import t  # slow to import, and an extra

    parts = [_jackknife_variance(row, rival)]
    freedoms = [num_groups - 1]
    for scores in (row, rival):
        spread = scores.clip_accuracy[1] or 0.0
        parts.append(spread**2 / len(scores.runs))
        freedoms.append(len(scores.runs) - 1)
    variance = sum(parts)
    if variance == 0:
        return Difference(mean, (mean, mean))
    freedom = variance**2 / sum(part**2 / n for part, n in zip(parts, freedoms, strict=True))
    half = float(t.ppf(0.975, freedom)) * variance**0.5
    return Difference(mean, (mean - half, mean + half))


def _jackknife_variance(row: RowScores, rival: RowScores) -> float:
    """Variance of the difference of mean accuracies that comes from the choice of test groups."""
    without = _leaving_out(row.runs) - _leaving_out(rival.runs)  # [G]
    return float((len(without) - 1) * np.var(without))


def _leaving_out(runs: Sequence[RunScores]) -> np.ndarray:
    """Mean accuracy over the runs with each group left out in turn: float64 [G]."""
    accuracies = [(run.right.sum() - run.right) / (run.total.sum() - run.total) for run in runs]  # of [G] each
    return np.mean(accuracies, axis=0)
