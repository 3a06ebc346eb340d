"""The trainer's own options that decide which clips it takes, for another command; and what they come to."""

from pathlib import Path
from typing import Any

import click

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex, choices
from res3d_video.tools.playing.planned import config_of_run
from res3d_video.train.config import TrainConfig, override
from res3d_video.train.options import train_options
from res3d_video.train.presets import PRESETS

PLAN = ["split", "seed", "global_batch_size", "num_frames", "frame_stride", "crop_size", "resize", "flip",
        "shuffle_window", "snap_to_keyframe"]  # fmt: skip
DEFAULT_PRESET = "ucf101-search"


def plan_options(command: click.Command) -> click.Command:
    """Add the options of PLAN, as the trainer has them."""
    trainer = {option.name: option for option in click.command()(train_options(lambda: None)).params}
    command.params.extend(trainer[name] for name in PLAN)
    return command


def plan_config(
    index: ShardIndex, *, preset: str | None, run: Path | None, split: str | None, **options: Any
) -> TrainConfig:
    """The configuration of a run, or else of a preset, with the command line's changes.

    Raises:
        ValueError: Something does not fit; says what and the way out.
    """
    config = PRESETS[preset or DEFAULT_PRESET] if run is None else config_of_run(run)
    split = split or (config.split if config.split in index.split_names else index.split_names[0])
    if split not in index.split_names:
        raise UserError(f"{index.name}: split {split} does not exist; choose {choices(index.split_names)}")
    config = override(config, split=split, **options)
    if config.snap_to_keyframe and index.codec != "h264":
        raise UserError(f"--snap-to-keyframe: {index.data_dir} holds filmstrips, which have none; leave it out")
    return config
