"""Features of a dataset: each video's clips through a network, layers averaged over them (arXiv:1708.05038, section 4).

The videos are cut into parts, each a file of its own; a rank makes every world_size-th part by itself and skips those
that exist. A batch never spans two parts, so what a part holds depends on nothing else: not on the number of ranks,
nor on where a run was killed.
"""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.loader import ClipLoader, LoaderSettings
from pipeline.plan import EvalPlan
from pipeline.shard import SUBSETS, ShardIndex
from train.checkpoint import data_identity
from train.config import from_dict
from train.evaluation.features.files import FORMAT, FeatureError, merge_features, read_about, save_features
from train.evaluation.features.parts import DTYPES, PartFeatures, PartsPlan, cut_into_parts
from train.evaluation.video_level import views_per_sample
from train.models import build_model
from train.models.layers import take_layers
from train.precision import autocast, channels_last
from train.ranks import Ranks


@dataclasses.dataclass(frozen=True)
class ExtractOptions:
    """Which features of a video.

    Attributes:
        layers: Names as `take_layers` has them.
        num_clips: Uniformly spaced, centre-cropped clips of a video.
        per_clip: A row for each clip in place of their mean.
        dtype: "float16" or "float32".
        videos_per_part: Videos of one part file; a kill costs at most so many on each rank.
    """

    layers: tuple[str, ...] = ("res5b", "pool5")
    num_clips: int = 10
    per_clip: bool = False
    dtype: str = "float32"
    videos_per_part: int = 64

    def __post_init__(self) -> None:
        for name in ("num_clips", "videos_per_part"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not possible; choose at least 1")
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers: {','.join(self.layers) or 'none'} is not possible; name one or more, each once")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype} does not exist; choose {' or '.join(DTYPES)}")


class Extraction:
    """One run: `extract` on every rank, then `merge` on one of them.

    Args:
        state: Of a checkpoint.
        samples: Rows of the index, int64 [S].
        out: The feature file; its parts lie beside it in a folder of the same name and ".parts".
    """

    def __init__(
        self,
        state: dict[str, Any],
        index: ShardIndex,
        samples: np.ndarray,
        options: ExtractOptions,
        *,
        out: Path,
        device: torch.device,
    ) -> None:
        self.index, self.options, self.out, self.device = index, options, out, device
        self.folder = out.with_name(f"{out.name}.parts")
        self.num_views = views_per_sample(index, samples, num_clips=options.num_clips)
        self.parts = cut_into_parts(index, samples, videos_per_part=options.videos_per_part)
        self.about = describe(state, index, samples, options, device=device)
        self._state, self._config = state, from_dict(state["config"])

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
        made = [self.is_made(self.path_of(part)) for part in range(len(self.parts))]
        todo = [part for part in range(ranks.rank, len(self.parts), ranks.world_size) if not made[part]]
        if not todo:
            return 0
        model = build_model(self._config.model, num_classes=len(self._state["classes"]))
        model.load_state_dict(self._state["model"])
        channels_last(model).to(self.device).eval()
        clip, views = self._config.clip, self.num_views
        plans = [
            EvalPlan(self.index, self.parts[part], clip, global_batch_size=batch_size, num_views=views) for part in todo
        ]
        plan = PartsPlan(plans)
        loader = ClipLoader(
            self.index, plan, device=self.device, settings=settings, mean=self._config.mean, std=self._config.std
        )
        with loader, torch.no_grad():
            self._run(model, loader, plan, todo, on_batch=on_batch)
        return len(todo)

    def _run(
        self,
        model: nn.Module,
        loader: ClipLoader,
        plan: PartsPlan,
        todo: list[int],
        *,
        on_batch: Callable[[int, int], None] | None,
    ) -> None:
        rows: PartFeatures | None = None
        for batch in loader:
            place, is_last = plan.plan_of(batch.step)
            if rows is None:
                rows = PartFeatures(self.index, self.parts[todo[place]], per_clip=self.options.per_clip)
            with autocast(self.device):
                layers = take_layers(model, batch.clips, self.options.layers)
            rows.add(batch, layers)
            if is_last:
                save_features(self.path_of(todo[place]), rows.finish(self.about, dtype=self.options.dtype))
                rows = None
            if on_batch is not None:
                on_batch(batch.step + 1, plan.num_steps)

    def merge(self) -> int:
        """Write `out` from all parts and remove them.

        Returns:
            Rows written.

        Raises:
            FeatureError: A part is missing or damaged, or no video at all could be decoded.
        """
        num_rows = merge_features([self.path_of(part) for part in range(len(self.parts))], self.out)
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


def describe(
    state: dict[str, Any], index: ShardIndex, samples: np.ndarray, options: ExtractOptions, *, device: torch.device
) -> dict[str, Any]:
    """Everything that decides what a feature file holds, for its "about"."""
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
        "videos": hashlib.sha256(b"\n".join(sorted(index.keys[samples].tolist()))).hexdigest(),
        "clip": dataclasses.asdict(config.clip),
        "mean": config.mean,
        "std": config.std,
        "compute": "bfloat16" if device.type == "cuda" else "float32",
        **dataclasses.asdict(options) | {"layers": list(options.layers)},
    }
