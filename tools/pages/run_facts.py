"""What a page of runs says of each: its evaluation, mistakes, confusions, settings and checkpoints."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from res3d_video.pipeline.index import ShardError, ShardIndex, open_index
from res3d_video.pipeline.typed_json import Count, Real, SchemaError, Share, Size, Text, read_json
from res3d_video.tools.pages.markup import plain_name, setting_text
from res3d_video.tools.run_reader import Run
from res3d_video.train.checkpoint import CheckpointError, load_checkpoint, step_of
from res3d_video.train.config import to_dict
from res3d_video.train.evaluation import SCORES, class_accuracy

MAX_IN_MATRIX = 24  # classes; more are put together
MAX_PAIRS = 20


class ScoredVideo(TypedDict):
    """A prediction in scores.json."""

    key: Text
    source: NotRequired[Text]
    label: Text
    labels: NotRequired[list[Text]]
    predicted: Text
    top5: dict[Text, Real]


class Evaluation(TypedDict, total=False):
    """What is said of all videos together."""

    step: Count
    data: Text
    split: Text
    subset: Text
    clip_at_1: Share
    video_at_1: Share
    video_at_5: Share | None
    chance: Share


class ScoresFile(Evaluation):
    """What is read of scores.json."""

    class_accuracy: dict[Text, Share | None]
    confusion: list[list[Size]]
    predictions: list[ScoredVideo]


@dataclass(frozen=True)
class Mistake:
    """A video that got another class.

    Attributes:
        confidence: Probability of the predicted class, 0 to 1.
        true_confidence: Of the true class; None where it is not among the five likeliest.
    """

    key: str
    source: str
    label: str
    predicted: str
    confidence: float
    true_confidence: float | None


@dataclass(frozen=True)
class Scores:
    """An evaluation by tools/evaluate.py.

    Attributes:
        about: Its accuracies, the step and the data's name.
        classes: Names, K.
        confusion: int64 [K, K], videos by class (row) and predicted class (column).
    """

    about: dict[str, Any]
    classes: list[str]
    confusion: np.ndarray
    predictions: list[ScoredVideo]

    @property
    def num_wrong(self) -> int:
        """Videos that got another class."""
        return int(self.confusion.sum() - self.confusion.diagonal().sum())

    def mistakes(self) -> list[Mistake]:
        """The most confident first, among equals by key; of a video with several labels any of them is right."""
        found = [
            Mistake(
                key=one["key"],
                source=one.get("source", one["key"]),
                label=one["label"],
                predicted=one["predicted"],
                confidence=one["top5"].get(one["predicted"], 0.0),
                true_confidence=one["top5"].get(one["label"]),
            )
            for one in self.predictions
            if one["predicted"] not in one.get("labels", [one["label"]])
        ]
        return sorted(found, key=lambda mistake: (-mistake.confidence, mistake.key))

    def confused_with(self, label: int) -> tuple[str, int] | None:
        """The class that a class is most often predicted as, and how often; None where all is right."""
        counts = self.confusion[label].copy()
        counts[label] = 0
        return (self.classes[int(counts.argmax())], int(counts.max())) if counts.any() else None

    def pairs(self) -> list[tuple[str, str, int]]:
        """Class, what it is predicted as, how many videos: the most frequent first."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        found = [
            (self.classes[row], self.classes[column], int(wrong[row, column])) for row, column in np.argwhere(wrong)
        ]
        return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))

    @cached_property
    def accuracies(self) -> np.ndarray:
        """float64 [K], NaN for a class without videos."""
        return class_accuracy(self.confusion)


def read_scores(path: Path) -> Scores:
    """What tools/evaluate.py wrote with --json.

    Raises:
        SchemaError: There is no such file, or it is damaged, or of another program.
    """
    what, way_out = "what tools/evaluate.py writes", "evaluate again"
    found = read_json(path, ScoresFile, what=what, way_out=way_out)
    classes, rows = list(found["class_accuracy"]), found["confusion"]
    if not classes or {len(rows), *map(len, rows)} != {len(classes)}:
        raise SchemaError(f"{path}: not {what} (confusion is no square of {len(classes)} classes); {way_out}")
    about = {name: value for name, value in found.items() if name in Evaluation.__annotations__}
    return Scores(about, classes, np.array(rows, np.int64), found["predictions"])


def small_matrix(scores: Scores, *, most: int = MAX_IN_MATRIX) -> tuple[list[str], np.ndarray, int]:
    """The confusions of the classes that occur; of more than `most` those with the most mistakes, the rest as one.

    Returns:
        C names, int64 [C, C], and how many classes the last one stands for, 0 if it is one.
    """
    confusion = scores.confusion
    occurring = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    wrong = confusion.sum(axis=1) + confusion.sum(axis=0) - 2 * confusion.diagonal()
    kept = occurring
    if len(occurring) > most:
        kept = np.sort(occurring[np.argsort(-wrong[occurring], kind="stable")[: most - 1]])
    num_others = len(occurring) - len(kept)
    place = np.full(len(confusion), len(kept))
    place[kept] = np.arange(len(kept))
    size = len(kept) + bool(num_others)
    counts = np.zeros((len(kept) + 1, len(kept) + 1), np.int64)
    np.add.at(counts, (place[:, None], place[None, :]), confusion)
    names = [scores.classes[k] for k in kept] + ["all others"] * bool(num_others)
    return names, counts[:size, :size], num_others


def shards_of(run: Run, given: Sequence[ShardIndex]) -> tuple[ShardIndex | None, str]:
    """The shards that a run was trained on, among those given, else where its config.json says.

    Returns:
        The index, or None; and a sentence on what is not as it should be, else "".
    """
    about = run.about.get("data", {})
    for index in given:
        if index.fingerprint == about.get("fingerprint"):
            return index, ""
    for index in given:
        if index.name == about.get("name"):
            return index, f"The shards given are another build of {index.name}; a clip may not be what was scored."
    folder = about.get("folder")
    if not folder:
        return None, "Clips can be shown when the shards are given with --data."
    try:
        index = open_index(Path(folder))
    except (ShardError, OSError):
        return None, f"The shards are no longer in {folder}; give them with --data to see the clips."
    if index.fingerprint != about.get("fingerprint"):
        return index, f"The shards in {folder} have been built anew since; a clip may not be what was scored."
    return index, ""


def is_to_score(run: Run) -> bool:
    """Whether a run that nobody trains now has a checkpoint newer than its scores."""
    checkpoint, scores = run.folder / "latest.pt", run.folder / SCORES
    if run.is_locked or not checkpoint.exists():
        return False
    return not scores.exists() or scores.stat().st_mtime_ns < checkpoint.stat().st_mtime_ns


def flatten(values: dict[str, Any], *, begin: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with the path of its name.

    >>> list(flatten({"clip": {"resize": None}, "steps": 5}))
    [('clip.resize', None), ('steps', 5)]
    """
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, begin=f"{begin}{name}.")
        else:
            yield f"{begin}{name}", value


def settings_of(run: Run) -> dict[str, Any]:
    """Preset, data and configuration; a field of a later version at its default."""
    config = to_dict(run.config) if run.config else run.about.get("config")
    about: dict[str, Any] = {"preset": run.about.get("preset"), "data": run.data or None}
    return about | dict(flatten(config if isinstance(config, dict) else {}))


def machine_of(run: Run) -> dict[str, Any]:
    """Where and with what it ran: folder, devices, versions, the loader's and the step's settings."""
    names = ("device", "world_size", "versions", "loader", "step")
    return {"folder": str(run.folder)} | dict(flatten({k: v for k, v in run.about.items() if k in names}))


def differing(found: Sequence[dict[str, Any]]) -> list[str]:
    """Names whose values are not the same everywhere; what is missing is as None.

    >>> differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}])
    ['b']
    """
    names = dict.fromkeys(name for one in found for name in one)
    return [name for name in names if len({json.dumps(one.get(name)) for one in found}) > 1]


def side_by_side(found: Sequence[dict[str, Any]], names: Sequence[str] | None = None) -> list[list[str]]:
    """A row a name, a column a run; None takes all names."""
    names = list(dict.fromkeys(name for one in found for name in one)) if names is None else names
    return [[plain_name(name), *(setting_text(one.get(name)) for one in found)] for name in names]


def checkpoint_files(folder: Path) -> list[dict[str, Any]]:
    """The checkpoints of a run folder, each read whole: latest, best, previous, then those kept by step.

    Returns:
        name; num_bytes; written, ISO 8601; step, and accuracy, the best clip@1 until then, both None where it cannot
        be read; error, why it cannot be read, "" if it can.
    """
    kept = sorted((p for p in folder.glob("step-*.pt") if step_of(p) is not None), key=lambda p: step_of(p) or 0)
    found = []
    for path in [*(folder / name for name in ("latest.pt", "best.pt", "previous.pt")), *kept]:
        try:
            about = path.stat()
        except OSError:
            continue
        written = datetime.fromtimestamp(about.st_mtime).astimezone().isoformat(" ", "minutes")
        file: dict[str, Any] = {"name": path.name, "num_bytes": about.st_size, "written": written, "error": ""}
        try:
            state = load_checkpoint(path)
            best = float(state["best_accuracy"])
            file |= {"step": int(state["step"]), "accuracy": best if best >= 0 else None}
        except CheckpointError as error:
            file |= {"step": None, "accuracy": None, "error": str(error)}
        found.append(file)
    return found


def facts_of(run: Run, files: list[dict[str, Any]], scores: Scores | None) -> dict[str, Any]:
    """A run for JSON; accuracies and shares are 0 to 1."""
    names = ("key", "label", "predicted", "confidence")
    return {
        "run": str(run.folder),
        "name": run.name,
        "data": run.data,
        "state": run.state,
        "step": run.step,
        "steps": run.steps,
        **{name: run.last_test.get(name) for name in ("clip_at_1", "video_at_1", "video_at_5", "chance")},
        "best_clip_at_1": run.best[0] if run.best else None,
        "best_step": run.best[1] if run.best else None,
        "hours": run.hours,
        "clips_per_s": run.clips_per_s,
        "data_wait": run.data_wait,
        "num_replaced": run.num_replaced,
        "damaged": run.damaged,
        "checkpoints": files,
        "problems": run.problems,
        "mistakes": scores and [{name: getattr(one, name) for name in names} for one in scores.mistakes()[:12]],
    }
