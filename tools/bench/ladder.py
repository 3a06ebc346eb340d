"""The ways to execute a training step: a ladder from plain float32 to everything, and everything without one thing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from train.step import StepOptions


@dataclass(frozen=True)
class Way:
    """How to execute a step."""

    options: StepOptions
    bfloat16: bool = False
    fused: bool = False  # the optimizer: one kernel for all weights


PLAIN = Way(StepOptions(channels_last=False))

Change = Callable[[Way], Way]


def option(**values: Any) -> Change:
    """The change of some StepOptions."""
    return lambda way: replace(way, options=replace(way.options, **values))


def ladder(kind: str) -> dict[str, Change]:
    """What each rung adds to the one below, for "cpu" or "cuda"."""
    layout = {"channels_last": option(channels_last=True)}
    fused: dict[str, Change] = {"fused optimizer": lambda way: replace(way, fused=True)}
    compiled = {"torch.compile": option(compile=True)}
    folded = {
        f"space to depth, {channels} channels": option(space_to_depth=True, folded_channels=channels)
        for channels in ((16, 12) if kind == "cpu" else (12, 16))
    }
    if kind == "cpu":
        return layout | fused | folded | compiled
    bfloat16: dict[str, Change] = {"bfloat16": lambda way: replace(way, bfloat16=True)}
    last = {"CUDA graph": option(cuda_graph=True), "high priority": option(high_priority=True)}
    return bfloat16 | layout | fused | {"cuDNN benchmark": option(cudnn_benchmark=True)} | compiled | folded | last


def removals(kind: str) -> dict[str, Change]:
    """What takes each of them away again."""
    found: dict[str, Change] = {
        "channels_last": option(channels_last=False),
        "fused optimizer": lambda way: replace(way, fused=False),
        "torch.compile": option(compile=False),
        "space to depth": option(space_to_depth=False),
    }
    if kind == "cpu":
        return found
    return found | {
        "bfloat16": lambda way: replace(way, bfloat16=False),
        "cuDNN benchmark": option(cudnn_benchmark=False),
        "CUDA graph": option(cuda_graph=False),
        "high priority": option(high_priority=False),
    }


def ways_of(kind: str, *, leave_out: Sequence[str] = ()) -> tuple[dict[str, Way], dict[str, Way]]:
    """The ladder from plain float32 to everything, and everything without one thing; by name.

    Args:
        leave_out: Names of `removals` that are not tried at all.
    """
    rungs = {"float32": PLAIN}
    way = PLAIN
    for name, change in ladder(kind).items():
        if not name.startswith(tuple(leave_out)):
            way = rungs[name] = change(way)
    return rungs, {f"without {name}": change(way) for name, change in removals(kind).items() if name not in leave_out}
