"""What somebody wants to see, found in a dataset and made ready to be drawn."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.playing.draw import Show
from res3d_video.tools.playing.planned import Taken, scored_clips, side_of, training_clips
from res3d_video.tools.playing.samples import find_sample, nth_sample, random_sample
from res3d_video.tools.playing.shows import Look, show_clips, show_segment
from res3d_video.tools.playing.titles import Stage
from res3d_video.train.config import TrainConfig, train_plan

VIEWS = 10  # clips of a video where one of them is asked for by its number


@dataclass(frozen=True)
class Wanted:
    """Which sample, and which of its clips.

    Attributes:
        key, number: Of the sample; neither for a random one.
        side: Of the split, which the sample must be on; None for either.
        step, epoch: Of training; neither for the sample's first clip.
        view, num_clips: Of an evaluation: one clip, of so many.
        split: Of a random segment; that of clips is their configuration's.
    """

    stage: Stage = "both"
    key: str | None = None
    number: int | None = None
    side: str | None = None
    step: int | None = None
    epoch: int | None = None
    view: int | None = None
    num_clips: int | None = None
    split: str | None = None

    def of_side(self, side: str) -> dict[str, int | None]:
        """Options that mean something on one side only."""
        if side == "train":
            return {"--step": self.step, "--epoch": self.epoch}
        return {"--view": self.view, "--clips": self.num_clips}


def make_show(index: ShardIndex, config: TrainConfig | None, wanted: Wanted, look: Look) -> tuple[Show, dict[str, Any]]:
    """What is to be drawn, and the same in numbers.

    Args:
        config: How clips are taken; a segment needs none.

    Raises:
        ValueError: There is no such sample or clip, in one line.
        ShardError: The sample is damaged.
        LoaderError: DALI failed.
    """
    sample = choose(index, wanted, split=config.split if config is not None else wanted.split)
    if config is None:
        show, told = show_segment(index, sample, look)
    else:
        taken = take(index, config, sample, wanted)
        show, told = show_clips(index, config, sample, taken, look, stage=wanted.stage)
    return show, told | {"stage": wanted.stage}


def choose(index: ShardIndex, wanted: Wanted, *, split: str | None) -> int:
    """The sample."""
    if wanted.key is not None:
        return find_sample(index, wanted.key)
    if wanted.number is not None:
        return nth_sample(index, wanted.number)
    return random_sample(index, split=split, side=wanted.side, random=np.random.default_rng())


def take(index: ShardIndex, config: TrainConfig, sample: int, wanted: Wanted) -> Taken:
    """The sample's clips, as training or an evaluation takes them.

    Raises:
        ValueError: An option does not fit the side that the sample is on.
    """
    side = side_of(index, sample, split=config.split, side=wanted.side)
    other = "test" if side == "train" else "train"
    for name, value in wanted.of_side(other).items():
        if value is not None:
            raise UserError(f"{name}: of the {other} side, {index.key(sample)} is on the {side} side; leave it out")
    if side == "train":
        return training_clips(index, train_plan(index, config), sample, step=wanted.step, epoch=wanted.epoch)
    num_clips = wanted.num_clips or (1 if wanted.view is None else VIEWS)
    return scored_clips(index, config, sample, num_clips=num_clips, view=wanted.view)
