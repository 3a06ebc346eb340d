"""From the command line's options to a run: configuration, execution, the state it resumes from, and advice."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any

import click
import msgspec
import platformdirs
import torch
from click.core import ParameterSource

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.settings import LoaderSettings
from res3d_video.pipeline.typed_json import Share, Text, read_json
from res3d_video.train.checkpoint import load_checkpoint, load_latest
from res3d_video.train.config import TrainConfig, from_dict, override, scaled_lr, scaled_to_steps
from res3d_video.train.models.table import count_costs
from res3d_video.train.presets import PRESETS
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepOptions, default_options
from res3d_video.train.terminal import WrongUsage, wrong_usage

WAY_OUT = "run tools/check_gpu.py on this machine, or leave --fast out"


class FastOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the trainer; those that are UNSET keep their defaults."""

    compile: bool | msgspec.UnsetType = msgspec.UNSET
    cuda_graph: bool | msgspec.UnsetType = msgspec.UNSET
    space_to_depth: bool | msgspec.UnsetType = msgspec.UNSET
    high_priority: bool | msgspec.UnsetType = msgspec.UNSET
    hw_decoder_load: Share | msgspec.UnsetType = msgspec.UNSET
    num_threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class FastFile:
    """What the file holds: `Card` fields of the GPU that was measured, and the options."""

    card: dict[str, Text]
    options: FastOptions


def fast_path() -> Path:
    """Where tools/check_gpu.py writes the settings: ~/.cache/res3d-video/fast.json on Linux."""
    return platformdirs.user_cache_path("res3d-video") / "fast.json"


def card_of(device: torch.device) -> dict[str, str]:
    """What the settings depend on: GPU, driver, torch, DALI; "none" for what is not there."""
    versions = {one.metadata["Name"]: one.version for one in distributions() if one.metadata["Name"]}
    dali = [number for name, number in sorted(versions.items()) if name.startswith("nvidia-dali")]
    on_gpu = device.type == "cuda"
    return {
        "gpu": torch.cuda.get_device_name(device) if on_gpu else "none",
        "driver": driver_version() if on_gpu else "none",
        "torch": torch.__version__,
        "dali": dali[0] if dali else "none",
    }


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Of NVIDIA's kernel module, as its own file says it; "unknown" where there is none."""
    words = file.read_text().splitlines()[0].split() if file.is_file() else []
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")


def fast_options(card: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The options of a settings file.

    Args:
        card: Of the device at hand, from `card_of`.

    Raises:
        UserError: There is no such file, it is of another card or version, or the device is no GPU.
    """
    if card["gpu"] == "none":
        raise UserError("--fast: its settings are of a GPU, and this run has none; leave --fast out")
    if not path.is_file():
        raise UserError(f"--fast: {path} does not exist; {WAY_OUT}")
    found = read_json(path, FastFile, what="settings for --fast", way_out=WAY_OUT)
    for name, here in card.items():
        if (there := found.card.get(name)) != here:
            raise UserError(f"--fast: {path} is of {name} {there}, this is {here}; {WAY_OUT}")
    return {name: value for name, value in msgspec.structs.asdict(found.options).items() if value != msgspec.UNSET}


OF_DATASETS = {"sports1m": "sports1m", "ucf101": "ucf101-search"}  # others: that of UCF101, the paper's from scratch


def execution(
    options: dict[str, Any], ranks: Ranks, *, say: Callable[[str], object]
) -> tuple[LoaderSettings, StepOptions]:
    """Take the options that say how, not what, out of the command's; the device decides those left out.

    Args:
        say: Told in a line what --fast takes.

    Raises:
        WrongUsage: A value is not possible; says which and what is.
        UserError: There are no settings for --fast.
    """
    if options.pop("fast", False):
        source, path = click.get_current_context().get_parameter_source, fast_path()
        taken = {
            name: value
            for name, value in fast_options(card_of(ranks.device), path).items()
            if source(name) is not ParameterSource.COMMANDLINE
            and not (name == "cuda_graph" and ranks.world_size > 1)  # it was measured on one GPU, without DDP
        }
        options |= taken
        flags = [f"{name.replace('_', '-')} {value}" for name, value in taken.items()]
        say(f"--fast takes from {path}: {', '.join(flags) or 'nothing'}")
    loader = {name: options.pop(name) for name in (field.name for field in fields(LoaderSettings)) if name in options}
    step = {name: options.pop(name) for name in (field.name for field in fields(StepOptions)) if name in options}
    given = {name: value for name, value in step.items() if value is not None}
    with wrong_usage():
        given |= {"may_fall_back": False} if "compile" in given else {}
        settings, chosen = LoaderSettings(**loader), replace(default_options(ranks), **given)
        chosen.check(ranks)
    return settings, chosen


def defaults(preset: str | None, out: Path | None, *, index: ShardIndex, device: torch.device) -> tuple[str, Path, str]:
    """Preset and folder of a run, and a line about those that were left out; "" if none was."""
    chosen = []
    if preset is None:
        preset, why = OF_DATASETS.get(index.name, "ucf101-search"), f"the recipe for {index.name}"
        if device.type != "cuda":
            preset, why = "tiny", "the recipe for CPUs"
        elif PRESETS[preset].clip.crop_size > index.size:
            preset, why = "tiny", f"the recipe for pictures of {index.size} pixels"
        chosen.append(f"--preset {preset} ({why})")
    if out is None:
        out = Path("runs") / (re.sub(r"[^\w.-]", "-", index.name) + f"-{preset}")
        chosen.append(f"--out {out}")
    return preset, out, f"taking {' and '.join(chosen)}" if chosen else ""


def find_state(
    resume: str, out: Path, *, say: Callable[[str], None], note: Callable[[str], None]
) -> dict[str, Any] | None:
    """The state of the checkpoint that --resume asks for; None to start at step 0.

    Args:
        say: Told in a line of what is wrong.
        note: Told where the run begins.
    """
    if resume == "never":
        if any(out.glob("*.pt")):
            raise WrongUsage(f"--out: {out} already holds a run; leave out --resume to go on, or choose another")
        return None
    if resume != "auto":
        if not Path(resume).is_file():
            raise WrongUsage(f"--resume: {resume} is no file; choose auto, never or a .pt file")
        return load_checkpoint(Path(resume))
    found = load_latest(out, say=say)
    note(
        f"going on from {found[0]} at step {found[1]['step']}"
        if found
        else f"{out} holds no checkpoint; starting at step 0"
    )
    return found[1] if found else None


def configure(
    preset: str,
    index: ShardIndex,
    *,
    world_size: int,
    split: str | None,
    scale_to_steps: int | None = None,
    scale_lr: bool = False,
    **options: Any,
) -> TrainConfig:
    """The preset with the command line's changes, checked against the dataset and the ranks.

    Raises:
        WrongUsage: Something does not fit; says what and the way out.
    """
    for scaled, name in ((scale_to_steps, "steps"), (scale_lr, "lr")):
        if scaled and options.get(name) is not None:
            flag = "--scale-to-steps" if name == "steps" else "--scale-lr"
            raise WrongUsage(f"--{name} and {flag} both decide the same; leave one of them out")
    split = split or ("1" if "1" in index.split_names else index.split_names[0])
    with wrong_usage():
        for subset in ("train", "test"):
            index.samples_of(split, subset)
        config = override(PRESETS[preset], split=split, **options)
        if scale_to_steps:
            config = scaled_to_steps(config, scale_to_steps)
        if scale_lr:
            config = scaled_lr(config, PRESETS[preset])
    if config.snap_to_keyframe and index.codec != "h264":
        raise WrongUsage(f"--snap-to-keyframe: {index.data_dir} holds filmstrips, which have none; leave it out")
    if config.global_batch_size % world_size:
        raise WrongUsage(
            f"--batch-size: {config.global_batch_size} clips cannot be shared by {world_size} processes; "
            f"choose a multiple of {world_size}"
        )
    return config


def pixels_as_trained(config: TrainConfig, state: dict[str, Any] | None) -> TrainConfig:
    """The configuration with pixels scaled as for the weights that the run starts from.

    Args:
        state: Of the checkpoint that has them, the run's own or another's; None for fresh weights.
    """
    if state is None:
        return config
    trained = from_dict(state["config"])
    return replace(config, mean=trained.mean, std=trained.std)


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
