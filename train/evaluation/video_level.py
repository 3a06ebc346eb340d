"""Accuracy of one centre clip, and of the mean of many clips' softmax (arXiv:1708.05038, section 4)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.clip import ClipSpec
from pipeline.loader import ClipLoader, LoaderSettings
from pipeline.plan import EvalPlan
from pipeline.shard import ShardIndex
from train.evaluation.confusion import class_accuracy, confusion_matrix
from train.precision import autocast
from train.ranks import Ranks


class SampleScores(NamedTuple):
    """Of S samples over their views.

    Attributes:
        probabilities: float32 [S, K], mean softmax; NaN without any view.
        votes: int64 [S, K], views by their likeliest class.
    """

    probabilities: np.ndarray
    votes: np.ndarray


class ViewScores:
    """Sums the softmax of every sample's views, on this rank; `reduce` adds the ranks up.

    Args:
        samples: Rows of the index that are scored, int64 [S], without repeats.
        num_views: Clips that each of them gets.
    """

    def __init__(self, samples: np.ndarray, *, num_views: int, num_classes: int) -> None:
        self.samples = np.sort(samples)
        self.num_views = num_views
        self.sums = torch.zeros(len(samples), num_classes)  # [S, K]
        self.votes = torch.zeros(len(samples), num_classes, dtype=torch.int64)  # [S, K], of each view for its class
        self.num_seen = torch.zeros(len(samples), dtype=torch.int64)  # [S]

    def add(self, logits: Tensor, *, samples: np.ndarray, weights: Tensor) -> None:
        """Count one batch: logits [N, K] of clips of `samples` [N]; those with weight 0 are padding."""
        real = weights.cpu().bool()  # sync, as is the next line
        probabilities = logits.float().softmax(dim=1).cpu()[real]
        rows = torch.from_numpy(np.searchsorted(self.samples, samples))[real]
        self.sums.index_add_(0, rows, probabilities)
        self.votes.index_put_((rows, probabilities.argmax(dim=1)), torch.ones_like(rows), accumulate=True)
        self.num_seen.index_add_(0, rows, torch.ones_like(rows))

    def reduce(self, ranks: Ranks) -> SampleScores:
        """The scores of every sample over its views and all ranks; rows in ascending order.

        A view that cannot be decoded has weight 0 and is left out.

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
        means = ranks.sum(self.sums).cpu() / num_seen[:, None]  # collective; 0 / 0 is NaN
        return SampleScores(means.numpy(), ranks.sum(self.votes).cpu().numpy())  # collective


@dataclass(frozen=True)
class VideoScores:
    """What a model made of one side of a split: S samples, which are segments of V videos, often one each.

    Attributes:
        classes: Names, K.
        keys, videos: Per video the key of its first sample and its source path, V.
        labels: int64 [V].
        probabilities: float32 [V, K], softmax averaged over all clips of the video.
        votes: int64 [V, K], clips of the video by their likeliest class.
        clip_labels, clip_predicted: int64 [S], of each sample's centre clip alone.
        clips_per_video: Clips averaged for a video, at most.
        num_unreadable: Samples left out because no clip of theirs could be decoded.
    """

    classes: list[str]
    keys: list[str]
    videos: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    votes: np.ndarray
    clip_labels: np.ndarray
    clip_predicted: np.ndarray
    clips_per_video: int
    num_unreadable: int = 0

    @property
    def clip_at_1(self) -> float:
        """Share of centre clips whose likeliest class is right."""
        return float((self.clip_labels == self.clip_predicted).mean())

    @property
    def num_clips_right(self) -> np.ndarray:
        """Clips of each video whose likeliest class is right, int64 [V]."""
        return self.votes[np.arange(len(self.labels)), self.labels]

    @property
    def all_clips_at_1(self) -> float:
        """Share of all clips, the centre one and the others, whose likeliest class is right."""
        return float(self.num_clips_right.sum() / self.votes.sum())

    @property
    def video_at_1(self) -> float:
        """Share of videos whose likeliest class is right."""
        return self.video_at(1)

    @property
    def video_at_5(self) -> float:
        """Share of videos whose class is among the five likeliest."""
        return self.video_at(5)

    def video_at(self, k: int) -> float:
        """Share of videos whose class is among the `k` likeliest."""
        return float((self.ranking[:, :k] == self.labels[:, None]).any(axis=1).mean())

    @property
    def chance(self) -> float:
        """Top-1 accuracy of a uniform guess among the classes that occur; part of UCF101 has few of its 101."""
        return 1 / len(np.unique(self.labels))

    @cached_property
    def ranking(self) -> np.ndarray:
        """Classes from the likeliest down, int64 [V, K]; of equals the lower number first."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")

    @cached_property
    def confusion(self) -> np.ndarray:
        """Videos by class (row) and predicted class (column), int64 [K, K]."""
        return confusion_matrix(self.labels, self.ranking[:, 0], num_classes=len(self.classes))

    @property
    def class_accuracy(self) -> np.ndarray:
        """video@1 of each class, float64 [K]; NaN for a class without videos."""
        return class_accuracy(self.confusion)

    def summary(self) -> dict[str, Any]:
        """The numbers of the last lines of a run; accuracies 0…1."""
        return {
            "clip_at_1": self.clip_at_1,
            "all_clips_at_1": self.all_clips_at_1,
            "video_at_1": self.video_at_1,
            "video_at_5": self.video_at_5,
            "chance": self.chance,
            "num_videos": len(self.videos),
            "num_classes": len(self.classes),
            "clips_per_video": self.clips_per_video,
            "num_unreadable": self.num_unreadable,
        }

    def predictions(self) -> list[dict[str, Any]]:
        """Per video its key, source, label, prediction and the five likeliest classes, as names; and its clips."""
        return [
            {
                "key": key,
                "source": video,
                "label": self.classes[label],
                "predicted": self.classes[order[0]],
                "top5": {self.classes[k]: round(float(row[k]), 6) for k in order[:5]},
                "num_clips": int(votes.sum()),
                "num_clips_right": int(votes[label]),
            }
            for key, video, label, order, row, votes in zip(
                self.keys,
                self.videos,
                self.labels,
                self.ranking,
                self.probabilities,
                self.votes,
                strict=True,
            )
        ]


def combine(
    index: ShardIndex,
    samples: np.ndarray,
    *,
    scores: SampleScores,
    centre: SampleScores,
    num_views: int,
) -> VideoScores:
    """Average the samples of each video, which are those with the same source.

    Args:
        samples: int64 [S], ascending.
        scores, centre: Of all views, and of the centre view alone.
        num_views: Clips of each sample in `scores`.

    Raises:
        ValueError: Not one sample could be decoded.
    """
    readable = np.isfinite(scores.probabilities).all(axis=1) & np.isfinite(centre.probabilities).all(axis=1)
    num_unreadable = int((~readable).sum())
    if num_unreadable == len(samples):
        raise ValueError(f"{index.name}: none of the {len(samples)} samples could be scored; run tools/check_shards.py")
    samples, probabilities = samples[readable], scores.probabilities[readable]
    videos, first, video_of = np.unique(index.sources[samples], return_index=True, return_inverse=True)
    num_samples = np.bincount(video_of)  # [V]
    sums = np.zeros((len(videos), probabilities.shape[1]), np.float64)
    np.add.at(sums, video_of, probabilities)
    votes = np.zeros(sums.shape, np.int64)
    np.add.at(votes, video_of, scores.votes[readable])
    return VideoScores(
        classes=list(index.classes),
        keys=[index.key(row) for row in samples[first]],
        videos=[index.source(row) for row in samples[first]],
        labels=index.labels[samples[first]].astype(np.int64),
        probabilities=(sums / num_samples[:, None]).astype(np.float32),
        votes=votes,
        clip_labels=index.labels[samples].astype(np.int64),
        clip_predicted=centre.probabilities[readable].argmax(axis=1),
        clips_per_video=int(num_samples.max()) * num_views,
        num_unreadable=num_unreadable,
    )


def views_per_sample(index: ShardIndex, samples: np.ndarray, *, num_clips: int) -> int:
    """Clips of each sample so that a video gets about `num_clips`; of ten segments, one clip each will do."""
    most_segments = int(np.unique(index.sources[samples], return_counts=True)[1].max())
    return max(1, num_clips // most_segments)


def evaluate(
    model: nn.Module,
    index: ShardIndex,
    samples: np.ndarray,
    clip: ClipSpec,
    *,
    num_clips: int,
    global_batch_size: int,
    ranks: Ranks,
    mean: float | tuple[float, ...] = 128.0,
    std: float | tuple[float, ...] = 1.0,
    settings: LoaderSettings | None = None,
    interrupted: Callable[[], bool] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> VideoScores | None:
    """Score `samples` on all ranks together; every rank gets the same result. A collective.

    clip@1 is always of one centre clip, so `num_clips` above 1 makes a second pass over the videos. The model
    is left in eval mode.

    Args:
        samples: Rows of the index, int64 [S].
        num_clips: Uniformly spaced clips of a video whose softmax is averaged.
        settings: Of the loaders.
        interrupted: Asked once a batch on every rank, and must give all ranks the same answer.
        on_batch: Told (batches done, batches in all).

    Returns:
        None when interrupted.
    """
    samples = np.sort(samples)
    num_views = views_per_sample(index, samples, num_clips=num_clips)
    passes = (1, num_views) if num_views > 1 else (1,)
    plans = [EvalPlan(index, samples, clip, global_batch_size=global_batch_size, num_views=views) for views in passes]
    total, done = sum(plan.num_steps for plan in plans), 0
    model.eval()
    found = []
    for plan in plans:
        scores = ViewScores(samples, num_views=plan.num_views, num_classes=len(index.classes))
        loader = ClipLoader(
            index, plan, rank=ranks.rank, world_size=ranks.world_size, device=ranks.device,
            settings=settings, mean=mean, std=std,
        )  # fmt: skip
        with loader, torch.no_grad():
            for batch in loader:
                if interrupted is not None and interrupted():
                    return None
                with autocast(ranks.device):
                    logits = model(batch.clips)  # [N, K]
                scores.add(logits, samples=batch.samples, weights=batch.weights)
                done += 1
                if on_batch is not None:
                    on_batch(done, total)
        found.append(scores.reduce(ranks))
    return combine(index, samples, scores=found[-1], centre=found[0], num_views=num_views)
