"""From tables to runs: which trainings a study needs, each once, as options of the trainer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.config import TrainConfig
from res3d_video.train.models import MODELS
from res3d_video.train.models.table import count_costs
from res3d_video.train.resolve import configure
from res3d_video.train.study.tables import Row

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
        flip: Mirror half of the training clips.
        split: Of the dataset.
        clips: Of each test video, evenly spaced; all are scored.
    """

    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    size: int = PAPER_CROP
    width_scale: float = 1.0
    flip: bool = True
    split: str = "1"
    clips: int = 10

    def describe(self) -> dict[str, Any]:
        """For study.json; a study in the same folder must have the same."""
        return asdict(self)


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
            if isinstance(value, bool):
                words.append(flag if value else flag.replace("--", "--no-", 1))
            else:
                words += [flag, str(value)]
        return words


def plan_run(row: Row, *, seed: int, settings: StudySettings, indexes: Sequence[ShardIndex]) -> StudyRun:
    """The training of a row.

    Args:
        indexes: The same videos at one or more stored sizes.

    Raises:
        ValueError: A setting does not fit, in one line; click.UsageError where it is an option of the trainer.
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
        "flip": settings.flip,
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
