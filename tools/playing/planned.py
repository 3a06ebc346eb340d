"""The clips that the trainer or an evaluation takes of one sample, and what the network gets of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from res3d_video.pipeline.clip import ClipSpec, frame_indices
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import SUBSETS, ShardIndex
from res3d_video.pipeline.loader import ClipLoader
from res3d_video.pipeline.plan import EvalPlan, PlannedClips, TrainPlan, drawn_labels, stored_clip
from res3d_video.tools.pages.run.reading import read_run
from res3d_video.tools.playing.samples import damaged
from res3d_video.train.config import TrainConfig
from res3d_video.train.evaluation.video_level import videos_of, views_per_sample


@dataclass(frozen=True)
class Taken:
    """Clips of one sample as a plan takes them, [N] each.

    Attributes:
        side: "train" or "test".
        clips: As planned.
        steps: int64, the steps of training they belong to; -1 in an evaluation.
        epochs: int64, likewise.
        labels: int64, the class each counts as.
        num_views: Of the sample in an evaluation; 1 in training.
    """

    side: str
    clips: PlannedClips
    steps: np.ndarray
    epochs: np.ndarray
    labels: np.ndarray
    num_views: int = 1

    def __len__(self) -> int:
        return len(self.clips)


class ChosenPlan:
    """A plan of one step that holds just some planned clips."""

    start_multiple = 1
    num_steps = 1

    def __init__(self, index: ShardIndex, spec: ClipSpec, clips: PlannedClips) -> None:
        self.index, self.spec, self._clips = index, spec, clips
        self.stored_spec = stored_clip(spec, frame_step=index.frame_step)
        self.global_batch_size = len(clips)

    @property
    def identity(self) -> str:
        return f"chosen {self.index.fingerprint} {self.spec} {len(self._clips)}"

    def batch(self, step: int) -> PlannedClips:
        """The clips."""
        return self._clips

    def replacement(self, clip: PlannedClips, attempt: int) -> None:
        """None: these clips and no others are wanted."""
        return None


def config_of_run(folder: Path) -> TrainConfig:
    """What a run was asked to do.

    Raises:
        ValueError: The folder is not a run's.
    """
    run = read_run(folder, name=folder.name)
    if run.config is None:
        raise UserError(f"{run.problems[0]}; give another folder")
    return run.config


def side_of(index: ShardIndex, sample: int, *, split: str, side: str | None) -> str:
    """The side of a split that a sample lies on; `side` is the one asked for.

    Raises:
        ValueError: It lies on another one, or on none.
    """
    number = int(index.subsets[sample, index.split_names.index(split)])
    names = {value: name for name, value in SUBSETS.items()}
    if number not in names:
        raise UserError(
            f"{index.key(sample)}: split {split} does not use it; choose another --split, or --stage segment"
        )
    if side not in (None, names[number]):
        raise UserError(f"{index.key(sample)}: on the {names[number]} side of split {split}; leave out --side {side}")
    return names[number]


def training_clips(
    index: ShardIndex, plan: TrainPlan, sample: int, *, step: int | None = None, epoch: int | None = None
) -> Taken:
    """All clips of a sample in a step; else its clip in an epoch, else its first.

    Raises:
        ValueError: The step has none; says which one does next.
    """
    batch_size, num_samples = plan.global_batch_size, plan.samples_per_epoch
    if step is None:
        position = position_of(plan, sample, epoch=epoch or 0)
        batch = plan.batch(position // batch_size)
        rows = np.flatnonzero(batch.position == position)
    else:
        batch = plan.batch(step)
        rows = np.flatnonzero(batch.sample == sample)
        if not len(rows):
            here = step * batch_size // num_samples  # epoch of the step's first clip
            coming = [position_of(plan, sample, epoch=e) for e in (here, here + 1)]
            then = min(position for position in coming if position >= step * batch_size) // batch_size
            raise UserError(f"--step: {step} does not train on {index.key(sample)}; step {then} is the next that does")
    clips = batch[rows]
    return Taken(
        "train", clips, clips.position // batch_size, clips.position // num_samples, drawn_labels(index, clips)
    )


def position_of(plan: TrainPlan, sample: int, *, epoch: int) -> int:
    """Where in the plan's stream a training sample comes in an epoch."""
    first = epoch * plan.samples_per_epoch
    order = plan.samples_at(np.arange(first, first + plan.samples_per_epoch))
    return first + int(np.flatnonzero(order == sample)[0])


def scored_clips(
    index: ShardIndex, config: TrainConfig, sample: int, *, num_clips: int, view: int | None = None
) -> Taken:
    """The evenly spaced clips that an evaluation scores of a test sample, all or one.

    Args:
        num_clips: Clips of a video. Where a video is several samples, they share them.

    Raises:
        ValueError: There is no such view.
    """
    video_of = videos_of(index, index.samples_of(config.split, "test"))
    num_views = views_per_sample(video_of, num_clips=num_clips)
    if view is not None and view >= num_views:
        raise UserError(
            f"--view: {view} does not exist; --clips {num_clips} gives {index.key(sample)} "
            + (f"0 to {num_views - 1}" if num_views > 1 else "view 0 alone")
        )
    clips = EvalPlan(index, np.array([sample]), config.clip, global_batch_size=num_views, num_views=num_views).batch(0)
    if view is not None:
        clips = clips[np.array([view])]
    none = np.full(len(clips), -1)
    return Taken("test", clips, none, none, index.labels[clips.sample].astype(np.int64), num_views)


def frames_of(index: ShardIndex, spec: ClipSpec, clips: PlannedClips) -> np.ndarray:
    """Numbers of the stored frames that clips take: int64 [N, T]."""
    stored_spec = stored_clip(spec, frame_step=index.frame_step)
    return frame_indices(clips.start, stored_spec, video_frames=index.num_frames[clips.sample])


def network_input(index: ShardIndex, config: TrainConfig, clips: PlannedClips) -> np.ndarray:
    """What the network gets: cropped, mirrored, resized and normalised by the DALI graph, float32 NTHWC RGB.

    Raises:
        ShardError: A clip is damaged; training would put another in its place.
        LoaderError: DALI failed.
    """
    plan = ChosenPlan(index, config.clip, clips)
    with ClipLoader(index, plan, device="cpu", mean=config.mean, std=config.std) as loader:
        batch = next(iter(loader))
        bad = np.flatnonzero(batch.weights.numpy() == 0)
        if len(bad):
            raise damaged(index, int(clips.sample[bad[0]]), "a frame of the clip is damaged")
        return batch.clips.permute(0, 2, 3, 4, 1).numpy().copy()  # [N, T, H, W, 3]; copy: the memory is DALI's
