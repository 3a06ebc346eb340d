"""The accuracies that arXiv:1708.05038 prints for what a run does, and why they may not be compared."""

from dataclasses import dataclass

from res3d_video.train.config import TrainConfig
from res3d_video.train.models import MODELS
from res3d_video.train.presets import NEEDS_WEIGHTS, PRESETS
from res3d_video.train.study.tables import TABLES

NUM_CLASSES = {"ucf101": 101, "hmdb51": 51, "sports1m": 487}


@dataclass(frozen=True)
class Printed:
    """Accuracies in the paper, per cent; None where it prints none.

    Attributes:
        where: Table and row.
        model: Key of MODELS.
        clips: Clips that the network was trained on; None where it is not known.
    """

    where: str
    model: str
    clip_at_1: float | None = None
    video_at_1: float | None = None
    video_at_5: float | None = None
    clips: int | None = None


SEARCH_CLIPS = PRESETS["ucf101-search"].steps * PRESETS["ucf101-search"].global_batch_size
SPORTS1M = (
    Printed("Table 8, Res3D", "res3d18", 48.8, 65.6, 87.8, clips=3_000_000 * 40),
    Printed("Table 8, C3D", "c3d", 46.1, 61.1, 85.2, clips=1_900_000 * 30),
    Printed("Table 8, 2D-Resnet", "res2d18", 45.5, 59.4, 83.0, clips=3_000_000 * 40),
)
FINETUNED = {
    "ucf101": Printed("Table 9, mean of three splits, fine-tuned", "res3d18", video_at_1=85.8, clips=20_000 * 24),
    "hmdb51": Printed("Table 10, mean of three splits, fine-tuned", "res3d18", video_at_1=54.9),
}


def printed_for(config: TrainConfig, *, preset: str, data: str) -> Printed | None:
    """What the paper prints for the same dataset, for the same network and stride where it has them, else the nearest.

    >>> printed_for(PRESETS["ucf101-search"], preset="ucf101-search", data="ucf101").clip_at_1
    45.6
    >>> printed_for(PRESETS["tiny"], preset="tiny", data="weizmann")
    """
    if preset in NEEDS_WEIGHTS:
        return FINETUNED.get(data)
    if data == "sports1m":
        return next((one for one in SPORTS1M if one.model == config.model.name), SPORTS1M[0])
    if data != "ucf101":
        return None
    found = {
        (row.model, row.frame_stride): Printed(f"Table {number}, {row.name}", row.model, row.paper, clips=SEARCH_CLIPS)
        for number, paper in reversed(TABLES.items())
        for row in paper.rows
        if row.paper is not None
    }
    nearest = ("res2d18", 1) if config.clip.num_frames == 1 else ("res3d18", 2)
    return found.get((config.model.name, config.clip.frame_stride), found[nearest])


def what_is_other(
    config: TrainConfig, printed: Printed, *, data: str, chance: float | None, num_steps: int
) -> list[str]:
    """Why ours may not be compared with the paper's: what of the run is not as it was there.

    Args:
        chance: Of our evaluation, which tells how many classes it had; None where unknown.
        num_steps: Updates done.
    """
    found, total = [], NUM_CLASSES[data]
    if chance and round(1 / chance) < total:
        found.append(
            f"{round(1 / chance)} of {total} classes: guessing gives {100 * chance:.1f} %, there {100 / total:.1f} %"
        )
    if config.model.name != printed.model:
        found.append(f"network {config.model.name}, there {printed.model}")
    elif config.model.width != MODELS[config.model.name].width:
        found.append(f"width {config.model.width}, there {MODELS[config.model.name].width}")
    if config.clip.crop_size != MODELS[printed.model].crop_size:
        found.append(f"crops of {config.clip.crop_size} pixels, there {MODELS[printed.model].crop_size}")
    if config.split != "1" and "split" not in printed.where:
        found.append(f"split {config.split}, there 1")
    if printed.clips and num_steps * config.global_batch_size < printed.clips:
        found.append(f"{num_steps * config.global_batch_size:,} clips trained on, there {printed.clips:,}")
    return found
