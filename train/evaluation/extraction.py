"""Features of videos: clips through a network, layers averaged over them (arXiv:1708.05038, section 4).

They are made in parts, by any number of processes, and resume after a kill: a rank makes every world_size-th part and
skips those that exist. A batch never spans two parts, so the content of a part depends neither on the number of ranks
nor on where a run was killed.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from res3d_video.pipeline.augment import NONE
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch, ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan, Plan, PlannedClips
from res3d_video.train.checkpoint import data_identity, weights_of
from res3d_video.train.config import from_dict, to_dict
from res3d_video.train.evaluation.features import FORMAT, FeatureError, Features, parquet, read_about, save_features
from res3d_video.train.evaluation.video_level import videos_of, views_per_sample
from res3d_video.train.models import build_model, take_layers
from res3d_video.train.ranks import Ranks, process_group
from res3d_video.train.step import autocast, channels_last
from res3d_video.train.terminal import progress

VIDEOS_PER_PART = 64  # a kill loses at most so many on each rank


class PartedExtraction:
    """A run of a network over clips, in parts; subclasses define the clips of a part.

    Args:
        state: Of a checkpoint.
        parts: Rows of the index in each part, int64 [S] each.
        about: What decides the features besides network, pixels and dataset, including `layers` (names as in
            `take_layers`), `dtype` and `per_clip`.
        out: The folder of the parts.

    Raises:
        UserError: No layer is named, or one twice.
    """

    def __init__(
        self,
        state: dict[str, Any],
        index: ShardIndex,
        parts: Sequence[np.ndarray],
        *,
        about: dict[str, Any],
        out: Path,
        device: torch.device,
    ) -> None:
        layers, config = about["layers"], from_dict(state["config"])
        if not layers or len(set(layers)) < len(layers):
            raise UserError(f"layers must be one or more, each once, got {','.join(layers) or 'none'}")
        self.state, self.config, self.index, self.parts, self.out = state, config, index, parts, out
        self.device = device
        self.about = about | {
            "format": FORMAT,
            "checkpoint": {
                "fingerprint": weights_fingerprint(weights_of(state)),
                "step": state["step"],
                "model": asdict(config.model),
                "data": state["data"],
                "split": config.split,
            },
            "data": {**data_identity(index), "classes": index.classes, "split_names": index.split_names},
            "mean": to_dict(config)["mean"],
            "std": to_dict(config)["std"],
            "compute": "bfloat16" if device.type == "cuda" else "float32",
            "num_parts": len(parts),
        }

    def plan_of(self, part: int, *, batch_size: int) -> Plan:
        """The clips of a part; a plan that ends."""
        raise NotImplementedError

    def name_rows(self, part: int, rows: Features) -> Features:
        """The rows of a part as they are saved."""
        return rows

    def path_of(self, part: int) -> Path:
        """The file of a part."""
        return self.out / f"{part:06}.parquet"

    def missing(self) -> list[int]:
        """Parts that do not exist or are damaged.

        Raises:
            FeatureError: A part was made in another way; the message says what differs. Or `out` is a file.
        """
        if self.out.is_file():
            raise FeatureError(f"{self.out}: is a file, not a folder of features; choose another --out or remove it")
        return [part for part in range(len(self.parts)) if not self._is_made(self.path_of(part))]

    def _is_made(self, path: Path) -> bool:
        try:
            theirs, _ = read_about(path)
        except FeatureError:
            return False  # make it again
        if differing := [name for name, ours in self.about.items() if theirs.get(name) != ours]:
            raise FeatureError(
                f"{self.out}: was made with another {', '.join(differing)}; choose another --out or remove it"
            )
        return True

    def extract(
        self,
        ranks: Ranks,
        *,
        batch_size: int,
        settings: LoaderSettings | None = None,
        on_batch: Callable[[int, int], None] = lambda *_: None,
    ) -> int:
        """Make this rank's missing parts; not a collective.

        Args:
            batch_size: Clips of a batch, on this rank.
            on_batch: Called with (batches done, batches in all) of this rank.

        Returns:
            Number of parts made.
        """
        todo = [part for part in self.missing() if part % ranks.world_size == ranks.rank]
        if not todo:
            return 0
        model = build_model(self.config.model, num_classes=len(self.state["classes"]))
        model.load_state_dict(weights_of(self.state))
        channels_last(model).to(self.device).eval()
        plans = {part: self.plan_of(part, batch_size=batch_size) for part in todo}
        total, done = sum(plan.num_steps or 0 for plan in plans.values()), 0
        mean, std = self.config.mean, self.config.std
        for _, group in itertools.groupby(todo, key=lambda part: plans[part].spec):  # a loader reads clips of one spec
            parts = list(group)
            plan = PartsPlan([plans[part] for part in parts])
            rows: PartFeatures | None = None
            loader = ClipLoader(self.index, plan, device=self.device, settings=settings, mean=mean, std=std)
            with loader, torch.no_grad():
                for batch in loader:
                    place, is_last = plan.plan_of(batch.step)
                    part = parts[place]
                    rows = rows or PartFeatures(self.index, self.parts[part])
                    with autocast(self.device):
                        rows.add(batch, take_layers(model, batch.clips, self.about["layers"]))
                    if is_last:
                        save_features(self.path_of(part), self.name_rows(part, rows.finish(self.about)))
                        rows = None
                    done += 1
                    on_batch(done, total)
        return len(todo)

    def make(self, ranks: Ranks, *, batch_size: int, num_threads: int, quiet: bool) -> bool:
        """Make the features with all processes together; a collective.

        Returns:
            False if they exist already, made in the same way.
        """
        with parquet(self.out):
            pass  # fails before the work if a package is missing
        with process_group(ranks):
            if not any(ranks.gather(len(self.missing()))):  # collective: no rank begins before all have looked
                return False
            with progress("extracting", unit="batches", quiet=quiet or not ranks.is_main) as tell:
                settings = LoaderSettings(num_threads=num_threads)
                self.extract(ranks, batch_size=batch_size, settings=settings, on_batch=tell)
            ranks.gather(None)  # collective: all parts are made
        return True


class Extraction(PartedExtraction):
    """Features of all videos of a dataset.

    Args:
        num_clips: Evenly spaced, center-cropped clips of a video.
        per_clip: A row per clip instead of their mean.
        dtype: "float16" or "float32".
    """

    def __init__(
        self,
        state: dict[str, Any],
        index: ShardIndex,
        *,
        out: Path,
        device: torch.device,
        layers: Sequence[str] = ("res5b", "pool5"),
        num_clips: int = 10,
        per_clip: bool = False,
        dtype: str = "float32",
    ) -> None:
        about = {
            "clip": asdict(from_dict(state["config"]).clip),
            "layers": list(layers),
            "num_clips": num_clips,
            "per_clip": per_clip,
            "dtype": dtype,
        }
        self.num_views = views_per_sample(videos_of(index, np.arange(index.num_samples)), num_clips=num_clips)
        parts = cut_into_parts(index.sources, videos_per_part=VIDEOS_PER_PART)
        super().__init__(state, index, parts, about=about, out=out, device=device)

    def plan_of(self, part: int, *, batch_size: int) -> EvalPlan:
        """The evenly spaced clips of a part's videos."""
        samples, clip = self.parts[part], self.config.clip
        return EvalPlan(self.index, samples, clip, global_batch_size=batch_size, num_views=self.num_views)


def cut_into_parts(sources: np.ndarray, *, videos_per_part: int) -> list[np.ndarray]:
    """Samples in parts of `videos_per_part` videos, int64 [s] each; videos are in the order of their names.

    >>> [part.tolist() for part in cut_into_parts(np.array(["b", "a", "a", "b", "c", "a"]), videos_per_part=2)]
    [[1, 2, 5, 0, 3], [4]]
    """
    samples = np.argsort(sources, kind="stable")
    _, first = np.unique(sources[samples], return_index=True)
    return np.split(samples, first[videos_per_part::videos_per_part])


class PartsPlan:
    """Several plans one after another, each starting a new batch, for one loader.

    Args:
        plans: Of the same index, clip and batch size; all are finite.
    """

    augmentation, num_crops, start_multiple, canonical_groups = NONE, 1, 1, 0

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.index, self.spec, self.stored_spec = plans[0].index, plans[0].spec, plans[0].stored_spec
        self.global_batch_size = plans[0].global_batch_size
        self._plans = plans
        self._first = np.cumsum([0, *(plan.num_steps for plan in plans)])
        self.num_steps = int(self._first[-1])

    @property
    def identity(self) -> str:
        return " + ".join(plan.identity for plan in self._plans)

    def plan_of(self, step: int) -> tuple[int, bool]:
        """Which of the plans a step belongs to, and whether it is that plan's last."""
        plan = int(np.searchsorted(self._first, step, side="right")) - 1
        return plan, step + 1 == self._first[plan + 1]

    def batch(self, step: int) -> PlannedClips:
        """The batch of a step."""
        plan, _ = self.plan_of(step)
        return self._plans[plan].batch(step - int(self._first[plan]))

    def replacement(self, clip: PlannedClips, attempt: int) -> None:
        """Nothing may stand in for a video."""
        return None


class PartFeatures:
    """Collects the batches of one part and makes its rows; `samples` are rows of the index, int64 [S]."""

    def __init__(self, index: ShardIndex, samples: np.ndarray) -> None:
        self._index, self._samples = index, samples
        self._taken: list[np.ndarray] = []  # sample and first source frame of every clip, int64 [n, 2] of each batch
        self._layers: list[dict[str, np.ndarray]] = []  # float32 [n, D] of each batch

    def add(self, batch: Batch, layers: dict[str, Tensor]) -> None:
        """Add a batch: layers [N, …] of its clips; clips with weight 0 are left out."""
        real = np.flatnonzero(batch.weights.cpu().numpy())  # sync, as is the last line
        self._taken.append(np.stack([batch.samples[real], batch.starts[real]], axis=1))
        self._layers.append({name: values.flatten(1).float().cpu().numpy()[real] for name, values in layers.items()})

    def finish(self, about: dict[str, Any]) -> Features:
        """The rows: clips in the order of their batches, or videos in that of their first clips.

        Raises:
            UserError: A feature is not finite, or too large for the dtype.
        """
        samples, starts = np.concatenate(self._taken).astype(np.int64).T
        index, sources, dtype = self._index, self._index.sources[samples], about["dtype"]
        clips = Features(
            about=about,
            keys=np.strings.decode(index.keys[samples]),
            sources=np.strings.decode(sources),
            groups=np.strings.decode(index.groups[samples]),
            labels=index.labels[samples].astype(np.int64),
            subsets=np.asarray(index.subsets[samples], np.int8),
            num_clips=np.ones(len(samples), np.int64),
            starts=starts,
            unreadable=np.strings.decode(np.setdiff1d(index.sources[self._samples], sources)),
            layers={name: np.concatenate([batch[name] for batch in self._layers]) for name in about["layers"]},
        )
        rows = clips if about["per_clip"] else clips.averaged()
        for name, values in rows.layers.items():
            if not (np.abs(values) <= np.finfo(dtype).max).all():
                raise UserError(
                    f"{name}: a feature is {np.abs(values).max()}, which {dtype} cannot hold; "
                    "use --dtype float32, or another checkpoint if it is not a number"
                )
        return replace(rows, layers={name: values.astype(dtype) for name, values in rows.layers.items()})


def weights_fingerprint(weights: dict[str, Tensor]) -> str:
    """SHA-256 of a network's weights, names and shapes; equal for checkpoints of the same network."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
