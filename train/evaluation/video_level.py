"""Accuracy of one center clip, and of the mean of many clips' softmax (arXiv:1708.05038, section 4)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan
from res3d_video.train.checkpoint import load_checkpoint, trained_model
from res3d_video.train.config import from_dict
from res3d_video.train.evaluation.confusion import SCORES, accuracies_by_name, confusion_matrix
from res3d_video.train.metrics import MAX_DAMAGED, Damaged, name_damaged
from res3d_video.train.ranks import Ranks, from_torchrun, process_group
from res3d_video.train.step import autocast
from res3d_video.train.terminal import progress, save_json


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


@dataclass(frozen=True)
class VideoScores:
    """What a model made of one side of a split: S samples, which are segments of V videos, often one each.

    Attributes:
        classes: Names, K.
        keys, videos: Per video the key of its first sample and its source path, V.
        labels: int64 [V, L], the classes that are right, -1 where a video has fewer. Classes are counted by the first.
        probabilities: float32 [V, K], softmax averaged over all clips of the video.
        votes: int64 [V, K], clips of the video by their likeliest class.
        clip_labels, clip_predicted: int64 [S, L] and [S], of each sample's center clip alone.
        clips_per_video: Clips averaged for a video, at most.
        unreadable: Samples left out because no clip of theirs could be decoded.
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
    unreadable: Damaged = field(default_factory=dict)

    @property
    def clip_at_1(self) -> float:
        """Share of center clips whose likeliest class is right."""
        return float((self.clip_labels == self.clip_predicted[:, None]).any(axis=1).mean())

    @property
    def num_clips_right(self) -> np.ndarray:
        """Clips of each video whose likeliest class is right, int64 [V]."""
        votes = np.take_along_axis(self.votes, np.maximum(self.labels, 0), axis=1)  # [V, L]
        return np.where(self.labels >= 0, votes, 0).sum(axis=1)

    @property
    def all_clips_at_1(self) -> float:
        """Share of all clips, the center one and the others, whose likeliest class is right."""
        return float(self.num_clips_right.sum() / self.votes.sum())

    @property
    def video_at_1(self) -> float:
        """Share of videos whose likeliest class is right."""
        return self._video_at(1)

    @property
    def video_at_5(self) -> float | None:
        """Share of videos whose class is among the five likeliest; None of so few classes that it is all of them."""
        return self._video_at(5) if len(self.classes) > 5 else None

    def _video_at(self, k: int) -> float:
        return float((self.ranking[:, :k, None] == self.labels[:, None, :]).any(axis=(1, 2)).mean())

    @property
    def chance(self) -> float:
        """Top-1 accuracy of a uniform guess among the classes that occur; part of UCF101 has few of its 101."""
        return 1 / len(np.unique(self.labels[:, 0]))

    @cached_property
    def ranking(self) -> np.ndarray:
        """Classes from the likeliest down, int64 [V, K]; of equals the lower number first."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")

    @cached_property
    def confusion(self) -> np.ndarray:
        """Videos by class (row) and predicted class (column), int64 [K, K]."""
        return confusion_matrix(self.labels[:, 0], self.ranking[:, 0], num_classes=len(self.classes))

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
            "num_unreadable": len(self.unreadable),
            "unreadable": [{"key": key, **about} for key, about in list(self.unreadable.items())[:MAX_DAMAGED]],
        }

    def predictions(self) -> list[dict[str, Any]]:
        """Per video its key, source, label, prediction and the five likeliest classes, as names; and its clips."""
        found = []
        rows = zip(self.keys, self.videos, self.labels, self.ranking, self.probabilities, self.votes, strict=True)
        for (key, video, labels, order, row, votes), right in zip(rows, self.num_clips_right, strict=True):
            names = [self.classes[k] for k in labels if k >= 0]
            one = {
                "key": key,
                "source": video,
                "label": names[0],
                "predicted": self.classes[order[0]],
                "top5": {self.classes[k]: round(float(row[k]), 6) for k in order[:5]},
                "num_clips": int(votes.sum()),
                "num_clips_right": int(right),
            }
            found.append(one | ({"labels": names} if len(labels) > 1 else {}))
        return found


def combine(
    index: ShardIndex,
    samples: np.ndarray,
    *,
    video_of: np.ndarray,
    scores: ClipScores,
    center: ClipScores,
    num_views: int,
    damaged: Mapping[int, str] | None = None,
) -> VideoScores:
    """The scores of videos, whose samples are those with the same source; what cannot be decoded is left out.

    Args:
        samples: int64 [S], ascending.
        video_of: Which video each belongs to, int64 [S].
        scores, center: Of all views, and of the center view alone.
        num_views: Clips of each sample in `scores`.
        damaged: Row of the index -> why it could not be decoded.

    Raises:
        ValueError: Not one sample could be decoded.
    """
    readable = (scores.num_seen > 0) & (center.num_seen > 0)  # [S]
    if not readable.any():
        raise UserError(f"{index.name}: none of the {len(samples)} samples could be scored; run tools/check_shards.py")
    videos, first = np.unique(video_of[readable], return_index=True)
    clip_samples = samples[readable]
    video_samples = clip_samples[first]
    labels = index.labels[clip_samples].astype(np.int64)[:, None]  # [S, L]
    if index.label_lists is not None:
        labels = index.all_labels(clip_samples)
    return VideoScores(
        classes=list(index.classes),
        keys=[index.key(row) for row in video_samples],
        videos=[index.source(row) for row in video_samples],
        labels=labels[first],
        probabilities=scores.probabilities[videos],
        votes=scores.votes[videos].astype(np.int64),
        clip_labels=labels,
        clip_predicted=center.predicted[readable],
        clips_per_video=int(np.bincount(video_of[readable]).max()) * num_views,
        unreadable=name_damaged(
            index, {row: (damaged or {}).get(row, "no clip of it was read") for row in samples[~readable].tolist()}
        ),
    )


def videos_of(index: ShardIndex, samples: np.ndarray) -> np.ndarray:
    """Which video each sample belongs to, numbered by name: int64 [S], 0 to V - 1."""
    return np.unique(index.sources[samples], return_inverse=True)[1].astype(np.int64)


def views_per_sample(video_of: np.ndarray, *, num_clips: int) -> int:
    """Clips of each sample so that a video gets about `num_clips`; of ten segments, one clip each will do.

    Args:
        video_of: Which video each sample belongs to, int64 [S].
    """
    return max(1, num_clips // int(np.bincount(video_of).max()))


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
    on_batch: Callable[[int, int], None] = lambda *_: None,
) -> VideoScores | None:
    """Score `samples` on all ranks together; every rank gets the same result. A collective.

    clip@1 is always of one center clip, so `num_clips` above 1 makes a second pass over the videos. The model
    is left in eval mode.

    Args:
        samples: Rows of the index, int64 [S].
        num_clips: Uniformly spaced clips of a video whose softmax is averaged.
        settings: Of the loaders.
        interrupted: Asked once a batch on every rank, and must give all ranks the same answer.
        on_batch: Told (clips done, clips in all).

    Returns:
        None when interrupted.
    """
    samples = np.sort(samples)
    video_of = videos_of(index, samples)
    num_views = views_per_sample(video_of, num_clips=num_clips)
    passes = (1, num_views) if num_views > 1 else (1,)
    plans = [EvalPlan(index, samples, clip, global_batch_size=global_batch_size, num_views=views) for views in passes]
    total, done = sum(len(samples) * plan.num_views for plan in plans), 0
    model.eval()
    found: list[ClipScores] = []
    damaged: dict[int, str] = {}
    for plan in plans:
        scores = ClipTally(samples, video_of=video_of, num_views=plan.num_views, num_classes=len(index.classes))
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
                damaged |= batch.damaged
                done += batch.num_real_global
                on_batch(done, total)
        found.append(scores.reduce(ranks))
    for part in ranks.gather(damaged):  # collective, once
        damaged |= part
    return combine(
        index, samples, video_of=video_of, scores=found[-1], center=found[0], num_views=num_views, damaged=damaged
    )


def score_run(folder: Path, index: ShardIndex, *, clips: int, num_threads: int, device: str, quiet: bool) -> None:
    """Score latest.pt of a run on the test side of its split, as tools/evaluate.py does; writes scores.json there.

    Args:
        device: "cpu", "cuda" or "auto".

    Raises:
        UserError: There is no checkpoint, it cannot be read, or the shards are of other classes or splits.
        OSError: The shards cannot be read, or nothing can be written.
    """
    checkpoint, ranks = folder / "latest.pt", from_torchrun(device)
    state = load_checkpoint(checkpoint)
    check_classes(state["classes"], index, checkpoint=checkpoint)
    split = from_dict(state["config"]).split
    samples = index.samples_of(split, "test")
    scores = score(state, index, samples, clips=clips, num_threads=num_threads, ranks=ranks, quiet=quiet)
    if ranks.is_main:
        found = everything(scores, index, checkpoint, step=state["step"], split=split, subset="test")
        save_json(folder / SCORES, found)


def check_classes(classes: list[str], index: ShardIndex, *, checkpoint: Path) -> None:
    """Refuse to score outputs that mean something else.

    Raises:
        UserError: The dataset's classes are not the checkpoint's, in the same order.
    """
    if classes != index.classes:
        raise UserError(
            f"{checkpoint}: trained on {len(classes)} classes ({', '.join(classes[:3])}, …), {index.name} "
            f"has {len(index.classes)} ({', '.join(index.classes[:3])}, …); choose shards of the same classes"
        )


def score(
    state: dict,
    index: ShardIndex,
    samples: np.ndarray,
    *,
    clips: int,
    num_threads: int,
    ranks: Ranks,
    quiet: bool,
    batch_size: int | None = None,
) -> VideoScores:
    """Build the checkpoint's network and score `samples` with it, all processes together.

    Args:
        samples: Rows of the index, int64 [S].
        batch_size: Clips of a batch of all processes; None is 16 each.
    """
    model = trained_model(state, device=ranks.device)
    quiet = quiet or not ranks.is_main
    with process_group(ranks), progress("evaluating", unit="clips", quiet=quiet) as tell:
        scores = evaluate(
            model.network,
            index,
            samples,
            model.clip,
            num_clips=clips,
            global_batch_size=batch_size or 16 * ranks.world_size,
            ranks=ranks,
            mean=model.mean,
            std=model.std,
            settings=LoaderSettings(num_threads=num_threads),
            on_batch=tell,
        )
    assert scores is not None  # nothing interrupts it
    return scores


def everything(
    scores: VideoScores, index: ShardIndex, checkpoint: Path, *, step: int, split: str, subset: str
) -> dict[str, Any]:
    """Of an evaluation: of what, accuracies, classes, confusion matrix, a prediction for each video."""
    return {
        "checkpoint": str(checkpoint),
        "step": step,
        "data": index.name,
        "split": split,
        "subset": subset,
        **scores.summary(),
        "class_accuracy": accuracies_by_name(scores.classes, scores.confusion),
        "confusion": scores.confusion.tolist(),  # row: class, column: predicted
        "predictions": scores.predictions(),
        "torch": torch.__version__,
    }
