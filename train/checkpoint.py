"""Checkpoints: written atomically, and read without running code from the file."""

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.errors import UserError, one_line, os_errors_of_the_user
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.typed_json import Count, Real, SchemaError, Text, convert
from res3d_video.train.config import FIXED, OptimConfig, TrainConfig, differences, from_dict, to_dict
from res3d_video.train.metrics import Tally
from res3d_video.train.models import ModelConfig, build_model
from res3d_video.train.step import build_optimizer, channels_last
from res3d_video.train.torch_file import check_records, read_torch_file

FORMAT = 1
KEYS = {"format", "step", "best_accuracy", "model", "optimizer", "loader", "rng", "config", "data", "classes"}


class MomentumState(TypedDict):
    momentum_buffer: Tensor | None


class GroupState(TypedDict):  # the rest of torch's settings follows from the configuration
    lr: Real
    fused: bool | None


class OptimizerState(TypedDict, total=False):
    """The state of SGD; empty for imported weights."""

    state: dict[Count, MomentumState]
    param_groups: list[GroupState]


class LoaderState(TypedDict, total=False):
    """The state of ClipLoader; empty for imported weights."""

    position: Count
    global_batch_size: Count
    plan: Text


class DataState(TypedDict):
    name: Text
    fingerprint: Text


class CheckpointState(TypedDict):
    """The content of a checkpoint, without "format"."""

    step: Count
    best_accuracy: Annotated[float, Meta(ge=-1, le=1)]
    tally: NotRequired[Tally]  # this and the next one: not in old checkpoints, nor in imported weights
    evaluated: NotRequired[Count]
    model: dict[str, Tensor]
    ema: NotRequired[dict[str, Tensor]]  # their moving average, if the run keeps one
    optimizer: OptimizerState
    loader: LoaderState
    rng: Tensor
    config: dict[str, Any]
    data: DataState
    classes: list[Text]
    shards: NotRequired[dict[Text, int | float | str | bool | None]]  # settings of the shards; not in imports


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or of another run; the message is one line."""


def save_checkpoint(path: Path, state: dict[str, Any], *, former: Path | None = None) -> None:
    """Write `state` (KEYS without "format"); `path` is always a whole checkpoint, even if the machine crashes.

    The new file is read back from the disk, not from memory, and the CRC-32 of each record is checked before the file
    replaces the old one.

    Args:
        former: The new name of the checkpoint that is replaced.

    Raises:
        OSError: No room, no permission, or the disk returns other data than was written; the old file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            try:
                torch.save({"format": FORMAT, **state}, file)
            except RuntimeError as error:  # torch wraps the file's errors
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that it is read from the disk
        try:
            check_records(temporary)
        except SchemaError as error:
            raise OSError(errno.EIO, f"what was read back is not what was written: {error}", str(temporary)) from None
        if former is not None and path.exists():
            keep_as(path, former)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name survives a power cut too
    finally:
        os.close(folder)


def keep_as(path: Path, former: Path) -> None:
    """Give a file a second name, atomically; without hard links, rename it."""
    link = former.with_name(f".{former.name}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        path.replace(former)
    else:
        link.replace(former)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, with tensors on the CPU; types and shapes of all fields are checked.

    Raises:
        CheckpointError: The file is missing, damaged, or not a checkpoint of this trainer.
    """
    if not path.exists():
        raise CheckpointError(f"checkpoint: {path} does not exist; give a .pt file of a run folder")
    try:
        with os_errors_of_the_user(path):
            return read_torch_file(path, check_state)
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"checkpoint: {path} cannot be read ({reason}); use another one") from None


def check_state(found: Any) -> dict[str, Any]:
    """The checked fields of a checkpoint, or of its outline on the device meta; unknown fields are dropped.

    Raises:
        SchemaError: A field is missing, of another type or shape, or out of bounds.
    """
    if not isinstance(found, dict) or not set(found) >= KEYS:
        raise SchemaError("not a checkpoint of this trainer")
    if found["format"] != FORMAT:
        raise SchemaError(f"format {found['format']!r:.20}, this version reads {FORMAT}")
    state: dict[str, Any] = dict(convert(found, CheckpointState), format=FORMAT)
    config = from_dict(state["config"])
    network, optimizer = outline(config.model, config.optim, num_classes=len(state["classes"]))
    weights = network.state_dict()
    if not config.ema:
        state.pop("ema", None)
    for part in ("model", "ema") if config.ema else ("model",):
        found_weights = state.get(part, {})
        if set(weights) != set(found_weights):
            name = min(set(weights) ^ set(found_weights))
            raise SchemaError(f"{part}: {name!r:.80} is {'missing' if name in weights else 'not of this network'}")
        for name, value in found_weights.items():
            check_tensor(f"{part}: {name}", value, like=weights[name])
    check_tensor("rng", state["rng"], like=torch.get_rng_state())
    if state["rng"].device.type == "cpu":
        try:
            torch.Generator().set_state(state["rng"])
        except RuntimeError as error:
            raise SchemaError(f"rng: {one_line(error)}") from None
    state["config"] = to_dict(config)
    if state["optimizer"] or state["loader"]:
        state["optimizer"] = whole_optimizer(state["optimizer"], optimizer)
        check_loader(state["loader"], step=state["step"], config=config)
    return state


def check_tensor(name: str, value: Tensor, *, like: Tensor) -> None:
    """Raise SchemaError if a tensor differs from `like` in type or shape, or claims more data than the file has."""
    is_whole = value.layout is torch.strided and (
        value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )
    if not is_whole or (value.dtype, value.shape) != (like.dtype, like.shape):
        found = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        raise SchemaError(f"{name}: {found:.80}, must be {str(like.dtype).removeprefix('torch.')} {list(like.shape)}")


def whole_optimizer(state: OptimizerState, ours: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer: momenta and rates of the file, the rest from the checkpoint's configuration.

    Raises:
        SchemaError: It is of another network.
    """
    groups = ours.state_dict()["param_groups"]
    if len(state.get("param_groups", [])) != len(groups) or "state" not in state:
        raise SchemaError(f"optimizer: it must have {len(groups)} param_groups and a state")
    parameters = [parameter for group in ours.param_groups for parameter in group["params"]]
    for number, one in state["state"].items():
        if number >= len(parameters):
            raise SchemaError(f"optimizer: state of parameter {number}, the network has {len(parameters)}")
        if one["momentum_buffer"] is not None:
            check_tensor(f"optimizer: momentum of {number}", one["momentum_buffer"], like=parameters[number])
    return {
        "state": state["state"],
        "param_groups": [a | b for a, b in zip(groups, state["param_groups"], strict=True)],
    }


def check_loader(state: LoaderState, *, step: int, config: TrainConfig) -> None:
    """Raise SchemaError if the loader's position does not match the step."""
    batch = config.global_batch_size
    if "plan" not in state or (state.get("position"), state.get("global_batch_size")) != (step * batch, batch):
        raise SchemaError(f"loader: it is not at step {step} of batches of {batch}")


class NoNumbers(TorchFunctionMode):
    """Skips the initialization of weights; on the device meta it would import sympy, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return (args or [*kwargs.values()])[0]
        return func(*args, **(kwargs or {}))


@cache
def outline(model: ModelConfig, optim: OptimConfig, *, num_classes: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network and its optimizer on the device meta, without data."""
    with torch.device("meta"), NoNumbers():
        network = build_model(model, num_classes=num_classes)
    return network, build_optimizer(network, optim, fused=False)


def load_latest(folder: Path, *, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint of a run: latest.pt, else the previous.pt, step-N.pt or best.pt of most steps.

    Args:
        say: Called with a line about each file that cannot be read.

    Returns:
        Its path and state, or None if the folder has no checkpoints.

    Raises:
        CheckpointError: There are checkpoints, but none can be read.
    """
    others = [p for p in folder.glob("*.pt") if p.name in ("previous.pt", "best.pt") or step_of(p) is not None]
    files = [path for path in (folder / "latest.pt", *sorted(others)) if path.is_file()]
    newest: tuple[Path, dict[str, Any]] | None = None
    for path in files:
        try:
            state = load_checkpoint(path)
        except CheckpointError as error:
            say(str(error))
            continue
        if newest is None or state["step"] > newest[1]["step"]:
            newest = (path, state)
        if path.name == "latest.pt":
            break
    if files and newest is None:
        raise CheckpointError(f"checkpoint: no file in {folder} can be read; start again with another --out")
    return newest


def weights_of(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint to use: their moving average if the run kept one."""
    return state.get("ema", state["model"])


def step_of(path: Path) -> int | None:
    """12000 for step-12000.pt, None for any other name."""
    match = re.fullmatch(r"step-(\d+)\.pt", path.name)
    return int(match[1]) if match else None


def load_weights(model: nn.Module, path: Path, state: dict[str, Any], *, classes: list[str]) -> bool:
    """Start from another run's weights; the fc is new unless both runs have the same classes.

    Args:
        path: Of the checkpoint, for messages.

    Returns:
        Whether the fc was kept.

    Raises:
        CheckpointError: The networks differ in more than the fc.
    """
    keep_head, ours, theirs = state["classes"] == classes, model.state_dict(), dict(weights_of(state))
    if not keep_head:
        theirs |= {name: value for name, value in ours.items() if name.startswith("head.")}
    for name in [*ours, *theirs]:
        if name not in ours or name not in theirs or theirs[name].shape != ours[name].shape:
            about = state["config"]["model"]
            raise CheckpointError(
                f"checkpoint: {path} holds {about['name']} of width {about['width']}, whose {name} does not fit this "
                "network; choose the same --model"
            )
    model.load_state_dict(theirs)
    return keep_head


@dataclass(frozen=True)
class TrainedModel:
    """A network and everything that its clips depend on.

    Attributes:
        network: In eval mode, on its device; takes float clips [N, 3, T, H, W], gives logits [N, K].
        classes: Names, K.
        clip: The clips that it was trained on.
        mean, std: Clips are (pixel - mean) / std, pixels 0…255; one value or three, RGB.
        loss: "ce": softmax of the logits gives probabilities; "bce": sigmoid.
        shards: Settings of the shards that it was trained on; empty if unknown.
        step: Updates of the weights.
    """

    network: nn.Module
    classes: list[str]
    clip: ClipSpec
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    shards: dict[str, Any]
    step: int
    loss: str = "ce"

    @classmethod
    def of(
        cls, network: nn.Module, config: TrainConfig, classes: list[str], *, shards: dict[str, Any], step: int
    ) -> "TrainedModel":
        """The network of a run with a configuration."""
        return cls(network, classes, config.clip, config.mean, config.std, shards, step, config.loss)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device


def load_model(path: Path, *, device: str | torch.device = "cpu") -> TrainedModel:
    """The network of a checkpoint, ready for use.

    Raises:
        CheckpointError: The file is missing, damaged, or not a checkpoint of this trainer.
    """
    return trained_model(load_checkpoint(path), device=device)


def trained_model(state: dict[str, Any], *, device: str | torch.device) -> TrainedModel:
    """The network of a checkpoint's state."""
    config, classes = from_dict(state["config"]), state["classes"]
    network = build_model(config.model, num_classes=len(classes))
    network.load_state_dict(weights_of(state))
    network = channels_last(network).to(device).eval()
    return TrainedModel.of(network, config, classes, shards=state.get("shards", {}), step=state["step"])


def data_identity(index: ShardIndex) -> dict[str, str]:
    """What identifies a dataset for a resumed run; its folder may change."""
    return {"name": index.name, "fingerprint": index.fingerprint}


def check_same_run(
    state: dict[str, Any], config: TrainConfig, *, index: ShardIndex, say: Callable[[str], None]
) -> None:
    """Refuse to resume as another experiment.

    Args:
        say: Called with a line about each field that differs and is allowed to.

    Raises:
        CheckpointError: Data or a field of FIXED differ from the checkpoint's, the checkpoint is beyond the last step,
            or its weights were imported.
    """
    if not state["optimizer"]:
        raise CheckpointError(
            f"resume: the checkpoint holds imported weights ({state['data']['name']}), no run to go on with; "
            "start from it with --init-from"
        )
    if state["data"] != data_identity(index):
        theirs, ours = (f"{d['name']} ({d['fingerprint'][:8]}…)" for d in (state["data"], data_identity(index)))
        raise CheckpointError(
            f"resume: the checkpoint is of the shards {theirs}, --data is {ours}; use the same shards or another --out"
        )
    for name, (ours, theirs) in differences(config, from_dict(state["config"])).items():
        if name.split(".")[0] in FIXED:
            raise CheckpointError(f"resume: {name} is {ours} but was {theirs}; use {theirs} again or another --out")
        say(f"resume: {name} is now {ours}, was {theirs}")
    if state["step"] > config.steps:
        raise CheckpointError(
            f"resume: the checkpoint is at step {state['step']}; choose --steps of at least that, or another --out"
        )
