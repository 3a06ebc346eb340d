"""What a person is told before a run that is possible, but probably not the one that was meant."""

import os

from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.config import TrainConfig
from res3d_video.train.models.table import count_costs
from res3d_video.train.ranks import Ranks

# Of the forward pass, for each whole training step and core: 2.9 to 5.3 thousand million were measured with res3d18 and
# res3d10 of width 16, two cores of an AMD EPYC (docs/benchmarks/step.md and loader.md).
MULTIPLY_ADDS_PER_S = 4e9
LONG_DAYS = 1.0


def advice(config: TrainConfig, index: ShardIndex, ranks: Ranks) -> list[str]:
    """Lines for rank 0 to show; none where all is well."""
    num_videos = len(index.samples_of(config.split, "train"))
    lines = [small_set_line(config.global_batch_size, num_videos=num_videos, split=config.split)]
    if ranks.device.type == "cpu":
        num_cores = len(os.sched_getaffinity(0)) * ranks.num_machines
        lines.append(slow_line(config, num_classes=len(index.classes), num_cores=num_cores))
    return [line for line in lines if line]


def small_set_line(global_batch_size: int, *, num_videos: int, split: str) -> str:
    """What is said where a batch is larger than all that is trained on; else nothing.

    >>> small_set_line(20, num_videos=20, split="1")
    ''
    """
    if global_batch_size <= num_videos:
        return ""
    return (
        f"warning: --batch-size: {global_batch_size} clips are more than the {num_videos} videos that split {split} "
        f"trains on, so each batch shows some more than once; choose at most {num_videos}, or add videos"
    )


def slow_line(config: TrainConfig, *, num_classes: int, num_cores: int) -> str:
    """What is said where a CPU would take more than a day; else nothing."""
    num_days = cpu_days(config, num_classes=num_classes, num_cores=num_cores)
    if num_days < LONG_DAYS:
        return ""
    return (
        f"warning: no GPU is used, and {config.steps:,} steps of {config.global_batch_size} clips with "
        f"{config.model.name} take {num_cores} CPU cores about {num_days:,.0f} days; "
        "take --preset tiny or fewer --steps"
    )


def cpu_days(config: TrainConfig, *, num_classes: int, num_cores: int) -> float:
    """Days that the run would take on CPU cores, within a factor of two."""
    clip = config.clip
    shape = (3, clip.num_frames, clip.crop_size, clip.crop_size)
    _, multiply_adds = count_costs(config.model, num_classes=num_classes, clip_shape=shape)
    num_clips = config.steps * config.global_batch_size
    return num_clips * multiply_adds / (MULTIPLY_ADDS_PER_S * num_cores) / 86_400
