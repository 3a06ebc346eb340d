"""What all clips of an evaluation said, added up by video."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from train.ranks import Ranks


class ClipScores(NamedTuple):
    """What all clips of V videos, in S samples, came to.

    Attributes:
        probabilities: float32 [V, K], softmax averaged over the clips; NaN without any.
        votes: int32 [V, K], clips by their likeliest class.
        num_seen: int64 [S], clips of each sample that could be decoded.
        predicted: int64 [S], likeliest class of each sample's clip; only of one clip a sample.
    """

    probabilities: np.ndarray
    votes: np.ndarray
    num_seen: np.ndarray
    predicted: np.ndarray


class ClipTally:
    """Adds up the softmax of every clip, by video, on this rank; `reduce` adds the ranks up.

    Samples keep a number or two each, so the ten segments of each of 200,000 videos fit in memory.

    Args:
        samples: Rows of the index that are scored, int64 [S], ascending.
        video_of: Which video each sample belongs to, int64 [S], 0 to V - 1.
        num_views: Clips that each of them gets.
    """

    def __init__(self, samples: np.ndarray, *, video_of: np.ndarray, num_views: int, num_classes: int) -> None:
        num_videos = int(video_of.max()) + 1
        self.samples, self.video_of, self.num_views = samples, torch.from_numpy(video_of), num_views
        self.sums = torch.zeros(num_videos, num_classes)  # [V, K]
        self.votes = torch.zeros(num_videos, num_classes, dtype=torch.int32)  # [V, K]
        self.num_seen = torch.zeros(len(samples), dtype=torch.int64)  # [S]
        self.predicted = torch.zeros(len(samples), dtype=torch.int64)  # [S]

    def add(self, logits: Tensor, *, samples: np.ndarray, weights: Tensor) -> None:
        """Count one batch: logits [N, K] of clips of `samples` [N]; those with weight 0 are padding."""
        real = weights.cpu().bool()  # sync, as is the next line
        probabilities = logits.float().softmax(dim=1).cpu()[real]
        rows = torch.from_numpy(np.searchsorted(self.samples, samples))[real]
        videos, likeliest = self.video_of[rows], probabilities.argmax(dim=1)
        self.sums.index_add_(0, videos, probabilities)
        self.votes.index_put_((videos, likeliest), torch.ones_like(rows, dtype=torch.int32), accumulate=True)
        self.num_seen.index_add_(0, rows, torch.ones_like(rows))
        self.predicted.index_add_(0, rows, likeliest)

    def reduce(self, ranks: Ranks) -> ClipScores:
        """The scores over all ranks.

        A clip that cannot be decoded has weight 0 and is left out.

        Raises:
            RuntimeError: Some sample was scored more than `num_views` times.
        """
        num_seen = ranks.sum(self.num_seen).cpu()  # collective
        if bool((num_seen > self.num_views).any()):
            row = int(num_seen.argmax())
            raise RuntimeError(
                f"evaluation: sample {self.samples[row]} was scored {int(num_seen[row])} times instead of "
                f"{self.num_views}"
            )
        sums, votes = ranks.sum(self.sums).cpu(), ranks.sum(self.votes).cpu()  # collective
        predicted = ranks.sum(self.predicted).cpu()  # collective; one rank has seen a sample's only clip
        means = sums / votes.sum(dim=1, keepdim=True)  # 0 / 0 is NaN
        return ClipScores(means.numpy(), votes.numpy(), num_seen.numpy(), predicted.numpy())
