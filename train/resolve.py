"""From the command line's options to a run: configuration, execution, and the state it resumes from."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypedDict

import click
import platformdirs
import torch
from click.core import ParameterSource

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.settings import LoaderSettings
from res3d_video.pipeline.typed_json import Text, read_json
from res3d_video.train.checkpoint import load_checkpoint, load_latest
from res3d_video.train.config import PARTS, TrainConfig, default_groups, from_dict, override, scaled_to_steps
from res3d_video.train.data_options import start_multiple_of
from res3d_video.train.presets import PRESETS
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepOptions, default_options
from res3d_video.train.terminal import WrongUsage, wrong_usage

WAY_OUT = "run tools/check_gpu.py on this machine, or leave --fast out"


class FastOptions(TypedDict, total=False):
    """Options of the trainer; missing ones keep their defaults."""

    compile: bool
    cuda_graph: bool
    space_to_depth: bool
    high_priority: bool
    hw_decoder_load: float
    num_threads: int


class FastFile(TypedDict):
    """The content of the file: `card_of` the measured GPU, and the options."""

    card: dict[str, Text]
    options: FastOptions


def fast_path() -> Path:
    """Where tools/check_gpu.py writes the settings: ~/.cache/res3d-video/fast.json on Linux."""
    return platformdirs.user_cache_path("res3d-video") / "fast.json"


def card_of(device: torch.device) -> dict[str, str]:
    """What the settings depend on: GPU, driver, torch, DALI; "none" for what is missing."""
    on_gpu, dali = device.type == "cuda", ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
    return {
        "gpu": torch.cuda.get_device_name(device) if on_gpu else "none",
        "driver": driver_version() if on_gpu else "none",
        "torch": torch.__version__,
        "dali": next((found.version for name in dali for found in distributions(name=name)), "none"),
    }


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Version of NVIDIA's kernel module; "unknown" if it is not loaded."""
    found = re.search(r"\d+\.[\d.]+", file.read_text()) if file.is_file() else None
    return found[0] if found else "unknown"


def fast_options(card: Mapping[str, str], path: Path) -> FastOptions:
    """The options in a settings file.

    Args:
        card: `card_of` this run's device.

    Raises:
        UserError: There is no such file, it is for another card or version, or the device is not a GPU.
    """
    if card["gpu"] == "none":
        raise UserError("--fast: its settings are of a GPU, and this run has none; leave --fast out")
    if not path.is_file():
        raise UserError(f"--fast: {path} does not exist; {WAY_OUT}")
    found = read_json(path, FastFile, what="settings for --fast", way_out=WAY_OUT)
    for name, here in card.items():
        if (there := found["card"].get(name)) != here:
            raise UserError(f"--fast: {path} is of {name} {there}, this is {here}; {WAY_OUT}")
    return found["options"]


OF_DATASETS = {"sports1m": "sports1m", "ucf101": "ucf101-search"}  # others: that of UCF101, the paper's from scratch


def execution(
    options: dict[str, Any], ranks: Ranks, *, say: Callable[[str], object]
) -> tuple[LoaderSettings, StepOptions]:
    """Remove the options of execution from those of the command; the device decides the ones left out.

    Args:
        say: Called with a line about what --fast takes.

    Raises:
        WrongUsage: A value is out of bounds.
        UserError: There are no settings for --fast.
    """
    if options.pop("fast", False):
        source, path = click.get_current_context().get_parameter_source, fast_path()
        taken = {
            name: value
            for name, value in fast_options(card_of(ranks.device), path).items()
            if source(name) is not ParameterSource.COMMANDLINE
            and not (name == "cuda_graph" and ranks.world_size > 1)  # measured on one GPU, without DDP
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
    """Preset and folder of a run, and a line about the defaults that were chosen; "" if none was."""
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
    """The state of the checkpoint that --resume selects; None to start at step 0. `note` is told which."""
    if resume == "never":
        if any(out.glob("*.pt")):
            raise WrongUsage(f"--out: {out} already holds a run; leave out --resume to go on, or choose another")
        return None
    if resume != "auto":
        if not Path(resume).is_file():
            raise WrongUsage(f"--resume: {resume} is no file; choose auto, never or a .pt file")
        return load_checkpoint(Path(resume))
    found = load_latest(out, say=say)
    if found is None:
        note(f"{out} holds no checkpoint; starting at step 0")
        return None
    note(f"going on from {found[0]} at step {found[1]['step']}")
    return found[1]


def configure(
    preset: str,
    index: ShardIndex,
    *,
    world_size: int,
    split: str | None,
    scale_to_steps: int | None = None,
    **options: Any,
) -> TrainConfig:
    """The preset with the command line's changes; WrongUsage if they do not fit the dataset or the ranks."""
    if scale_to_steps and options.get("steps") is not None:
        raise WrongUsage("--steps and --scale-to-steps both decide the same; leave one of them out")
    split = split or ("1" if "1" in index.split_names else index.split_names[0])
    with wrong_usage():
        for subset in ("train", "test"):
            index.samples_of(split, subset)
        config = override(PRESETS[preset], split=split, **options)
        if index.store is not None and options.get("canonical_groups") is None:
            num_samples = len(index.samples_of(split, "train"))
            config = replace(config, canonical_groups=default_groups(config.global_batch_size, num_samples=num_samples))
        if scale_to_steps:
            config = scaled_to_steps(config, scale_to_steps)
        start_multiple_of(index, snap_to_keyframe=config.snap_to_keyframe)
    if config.global_batch_size % world_size:
        raise WrongUsage(
            f"--batch-size: {config.global_batch_size} clips cannot be shared by {world_size} processes; "
            f"choose a multiple of {world_size}"
        )
    if (config.mixup or config.cutmix) and config.global_batch_size % (2 * world_size):
        raise WrongUsage(
            f"--batch-size: mixup and cutmix mix pairs of clips, and {config.global_batch_size} are no pairs for "
            f"{world_size} processes; choose a multiple of {2 * world_size}, or --mixup 0 --cutmix 0"
        )
    return config


def as_trained(
    config: TrainConfig, state: dict[str, Any], *, goes_on: bool, is_based: bool, **options: Any
) -> TrainConfig:
    """The configuration with the pixel scaling of the checkpoint that the run resumes or starts from.

    A resumed run also keeps its groups of shards, unless others are given: its shards may have moved to a URL.

    Args:
        goes_on: The run is resumed.
        is_based: The run started from the weights of another one: keep their network and clips, too, except for given
            options.
        options: Of the command line; None for those that are not given.
    """
    trained = from_dict(state["config"])
    config = replace(config, mean=trained.mean, std=trained.std)
    if goes_on and options.get("canonical_groups") is None:
        config = replace(config, canonical_groups=trained.canonical_groups)
    if not is_based:
        return config
    given = {PARTS[name]: value for name, value in options.items() if name in PARTS and value is not None}
    model = config.model if ("model", "name") in given else trained.model
    clip = asdict(trained.clip) | {name: value for (part, name), value in given.items() if part == "clip"}
    width = given.get(("model", "width"), model.width)
    with wrong_usage():
        model = replace(config.model, name=model.name, width=width)
        return replace(config, model=model, clip=ClipSpec(**clip))
