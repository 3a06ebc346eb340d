"""The architecture study: which trainings Tables 3 to 7 need, each once, and whether what they found is clear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.typed_json import Count, Share, read_json
from res3d_video.train.config import TrainConfig
from res3d_video.train.evaluation.confusion import SCORES
from res3d_video.train.models import MODELS
from res3d_video.train.paper.tables import Claim, Row

PAPER_CROP, PAPER_RESIZE = 112, 128  # pixels (section 3)
PAPER_STEPS = 90_000


@dataclass(frozen=True)
class StudySettings:
    """What all runs of a study have in common.

    Attributes:
        steps: Of every run; the schedule of UCF101's protocol keeps its shape. None: as many as the protocol has.
        batch_size: Clips of a step. None: the protocol's 20.
        lr: None: the protocol's 0.01.
        size: Crop in pixels where the paper has 112; its other sizes shrink or grow alike.
        width_scale: Channels of every layer, as a part of the network's own; parameters match as before.
        split: Of the dataset.
        clips: Of each test video, evenly spaced; all are scored.
    """

    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    size: int = PAPER_CROP
    width_scale: float = 1.0
    split: str = "1"
    clips: int = 10


@dataclass(frozen=True)
class StudyRun:
    """One training.

    Attributes:
        name: Of its folder below the study's; the same for rows that differ in nothing.
        row: One of the rows that it is for.
        data: Folder of the shards that it reads.
        preset, options: Of train/main.py.
        parameters, multiply_adds: Of the network, and of one of its clips.
    """

    name: str
    row: Row
    seed: int
    data: Path
    preset: str
    options: dict[str, Any]
    config: TrainConfig
    parameters: int
    multiply_adds: int

    @property
    def folder(self) -> Path:
        """Below the study's folder."""
        return Path("runs") / self.name / f"seed{self.seed}"

    def arguments(self, out: Path) -> list[str]:
        """Of train/main.py, for the run in the study's folder `out`."""
        words = ["--data", str(self.data), "--preset", self.preset, "--out", str(out / self.folder), "--resume", "auto"]
        for name, value in self.options.items():
            flag = "--batch-size" if name == "global_batch_size" else f"--{name.replace('_', '-')}"
            words += [flag, str(value)]
        return words


def plan_run(row: Row, *, seed: int, settings: StudySettings, indexes: Sequence[ShardIndex]) -> StudyRun:
    """The training of a row.

    Args:
        indexes: The same videos at one or more stored sizes.

    Raises:
        UserError: A setting does not fit; click.UsageError where it is an option of the trainer.
    """
    part = settings.size / PAPER_CROP
    crop_size, resize = round(row.crop_size * part), round(row.crop_size * PAPER_RESIZE / PAPER_CROP * part)
    index = shards_for(resize, indexes)
    options: dict[str, Any] = {
        "model": row.model,
        "width": scaled_width(row.model, settings.width_scale),
        "num_frames": row.num_frames,
        "frame_stride": row.frame_stride,
        "crop_size": crop_size,
        "resize": resize,
        "split": settings.split,
        "seed": seed,
        "eval_every": max(1, (settings.steps or PAPER_STEPS) // 5),
        "eval_clips": 1,
    }
    optional = {"scale_to_steps": settings.steps, "global_batch_size": settings.batch_size, "lr": settings.lr}
    options |= {name: value for name, value in optional.items() if value is not None}
    if settings.steps is not None:
        options["save_every"] = min(1_000, max(1, settings.steps // 10))
    preset = "ucf101-search-2d" if row.num_frames == 1 else "ucf101-search"
    from res3d_video.train.models.table import count_costs  # these load torch
    from res3d_video.train.resolve import configure

    config = configure(preset, index, world_size=1, **options)
    parameters, multiply_adds = count_costs(
        config.model, num_classes=len(index.classes), clip_shape=(3, row.num_frames, crop_size, crop_size)
    )
    name = f"{row.model}-w{options['width']}-{row.num_frames}x{crop_size}-stride{row.frame_stride}"
    return StudyRun(name, row, seed, index.data_dir, preset, options, config, parameters, multiply_adds)


def unique_runs(runs: Sequence[StudyRun]) -> list[StudyRun]:
    """Each training once, in the order of its first row; all of a seed before the next seed's."""
    first: dict[Path, StudyRun] = {}
    for run in runs:
        first.setdefault(run.folder, run)
    return sorted(first.values(), key=lambda run: run.seed)


def scaled_width(model: str, scale: float) -> int:
    """Channels of conv1, at least 1.

    >>> scaled_width("res3d18", 0.125), scaled_width("sr34-33m", 0.125), scaled_width("res3d18", 1.0)
    (8, 6, 64)
    """
    return max(1, round(MODELS[model].width * scale))


def shards_for(resize: int, indexes: Sequence[ShardIndex]) -> ShardIndex:
    """Of the same videos at several stored sizes the smallest that is not enlarged; else the largest there is."""
    by_size = sorted(indexes, key=lambda index: index.size)
    return next((index for index in by_size if index.size >= resize), by_size[-1])


def is_enlarged(run: StudyRun, indexes: Sequence[ShardIndex]) -> bool:
    """Whether the run's frames are larger than any that are stored."""
    resize = run.config.clip.resize
    return resize is not None and resize > max(index.size for index in indexes)


class RunScores(TypedDict):
    """What a study reads of a run's scores.json; `all_clips_at_1` is over all scored clips, as in section 3."""

    step: Count
    all_clips_at_1: Share
    video_at_1: Share
    chance: Share


def read_scores(out: Path, run: StudyRun) -> RunScores | None:
    """The scores of a run in a study's folder; None without them, or where they are not of all of its steps."""
    try:
        scores = read_json(out / run.folder / SCORES, RunScores, what="scores", way_out="score the run again")
    except UserError:
        return None
    return scores if scores["step"] == run.config.steps else None


@dataclass(frozen=True)
class RowScores:
    """Of the runs of a row that are done, a seed each; accuracies 0 to 1."""

    row: Row
    parameters: int
    multiply_adds: int
    clip_accuracy: Sequence[float]
    video_at_1: Sequence[float]


@dataclass(frozen=True)
class Verdict:
    """Of one claim.

    Attributes:
        word: "seen", "not seen" or "undecided".
        reasons: Which comparisons speak against it, or leave it open; one line each.
    """

    word: str
    reasons: Sequence[str] = ()


def is_clearly_above(accuracies: Sequence[float], rivals: Sequence[float]) -> bool:
    """Whether every run of the one row is more accurate than every run of the other, with two seeds each at least.

    Where nothing but the seed differs, three runs beat three others so once in 20 times.

    >>> is_clearly_above([0.5, 0.6], [0.4, 0.45]), is_clearly_above([0.5, 0.6], [0.5, 0.4])
    (True, False)
    """
    return min(len(accuracies), len(rivals)) >= 2 and min(accuracies) > max(rivals)


def judge(claim: Claim, rows: Mapping[str, RowScores]) -> Verdict:
    """Seen when every comparison of the claim is clear, not seen when one is clearly the other way round.

    Args:
        rows: Rows of the table that have runs.
    """
    against, unclear = [], []
    for names, wanted in [(pair, True) for pair in claim.above] + [(pair, False) for pair in claim.not_below]:
        if lacking := [name for name in names if name not in rows]:
            unclear.append(f"{' and '.join(lacking)} not run")
            continue
        ours, theirs = (rows[name].clip_accuracy for name in names)
        difference = 100 * (sum(ours) / len(ours) - sum(theirs) / len(theirs))
        line = f"{names[0]} against {names[1]}: {difference:+.1f} points"
        if is_clearly_above(theirs, ours):
            against.append(line)
        elif min(len(ours), len(theirs)) < 2:
            unclear.append(f"{line}, one seed")
        elif wanted and not is_clearly_above(ours, theirs):
            unclear.append(f"{line}, but not in every seed")
    if against:
        return Verdict("not seen", against)
    return Verdict("undecided", list(dict.fromkeys(unclear))) if unclear else Verdict("seen")
