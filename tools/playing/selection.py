"""Which sample is shown, which clips training or an evaluation takes of it, and what the network gets of them."""

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from res3d_video.pipeline.clip import frame_indices, per_channel
from res3d_video.pipeline.errors import UserError, did_you_mean
from res3d_video.pipeline.frames import damaged, decode_frames
from res3d_video.pipeline.index import SUBSETS, ShardIndex, choices
from res3d_video.pipeline.loader import ClipLoader
from res3d_video.pipeline.plan import EvalPlan, PlannedClips, drawn_labels, stored_clip
from res3d_video.pipeline.reader import open_tar
from res3d_video.pipeline.typed_json import read_json
from res3d_video.tools.key_json import read_meta
from res3d_video.train.config import TrainConfig, from_dict, override, train_plan
from res3d_video.train.evaluation.video_level import videos_of, views_per_sample
from res3d_video.train.presets import PRESETS


class FixedPlan(EvalPlan):
    """A single step of given clips."""

    def __init__(self, index: ShardIndex, config: TrainConfig, clips: PlannedClips) -> None:
        super().__init__(index, clips.sample, config.clip, global_batch_size=len(clips))
        self._clips = clips

    def batch(self, step: int) -> PlannedClips:
        """The clips."""
        return self._clips


def plan_config(
    index: ShardIndex, *, preset: str | None, run: Path | None, split: str | None, **options: Any
) -> TrainConfig:
    """The configuration of a run, or else of a preset, with the command line's changes. Raises UserError."""
    config = PRESETS[preset or "ucf101-search"] if run is None else config_of_run(run)
    split = split or (config.split if config.split in index.split_names else index.split_names[0])
    if split not in index.split_names:
        raise UserError(f"{index.name}: split {split} does not exist; choose {choices(index.split_names)}")
    config = override(config, split=split, **options)
    if config.snap_to_keyframe and index.codec != "h264":
        raise UserError(f"--snap-to-keyframe: {index.data_dir} holds filmstrips, which have none; leave it out")
    return config


def config_of_run(folder: Path) -> TrainConfig:
    """What a run was asked to do. Raises UserError if the folder has no config.json of the trainer."""
    path, way_out = folder / "config.json", "give the --out of train/main.py"
    values = read_json(path, dict[str, Any], what="the trainer's", way_out=way_out)
    try:
        return from_dict(values.get("config", {"": ""}))
    except UserError as error:
        raise UserError(f"{path}: {error}; {way_out}") from None


def find_sample(index: ShardIndex, name: str) -> int:
    """The only sample with a key, a video's name, or a part of either. Raises UserError if there is none, or more."""
    part = name.encode()
    found = np.flatnonzero(index.keys == part)
    if not len(found):
        found = np.flatnonzero(contains(index.keys, part) | contains(index.sources, part))
        named = found[contains(np.char.add(b"/", index.sources[found]), b"/" + part + b".")]  # clip1, not clip10
        found = named if len(named) == 1 else found
    if len(found) == 1:
        return int(found[0])
    if len(found):
        first = ", ".join(f"{index.key(row)} ({index.source(row)})" for row in found[:3])
        raise UserError(f"{name}: {len(found)} samples have it in their key or source: {first}, …; give one's key")
    half = len(part) // 2  # a single slip spares one half of the name
    similar = np.flatnonzero(contains(index.sources, part[:half]) | contains(index.sources, part[half:]))
    videos = [PurePosixPath(index.source(row)).stem for row in similar[:2000]]  # of millions it would take minutes
    hint = did_you_mean(name, videos) or "; --random shows any"
    raise UserError(f"{name}: no sample of {index.name} has it in its key or source{hint}")


def contains(names: np.ndarray, part: bytes) -> np.ndarray:
    """Which of some byte strings have a part: bool [N]."""
    return np.char.find(names, part) >= 0


def random_sample(
    index: ShardIndex, config: TrainConfig, *, side: str | None, class_name: str | None, step: int | None
) -> int:
    """Any sample of the split: on a side, of a class, in a step of training. Raises UserError if there is none."""
    used = index.subsets[:, index.split_names.index(config.split)]
    rows = np.flatnonzero(used == SUBSETS[side] if side else used)
    if class_name is not None:
        if class_name not in index.classes:
            hint = did_you_mean(class_name, index.classes) or f"; {index.data_dir}/dataset.json names all"
            raise UserError(f"--class: {class_name} does not exist{hint}")
        rows = rows[(index.all_labels(rows) == index.classes.index(class_name)).any(axis=1)]
    if step is not None:
        rows = np.intersect1d(rows, train_plan(index, config).batch(step).sample)
    if not len(rows):
        raise UserError(f"{index.name}: split {config.split} has no such sample; leave out --side, --class or --step")
    return int(np.random.default_rng().choice(rows))


def sample_metadata(index: ShardIndex, sample: int) -> dict[str, Any]:
    """A sample for JSON: stored frames, source frames a second (0: unknown), stored width and height in pixels."""
    try:
        file = open_tar(index, int(index.tar[sample]))
    except OSError:
        file = None
    key_json = file and read_meta(index, sample, file)
    return {
        "key": index.key(sample),
        "source": index.source(sample),
        "classes": [index.classes[label] for label in index.all_labels(np.array([sample]))[0] if label >= 0],
        "num_frames": int(index.num_frames[sample]),
        "fps": key_json["fps"] if key_json else 0.0,
        "width": int(index.content[sample, 2]),
        "height": int(index.content[sample, 3]),
    }


def select_clips(
    index: ShardIndex, config: TrainConfig, sample: int, *, step: int | None = None, num_clips: int = 1
) -> PlannedClips:
    """The clips that training or an evaluation takes of a sample. Raises UserError if split or step does not use it.

    Args:
        step: All clips of this step of training; None for one of each epoch from the first on.
        num_clips: Epochs of training, or clips of a video in an evaluation, which the samples of the video share.
    """
    if step is not None:
        batch = train_plan(index, config).batch(step)
        if sample not in batch.sample:
            raise UserError(f"--step: {step} does not train on {index.key(sample)}; leave out --step, or take --random")
        return batch[batch.sample == sample]
    if not is_trained(index, config, sample):
        videos = videos_of(index, index.samples_of(config.split, "test"))
        views = views_per_sample(videos, num_clips=num_clips)
        return EvalPlan(index, np.array([sample]), config.clip, global_batch_size=views, num_views=views).batch(0)
    plan, parts = train_plan(index, config), []
    for epoch in range(num_clips):
        stream = np.arange(plan.samples_per_epoch) + epoch * plan.samples_per_epoch
        position = int(stream[plan.samples_at(stream) == sample][0])
        batch = plan.batch(position // plan.global_batch_size)
        parts.append(vars(batch[batch.position == position]))
    return PlannedClips(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def is_trained(index: ShardIndex, config: TrainConfig, sample: int) -> bool:
    """Whether the split trains on a sample; otherwise it tests on it. Raises UserError if it does neither."""
    subset, key = index.subsets[sample, index.split_names.index(config.split)], index.key(sample)
    if not subset:
        raise UserError(f"{key}: split {config.split} does not use it; choose another --split, or --segment")
    return bool(subset == SUBSETS["train"])


def describe_clips(index: ShardIndex, config: TrainConfig, clips: PlannedClips) -> list[dict[str, Any]]:
    """Where each clip of a sample is taken, for JSON: frames of the source; crops in pixels after resizing."""
    frames, labels = clip_frames(index, config, clips) * index.frame_step, drawn_labels(index, clips)
    described: list[dict[str, Any]] = []
    for n, position in enumerate(clips.position.tolist()):
        if is_trained(index, config, clips.sample[n]):
            epoch = position // len(index.samples_of(config.split, "train"))
            described.append({"step": position // config.global_batch_size, "epoch": epoch})
        else:
            described.append({"view": int(clips.view[n])})
        crop = {"left": int(clips.left[n]), "top": int(clips.top[n]), "size": config.clip.crop_size}
        flip, name = bool(clips.flip[n]), index.classes[labels[n]]
        described[n] |= {"frames": frames[n].tolist(), "crop": crop, "flip": flip, "class": name}
    return described


def clip_frames(index: ShardIndex, config: TrainConfig, clips: PlannedClips) -> np.ndarray:
    """Numbers of the stored frames that clips take: int64 [N, T]."""
    spec = stored_clip(config.clip, frame_step=index.frame_step)
    return frame_indices(clips.start, spec, video_frames=index.num_frames[clips.sample])


def stored_frames(index: ShardIndex, sample: int, frames: np.ndarray) -> np.ndarray:
    """Stored frames, int [F], never decreasing: uint8 RGB [F, height, width, 3]. Raises ShardError for damage."""
    left, top, width, height = index.content[sample].tolist()
    return decode_frames(index, sample, frames)[:, top : top + height, left : left + width]


def network_input(index: ShardIndex, config: TrainConfig, clips: PlannedClips) -> np.ndarray:
    """What the loader gives the network of some clips, its normalization undone: uint8 RGB NTHWC.

    Raises ShardError for a damaged clip, LoaderError if DALI fails.
    """
    with ClipLoader(index, FixedPlan(index, config, clips), mean=config.mean, std=config.std) as loader:
        batch = next(iter(loader))
        for sample, reason in batch.damaged.items():
            raise damaged(index, sample, reason)
        values = batch.clips.permute(0, 2, 3, 4, 1).numpy()  # [N, T, H, W, 3]
        pixels = values * np.array(per_channel(config.std)) + np.array(per_channel(config.mean))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
