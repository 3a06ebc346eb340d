"""A feature file made in parts, by any number of processes, that goes on after a kill.

Clips are cut into parts, each a file of its own; a rank makes every world_size-th part by itself and skips those that
exist. A batch never spans two parts, so what a part holds depends on nothing else: not on the number of ranks, nor on
where a run was killed.
"""

import dataclasses
import hashlib
import itertools
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from res3d_video.pipeline.index import SUBSETS, ShardIndex
from res3d_video.pipeline.loader import Batch, ClipLoader, LoaderSettings
from res3d_video.train.checkpoint import data_identity
from res3d_video.train.config import from_dict, to_dict
from res3d_video.train.evaluation.features.files import (
    FORMAT,
    FeatureError,
    Features,
    merge_features,
    read_about,
    save_features,
)
from res3d_video.train.evaluation.features.parts import FinitePlan, PartsPlan
from res3d_video.train.models import build_model
from res3d_video.train.models.layers import take_layers
from res3d_video.train.precision import autocast, channels_last
from res3d_video.train.ranks import Ranks


class Rows(Protocol):
    """Takes in the batches of one part and makes its rows."""

    def add(self, batch: Batch, layers: dict[str, Tensor]) -> None:
        """Count one batch: layers [N, …] of its clips; those with weight 0 are left out."""

    def finish(self, about: dict[str, Any], *, dtype: str) -> Features:
        """The rows, when all batches are there."""


class PartedExtraction(ABC):
    """One run: `extract` on every rank, then `merge` on one of them. Which clips make a part, subclasses say.

    Args:
        state: Of a checkpoint.
        about: Everything that decides what the file holds, its "layers" and "dtype" among it.
        out: The feature file; its parts lie beside it in a folder of the same name and ".parts".
    """

    def __init__(
        self,
        state: dict[str, Any],
        index: ShardIndex,
        *,
        about: dict[str, Any],
        num_parts: int,
        out: Path,
        device: torch.device,
    ) -> None:
        self.index, self.about, self.num_parts, self.out, self.device = index, about, num_parts, out, device
        self.folder = out.with_name(f"{out.name}.parts")
        self.state, self.config = state, from_dict(state["config"])

    @abstractmethod
    def plan_of(self, part: int, *, batch_size: int) -> FinitePlan:
        """The clips of a part."""

    @abstractmethod
    def rows_of(self, part: int) -> Rows:
        """What takes in the batches of that plan."""

    def path_of(self, part: int) -> Path:
        """The file of a part."""
        return self.folder / f"{part:06}.npz"

    def is_made(self, path: Path) -> bool:
        """Whether a file is there and readable.

        Raises:
            FeatureError: It is, and this run would make another; says what differs. Or `out` is something else.
        """
        try:
            theirs = read_about(path)
        except FeatureError:
            if path == self.out and path.exists():
                raise  # whatever it is, it is not ours to replace
            return False  # not there, or damaged: made again
        for name, ours in self.about.items():
            if theirs.get(name) != ours:
                remove = self.folder if path.parent == self.folder else path
                raise FeatureError(
                    f"{name}: {path} was made with {brief(theirs.get(name))}, this run has {brief(ours)}; "
                    f"choose another --out or remove {remove}"
                )
        return True

    def extract(
        self,
        ranks: Ranks,
        *,
        batch_size: int,
        settings: LoaderSettings | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> int:
        """Make this rank's parts that do not exist yet; no collective.

        Args:
            batch_size: Clips at a time, on this rank.
            on_batch: Told (batches done, batches in all) of this rank.

        Returns:
            Parts made.

        Raises:
            FeatureError: A part exists and was made in another way.
            ValueError: The network has no such layer.
        """
        made = [self.is_made(self.path_of(part)) for part in range(self.num_parts)]
        todo = [part for part in range(ranks.rank, self.num_parts, ranks.world_size) if not made[part]]
        if not todo:
            return 0
        model = build_model(self.config.model, num_classes=len(self.state["classes"]))
        model.load_state_dict(self.state["model"])
        channels_last(model).to(self.device).eval()
        plans = {part: self.plan_of(part, batch_size=batch_size) for part in todo}
        total, done = sum(plan.num_steps for plan in plans.values()), 0

        def on_done() -> None:
            nonlocal done
            done += 1
            if on_batch is not None:
                on_batch(done, total)

        mean, std = self.config.mean, self.config.std
        for _, group in itertools.groupby(todo, key=lambda part: plans[part].spec):  # a loader reads one kind of clip
            parts = list(group)
            plan = PartsPlan([plans[part] for part in parts])
            loader = ClipLoader(self.index, plan, device=self.device, settings=settings, mean=mean, std=std)
            with loader, torch.no_grad():
                self._run(model, loader, plan, parts, on_done=on_done)
        return len(todo)

    def _run(
        self, model: nn.Module, loader: ClipLoader, plan: PartsPlan, parts: list[int], *, on_done: Callable[[], None]
    ) -> None:
        rows: Rows | None = None
        for batch in loader:
            place, is_last = plan.plan_of(batch.step)
            if rows is None:
                rows = self.rows_of(parts[place])
            with autocast(self.device):
                layers = take_layers(model, batch.clips, self.about["layers"])
            rows.add(batch, layers)
            if is_last:
                save_features(self.path_of(parts[place]), rows.finish(self.about, dtype=self.about["dtype"]))
                rows = None
            on_done()

    def merge(self) -> int:
        """Write `out` from all parts and remove them.

        Returns:
            Rows written.

        Raises:
            FeatureError: A part is missing or damaged, or no video at all could be decoded.
        """
        num_rows = merge_features([self.path_of(part) for part in range(self.num_parts)], self.out)
        shutil.rmtree(self.folder)
        return num_rows


def brief(value: Any) -> str:
    """A value of "about" in a few words: of what has a fingerprint, and of a digest, the first eight digits.

    >>> brief({"fingerprint": "1f3a9c5577aa", "step": 2}), brief(["res5b", "pool5"]), brief(10)
    ('1f3a9c55…', 'res5b,pool5', '10')
    """
    if isinstance(value, dict) and "fingerprint" in value:
        return f"{value['fingerprint'][:8]}…"
    if isinstance(value, list):
        return ",".join(map(str, value))
    text = str(value)
    return text if len(text) < 64 or " " in text else f"{text[:8]}…"


def weights_fingerprint(weights: dict[str, Tensor]) -> str:
    """SHA-256 of a network's weights, names and shapes; two checkpoints of the same network have the same."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe_run(state: dict[str, Any], index: ShardIndex, *, device: torch.device) -> dict[str, Any]:
    """What decides every feature: network, pixels and dataset; the rest of "about" says which clips and layers."""
    config = from_dict(state["config"])
    num_videos = {
        split: {
            name: len(np.unique(index.sources[index.subsets[:, column] == number])) for name, number in SUBSETS.items()
        }
        for column, split in enumerate(index.split_names)
    }
    return {
        "format": FORMAT,
        "checkpoint": {
            "fingerprint": weights_fingerprint(state["model"]),
            "step": state["step"],
            "model": dataclasses.asdict(config.model),
            "data": state["data"],
            "split": config.split,
        },
        "data": {
            **data_identity(index),
            "classes": index.classes,
            "split_names": index.split_names,
            "num_videos": num_videos,  # in the dataset, whatever the file has
        },
        "mean": to_dict(config)["mean"],
        "std": to_dict(config)["std"],
        "compute": "bfloat16" if device.type == "cuda" else "float32",
    }
