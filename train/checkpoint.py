"""Checkpoints: written whole or not at all, read without running code from the file."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.shard import ShardIndex
from train.config import FIXED, TrainConfig, differences, from_dict
from train.whole_file import check_records, write_whole

FORMAT = 1
KEYS = {"format", "step", "best_accuracy", "model", "optimizer", "loader", "rng", "config", "data", "classes"}


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another run; the message is one line."""


def save_checkpoint(path: Path, state: dict[str, Any], *, former: Path | None = None) -> None:
    """Write `state` (KEYS but "format"); `path` always holds a whole checkpoint, even if the machine dies.

    Args:
        former: What the checkpoint that was there is called from now on.

    Raises:
        OSError: No room, no permission, or the disk does not give back what it was given; nothing has changed.
    """
    write_whole(path, partial(torch.save, {"format": FORMAT, **state}), former=former)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, tensors on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged, or not one of ours.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint: {path} does not exist; give a .pt file of a run folder")
    try:
        check_records(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … for damaged files
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"checkpoint: {path} cannot be read ({reason[0][:120]}); use another one") from None
    if not isinstance(state, dict) or not set(state) >= KEYS:
        raise CheckpointError(f"checkpoint: {path} is not a checkpoint of this trainer; use one of a run folder")
    if state["format"] != FORMAT:
        raise CheckpointError(f"checkpoint: {path} has format {state['format']}, this version reads {FORMAT}")
    return state


def load_latest(folder: Path, *, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint of a run: latest.pt, else the previous.pt, step-N.pt or best.pt of most steps.

    Args:
        say: Told in one line about each file that cannot be read.

    Returns:
        Its path and state, or None when the folder holds no checkpoint at all.

    Raises:
        CheckpointError: There are checkpoints and none can be read.
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


def step_of(path: Path) -> int | None:
    """12000 for step-12000.pt, None for any other name."""
    match = re.fullmatch(r"step-(\d+)\.pt", path.name)
    return int(match[1]) if match else None


def load_weights(model: nn.Module, path: Path, state: dict[str, Any], *, classes: list[str]) -> bool:
    """Start from another run's weights; the fc stays fresh unless both runs have the same classes.

    Args:
        path: Of the checkpoint, for people.
        state: What it holds.

    Returns:
        Whether the fc was kept.

    Raises:
        CheckpointError: The networks differ in more than the fc.
    """
    keep_head = state["classes"] == classes
    theirs = {name: value for name, value in state["model"].items() if keep_head or not name.startswith("head.")}
    ours = {name: value for name, value in model.state_dict().items() if keep_head or not name.startswith("head.")}
    differing = [name for name in ours if name not in theirs or theirs[name].shape != ours[name].shape]
    differing += [name for name in theirs if name not in ours]
    if differing:
        about = state["config"]["model"]
        raise CheckpointError(
            f"checkpoint: {path} holds {about['name']} of width {about['width']}, whose {differing[0]} does "
            "not fit this network; choose the same --model"
        )
    model.load_state_dict(theirs, strict=False)
    return keep_head


def data_identity(index: ShardIndex) -> dict[str, str]:
    """What makes two datasets the same for a resumed run; the folder may move."""
    return {"name": index.name, "fingerprint": index.fingerprint}


def describe(data: dict[str, str]) -> str:
    """ "ucf101 (1f3a9c…)"."""
    return f"{data['name']} ({data['fingerprint'][:8]}…)"


def check_same_run(
    state: dict[str, Any], config: TrainConfig, *, index: ShardIndex, say: Callable[[str], None]
) -> None:
    """Refuse to resume what would be another experiment.

    Args:
        say: Told about each field that differs and may.

    Raises:
        CheckpointError: Data or a field of FIXED differ from the checkpoint's, it is beyond the last step, or its
            weights were imported.
    """
    if not state["optimizer"]:
        raise CheckpointError(
            f"resume: the checkpoint holds imported weights ({state['data']['name']}), no run to go on with; "
            "start from it with --init-from"
        )
    if state["data"] != data_identity(index):
        raise CheckpointError(
            f"resume: the checkpoint is of the shards {describe(state['data'])}, --data is "
            f"{describe(data_identity(index))}; use the same shards or another --out"
        )
    for name, (ours, theirs) in differences(config, from_dict(state["config"])).items():
        if name.split(".")[0] in FIXED:
            raise CheckpointError(f"resume: {name} is {ours} but was {theirs}; use {theirs} again or another --out")
        say(f"resume: {name} is now {ours}, was {theirs}")
    if state["step"] > config.steps:
        raise CheckpointError(f"resume: the checkpoint is at step {state['step']}; choose --steps of at least that")
