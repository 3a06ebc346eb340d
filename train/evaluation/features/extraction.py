"""Features of videos: clips through a network, layers averaged over them (arXiv:1708.05038, section 4)."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.plan import EvalPlan
from res3d_video.train.config import from_dict
from res3d_video.train.evaluation.features.parted import PartedExtraction, describe_run
from res3d_video.train.evaluation.features.parts import DTYPES, PartFeatures, cut_into_parts
from res3d_video.train.evaluation.video_level import videos_of, views_per_sample


@dataclass(frozen=True)
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
                raise UserError(f"{name}: {getattr(self, name)} is not possible; choose at least 1")
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise UserError(f"layers: {','.join(self.layers) or 'none'} is not possible; name one or more, each once")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype: {self.dtype} does not exist; choose {' or '.join(DTYPES)}")


class Extraction(PartedExtraction):
    """Features of videos, a part so many of them.

    Args:
        state: Of a checkpoint.
        samples: Rows of the index, int64 [S].
        out: The feature file.
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
        about = describe_run(state, index, device=device) | {
            "videos": hashlib.sha256(b"\n".join(sorted(index.keys[samples].tolist()))).hexdigest(),
            "clip": asdict(from_dict(state["config"]).clip),
            **asdict(options) | {"layers": list(options.layers)},
        }
        self.options = options
        self.num_views = views_per_sample(videos_of(index, samples), num_clips=options.num_clips)
        self.parts = cut_into_parts(index, samples, videos_per_part=options.videos_per_part)
        super().__init__(state, index, about=about, num_parts=len(self.parts), out=out, device=device)

    def plan_of(self, part: int, *, batch_size: int) -> EvalPlan:
        """The evenly spaced clips of a part's videos."""
        samples, clip = self.parts[part], self.config.clip
        return EvalPlan(self.index, samples, clip, global_batch_size=batch_size, num_views=self.num_views)

    def rows_of(self, part: int) -> PartFeatures:
        """Their rows."""
        return PartFeatures(self.index, self.parts[part], per_clip=self.options.per_clip)


def default_layers(model: str) -> tuple[str, ...]:
    """What the papers report of a network: of C3D fc6, else the last block of depth 18 and its mean.

    >>> default_layers("c3d"), default_layers("res3d18")
    (('fc6',), ('res5b', 'pool5'))
    """
    return ("fc6",) if model == "c3d" else ("res5b", "pool5")
