"""Features of THUMOS14 windows: runs a network on one clip per window, and writes a row for each."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.plan import EvalPlan, PlannedClips
from res3d_video.train.config import from_dict
from res3d_video.train.evaluation.extraction import PartedExtraction
from res3d_video.train.evaluation.features import Features
from res3d_video.train.models import check_clip
from res3d_video.train.paper.thumos14 import WINDOW_CLIP, WindowList

WINDOWS_PER_PART = 1024  # that a rank loses at most when it is killed


class WindowPlan(EvalPlan):
    """The center-cropped clips of windows of one length, in order; the last batch is padded with weight 0.

    Args:
        samples: Row of the index of each window, int64 [W].
        starts: First source frame of each window, int64 [W].
        spec: The clips; their stride spreads the frames evenly over the window.

    Raises:
        UserError: The shards do not store the first frame of a clip.
    """

    def __init__(
        self, index: ShardIndex, samples: np.ndarray, starts: np.ndarray, spec: ClipSpec, *, global_batch_size: int
    ) -> None:
        if (starts % index.frame_step).any():
            raise UserError(f"{index.name}: stores every {index.frame_step}. frame; build shards with all of them")
        super().__init__(index, samples, spec, global_batch_size=global_batch_size)
        self._starts = starts // index.frame_step

    def batch(self, step: int) -> PlannedClips:
        """The batch of a step; the position of a clip is the number of its window."""
        clips = super().batch(step)
        return replace(clips, start=self._starts[clips.position])  # padding has position -1


def samples_of_windows(index: ShardIndex, windows: WindowList) -> np.ndarray:
    """Row of the index for each window, found by the file name of its video without suffix: int64 [W].

    Raises:
        UserError: A video is not in the shards exactly once, or ends before one of its windows.
    """
    names = [Path(source.decode()).stem for source in index.sources.tolist()]
    row_of = {name: row for row, name in enumerate(names)}
    for video in np.unique(windows.videos).tolist():
        if names.count(video) != 1:
            raise UserError(f"{index.name}: video {video} is there {names.count(video)} times; windows need it once")
    samples = np.array([row_of[video] for video in windows.videos.tolist()], np.int64)
    ends = index.num_frames[samples].astype(np.int64) * index.frame_step
    late = np.flatnonzero(windows.frames[:, 1] > ends)
    if len(late):
        key, end = windows.keys[late[0]], ends[late[0]]
        raise UserError(f"{index.name}: window {key} ends after the video's {end} frames; correct its length")
    return samples


class WindowExtraction(PartedExtraction):
    """Features of windows, from 16 frames of each. A part has windows of one length.

    A row has the key of a window, and source, label and split of its video. Rows are ordered by length, then as the
    windows are listed. Windows that cannot be decoded are in `unreadable`, by their keys.

    Raises:
        UserError: There are no windows, the shards lack videos or frames, or the network takes other clips.
    """

    def __init__(
        self,
        state: dict[str, Any],
        index: ShardIndex,
        windows: WindowList,
        layers: Sequence[str],
        *,
        out: Path,
        device: torch.device,
    ) -> None:
        if not len(windows):
            raise UserError("windows: there are none; videos of fewer than 16 frames have none")
        config = from_dict(state["config"])
        check_clip(config.model.name, num_frames=WINDOW_CLIP, crop_size=config.clip.crop_size)
        self.windows, self.samples = windows, samples_of_windows(index, windows)
        self.rows = [
            rows[first : first + WINDOWS_PER_PART]
            for length in np.unique(windows.lengths)
            for rows in [np.flatnonzero(windows.lengths == length)]
            for first in range(0, len(rows), WINDOWS_PER_PART)
        ]
        about = {
            "windows": sha256("\n".join(windows.keys).encode()).hexdigest(),
            "clip": asdict(config.clip) | {"num_frames": WINDOW_CLIP, "frame_stride": f"window / {WINDOW_CLIP}"},
            "layers": list(layers),
            "dtype": "float16",
            "per_clip": True,
        }
        parts = [np.unique(self.samples[rows]) for rows in self.rows]
        super().__init__(state, index, parts, about=about, out=out, device=device)

    def plan_of(self, part: int, *, batch_size: int) -> WindowPlan:
        """The clips of a part's windows."""
        rows = self.rows[part]
        stride = int(self.windows.lengths[rows[0]]) // WINDOW_CLIP
        spec = replace(self.config.clip, num_frames=WINDOW_CLIP, frame_stride=stride)
        starts = self.windows.frames[rows, 0]
        return WindowPlan(self.index, self.samples[rows], starts, spec, global_batch_size=batch_size)

    def name_rows(self, part: int, rows: Features) -> Features:
        """The rows under the keys of their windows."""
        windows = self.windows.take(self.rows[part])
        videos = np.array([Path(source).stem for source in rows.sources.tolist()], np.str_)
        frames = rows.starts[:, None] + np.array([0, windows.lengths[0]])  # [R, 2]
        keys = WindowList(videos, frames, np.ones(len(videos))).keys
        lost = sorted({*windows.keys} - {*keys})
        return replace(rows, keys=np.array(keys, np.str_), unreadable=np.array(lost, np.str_))
