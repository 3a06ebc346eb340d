"""--fast: the options that tools/check_gpu.py found to be exact and faster, on this GPU with these versions."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any

import msgspec
import platformdirs
import torch

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.typed_json import Share, Text, read_json

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
