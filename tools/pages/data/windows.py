"""Which frames of some samples the plans take: the first epoch's training clip, the clips of an evaluation."""

from dataclasses import dataclass

import numpy as np

from res3d_video.pipeline.clip import ClipSpec, frame_indices
from res3d_video.pipeline.index import SUBSETS, ShardIndex
from res3d_video.pipeline.plan import EvalPlan, PlannedClips, TrainPlan

# A window is a matter of time alone: where the crop lies is drawn apart, so any crop that fits gives the same frames.
SMALLEST_CROP = 1


@dataclass(frozen=True)
class Window:
    """One clip of a sample.

    Attributes:
        name: Which clip it is, for people.
        frames: Stored frames, int64 [T], never decreasing.
    """

    name: str
    frames: np.ndarray


def windows_of(
    index: ShardIndex, samples: np.ndarray, spec: ClipSpec, *, split: int, seed: int, num_views: int
) -> dict[int, list[Window]]:
    """What the plans take of some samples, as their side of a split asks; nothing of those on neither.

    Args:
        spec: Its crop does not matter.
        split: Column of `index.subsets`.
        seed: Of the training plan.
        num_views: Clips of a test sample.

    Raises:
        ValueError: The stride asks for frames that the shards do not have.
    """
    spec = ClipSpec(spec.num_frames, spec.frame_stride, SMALLEST_CROP)
    sides = index.subsets[samples, split]
    found: dict[int, list[Window]] = {int(sample): [] for sample in samples}
    training = samples[sides == SUBSETS["train"]]
    if len(training):
        rows = np.flatnonzero(index.subsets[:, split] == SUBSETS["train"])
        plan = TrainPlan(index, rows, spec, global_batch_size=1, seed=seed)
        order = plan.samples_at(np.arange(plan.samples_per_epoch, dtype=np.int64))
        for position in np.flatnonzero(np.isin(order, training)).tolist():
            clips = plan.batch(position)
            found[int(clips.sample[0])].append(Window("epoch 0", taken(index, plan, clips)[0]))
    testing = samples[sides == SUBSETS["test"]]
    if len(testing):
        evaluation = EvalPlan(index, testing, spec, global_batch_size=num_views, num_views=num_views)
        for step, sample in enumerate(testing.tolist()):
            frames = taken(index, evaluation, evaluation.batch(step))
            found[sample] = [Window(f"view {view}", own) for view, own in enumerate(frames)]
    return found


def taken(index: ShardIndex, plan: TrainPlan | EvalPlan, clips: PlannedClips) -> np.ndarray:
    """Stored frames of planned clips: int64 [B, T]."""
    return frame_indices(clips.start, plan.stored_spec, video_frames=index.num_frames[clips.sample])
