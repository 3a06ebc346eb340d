"""Features of THUMOS14 windows: the clip that stands for each through a network, one loader a window length."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.clip import ClipSpec
from pipeline.loader import ClipLoader, LoaderSettings
from pipeline.plan import PlannedClips, crop_room, stored_clip
from pipeline.shard import ShardIndex
from train.config import from_dict
from train.evaluation.thumos14.segments import WINDOW_CLIP
from train.evaluation.thumos14.windows import WindowList
from train.models import build_model, check_clip
from train.models.layers import take_layers
from train.precision import autocast, channels_last


class WindowPlan:
    """The centre-cropped clips of windows of one length, in order; the last batch is padded with weight 0.

    Args:
        samples: Row of the index of each window, int64 [W].
        starts: First source frame of each, int64 [W].
        spec: Of the clips; their frames are the first of each equal part of the window.

    Raises:
        ValueError: The shards dropped frames that the clips begin with.
    """

    start_step = 1

    def __init__(
        self, index: ShardIndex, samples: np.ndarray, starts: np.ndarray, spec: ClipSpec, *, global_batch_size: int
    ) -> None:
        if (starts % index.frame_step).any():
            raise ValueError(f"{index.name}: stores every {index.frame_step}. frame; build shards with all of them")
        self.index, self.spec, self.global_batch_size = index, spec, global_batch_size
        self.stored_spec = stored_clip(spec, frame_step=index.frame_step)
        self._samples, self._starts = samples, starts // index.frame_step
        crop_room(index.content[samples], spec, stored_size=index.size)

    @property
    def num_steps(self) -> int:
        return -(-len(self._samples) // self.global_batch_size)

    @property
    def identity(self) -> str:
        return f"windows {self.index.fingerprint} n={len(self._samples)} {self.spec}"

    def batch(self, step: int) -> PlannedClips:
        """The batch of a step; a clip's position is its window's place."""
        first = step * self.global_batch_size
        position = np.arange(first, first + self.global_batch_size, dtype=np.int64)
        real = position < len(self._samples)
        place = np.minimum(position, len(self._samples) - 1)
        sample = self._samples[place]
        down, sideways = crop_room(self.index.content[sample], self.spec, stored_size=self.index.size)
        return PlannedClips(
            position=np.where(real, position, -1),
            sample=sample,
            start=self._starts[place],
            view=np.zeros(len(position), np.int64),
            top=(down - 1) // 2,
            left=(sideways - 1) // 2,
            flip=np.zeros(len(position), bool),
            weight=real.astype(np.float32),
        )

    def replacement(self, position: int, attempt: int) -> int | None:
        """Nothing may stand in for a window."""
        return None


def samples_of_windows(index: ShardIndex, windows: WindowList) -> np.ndarray:
    """Row of the index of each window's video, found by its file name without the suffix: int64 [W].

    Raises:
        ValueError: A video is not in the shards, is there more than once, or ends before one of its windows.
    """
    names = [Path(source.decode()).stem for source in index.sources.tolist()]
    row_of = {name: row for row, name in enumerate(names)}
    listed, which = np.unique(windows.videos, return_inverse=True)
    for video in listed.tolist():
        if names.count(video) != 1:
            raise ValueError(f"{index.name}: video {video} is there {names.count(video)} times; windows need it once")
    samples = np.array([row_of[video] for video in listed.tolist()], np.int64)[which]
    ends = index.num_frames[samples].astype(np.int64) * index.frame_step
    late = np.flatnonzero(windows.frames[:, 1] > ends)
    if len(late):
        key, row = windows.keys[late[0]], late[0]
        raise ValueError(f"{index.name}: window {key} ends after the video's {ends[row]} frames; list windows anew")
    return samples


def extract_windows(
    state: dict[str, Any],
    index: ShardIndex,
    windows: WindowList,
    layers: Sequence[str],
    *,
    device: torch.device,
    batch_size: int,
    settings: LoaderSettings | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Run the checkpoint's network over the clips of windows: 16 frames each, whatever it was trained on.

    Args:
        state: Of a checkpoint.
        layers: Names as `take_layers` has them.
        batch_size: Clips at a time.
        on_batch: Told (batches done, batches in all).

    Returns:
        By layer, float16 [W, D], and whether each window could be decoded, bool [W]; the others have zeros.

    Raises:
        ValueError: There are no windows, or the shards lack videos or frames of them, or the network a layer.
    """
    if not len(windows):
        raise ValueError("windows: there are none; videos of fewer than 16 frames have none")
    config, samples = from_dict(state["config"]), samples_of_windows(index, windows)
    check_clip(config.model.name, num_frames=WINDOW_CLIP, crop_size=config.clip.crop_size)
    model = build_model(config.model, num_classes=len(state["classes"]))
    model.load_state_dict(state["model"])
    channels_last(model).to(device).eval()
    plans = []
    for length in np.unique(windows.lengths).tolist():
        rows = np.flatnonzero(windows.lengths == length)
        spec = replace(config.clip, num_frames=WINDOW_CLIP, frame_stride=length // WINDOW_CLIP)
        starts = windows.frames[rows, 0]
        plans.append((rows, WindowPlan(index, samples[rows], starts, spec, global_batch_size=batch_size)))
    total, done = sum(plan.num_steps for _, plan in plans), 0
    features: dict[str, np.ndarray] = {}
    readable = np.zeros(len(windows), bool)
    for rows, plan in plans:
        loader = ClipLoader(index, plan, device=device, settings=settings, mean=config.mean, std=config.std)
        with loader, torch.no_grad():
            for batch in loader:
                real = np.flatnonzero(batch.weights.cpu().numpy())  # sync
                places = rows[batch.step * batch_size + real]
                with autocast(device):
                    found = take_layers(model, batch.clips, layers)
                for name, values in found.items():
                    flat = values.flatten(1).float().cpu().numpy()[real].astype(np.float16)  # [n, D]; sync
                    whole = features.setdefault(name, np.zeros((len(windows), flat.shape[1]), np.float16))
                    whole[places] = flat
                readable[places] = True
                done += 1
                if on_batch is not None:
                    on_batch(done, total)
    return features, readable


def write_features(path: Path, keys: Sequence[str], features: dict[str, np.ndarray]) -> None:
    """`keys` and `layer/NAME` as .npz; `path` always holds a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        arrays = {f"layer/{name}": values for name, values in features.items()}
        np.savez(file, keys=np.array(keys, np.str_), **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
