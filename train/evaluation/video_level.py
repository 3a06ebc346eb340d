"""Accuracy of one center clip, and of the mean of many clips' softmax (arXiv:1708.05038, section 4)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan
from res3d_video.train.checkpoint import TrainedModel, load_checkpoint, trained_model
from res3d_video.train.config import from_dict
from res3d_video.train.evaluation import accuracies_by_name, confusion_matrix
from res3d_video.train.metrics import MAX_DAMAGED, Damaged, name_damaged
from res3d_video.train.ranks import Ranks, process_group
from res3d_video.train.step import autocast, probabilities_of
from res3d_video.train.terminal import progress


class ClipTally:
    """Sums the probabilities of clips by video.

    Samples take only a number or two each, so that ten segments of each of 200,000 videos fit in memory.

    Args:
        samples: Rows of the index that are scored, int64 [S], ascending.
        video_of: Which video each sample belongs to, int64 [S], 0 to V - 1.
        loss: "ce" or "bce", with which the model was trained.

    Attributes:
        sums: float32 [V, K], probabilities of all clips.
        votes: int32 [V, K], clips by their likeliest class.
        num_seen: int64 [S], clips of each sample that were decoded.
        predicted: int64 [S], likeliest class of each sample's clip; valid for one clip per sample.
    """

    def __init__(self, samples: np.ndarray, *, video_of: np.ndarray, num_classes: int, loss: str = "ce") -> None:
        num_videos = int(video_of.max()) + 1
        self.samples, self.video_of, self.loss = samples, torch.from_numpy(video_of), loss
        self.sums = torch.zeros(num_videos, num_classes)
        self.votes = torch.zeros(num_videos, num_classes, dtype=torch.int32)
        self.num_seen = torch.zeros(len(samples), dtype=torch.int64)
        self.predicted = torch.zeros(len(samples), dtype=torch.int64)

    def add(self, logits: Tensor, *, samples: np.ndarray, weights: Tensor) -> None:
        """Add a batch: logits [N, K] of clips of `samples` [N]; clips with weight 0 are padding or damaged."""
        real = weights.cpu().bool()  # sync, as is the next line
        probabilities = probabilities_of(logits, loss=self.loss).cpu()[real]
        rows = torch.from_numpy(np.searchsorted(self.samples, samples))[real]
        videos, likeliest = self.video_of[rows], probabilities.argmax(dim=1)
        self.sums.index_add_(0, videos, probabilities)
        self.votes.index_put_((videos, likeliest), torch.ones_like(rows, dtype=torch.int32), accumulate=True)
        self.num_seen.index_add_(0, rows, torch.ones_like(rows))
        self.predicted.index_add_(0, rows, likeliest)

    def reduce(self, ranks: Ranks) -> None:
        """Sum over all ranks; a collective."""
        self.sums, self.votes = ranks.sum(self.sums).cpu(), ranks.sum(self.votes).cpu()
        self.num_seen, self.predicted = ranks.sum(self.num_seen).cpu(), ranks.sum(self.predicted).cpu()


@dataclass(frozen=True)
class VideoScores:
    """Predictions for one side of a split: S samples, which are segments of V videos, often one each.

    Attributes:
        classes: Names, K.
        keys, videos: Per video the key of its first sample and its source path, V.
        labels: int64 [V, L], the classes that are right, -1 where a video has fewer. Classes are counted by the first.
        probabilities: float32 [V, K], averaged over all clips of the video.
        votes: int64 [V, K], clips of the video by their likeliest class.
        clip_labels, clip_predicted: int64 [S, L] and [S], of each sample's center clip alone.
        clips_per_video: Clips and crops averaged for a video, at most.
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
        return float((self.ranking[:, :1] == self.labels).any(axis=1).mean())

    @property
    def video_at_5(self) -> float | None:
        """Share of videos whose class is among the five likeliest; None of so few classes that it is all of them."""
        among = (self.ranking[:, :5, None] == self.labels[:, None, :]).any(axis=(1, 2))
        return float(among.mean()) if len(self.classes) > 5 else None

    @cached_property
    def average_precisions(self) -> np.ndarray | None:
        """Of each class, float64 [K], NaN of classes without a video; None where no video has several labels."""
        if self.labels.shape[1] == 1:
            return None
        right = (self.labels[:, :, None] == np.arange(len(self.classes))).any(axis=1)  # [V, K]
        return np.array(
            [average_precision(p, r) if r.any() else np.nan for p, r in zip(self.probabilities.T, right.T, strict=True)]
        )

    @property
    def class_ap(self) -> dict[str, float | None] | None:
        """Class -> average precision, None of classes without a video; None where no video has several labels."""
        if self.average_precisions is None:
            return None
        return dict(
            zip(self.classes, [None if np.isnan(p) else float(p) for p in self.average_precisions], strict=True)
        )

    @property
    def mean_ap(self) -> float | None:
        """Mean of the average precisions of the classes that occur."""
        return None if self.average_precisions is None else float(np.nanmean(self.average_precisions))

    @property
    def quality(self) -> float:
        """The score that selects best.pt: mAP if videos have several labels, else clip@1."""
        return self.clip_at_1 if self.mean_ap is None else self.mean_ap

    @property
    def chance(self) -> float:
        """Top-1 accuracy of a uniform guess among the classes that occur, which may be few of the dataset's."""
        return 1 / len(np.unique(self.labels[:, 0]))

    @cached_property
    def ranking(self) -> np.ndarray:
        """Classes from the likeliest to the least likely, int64 [V, K]; ties in the order of their numbers."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")

    @cached_property
    def confusion(self) -> np.ndarray:
        """Videos by class (row) and predicted class (column), int64 [K, K]."""
        return confusion_matrix(self.labels[:, 0], self.ranking[:, 0], num_classes=len(self.classes))

    def summary(self) -> dict[str, Any]:
        """The scores as numbers for JSON; accuracies 0…1."""
        return {
            "clip_at_1": self.clip_at_1,
            "all_clips_at_1": self.all_clips_at_1,
            "video_at_1": self.video_at_1,
            "video_at_5": self.video_at_5,
            "mean_ap": self.mean_ap,
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


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """Area under the precision-recall curve, as steps: the sum of precision times the gain in recall.

    Equal scores are one threshold, as in scikit-learn.

    Args:
        scores: float [V].
        right: bool [V], at least one.

    >>> average_precision(np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, False, True, False]))
    0.8333333333333333
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of each threshold's videos
    hits = np.cumsum(right[order])[last]
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * hits / (last + 1)))


def combine(
    index: ShardIndex, scores: ClipTally, *, center: ClipTally, num_views: int, damaged: Mapping[int, str]
) -> VideoScores:
    """The scores of videos, which are samples with the same source; samples that do not decode are left out.

    Args:
        scores, center: Of all views, and of only the center view.
        num_views: Clips and crops of each sample in `scores`.
        damaged: Row of the index -> why it could not be decoded.

    Raises:
        UserError: No sample could be decoded.
    """
    samples, video_of = scores.samples, scores.video_of.numpy()
    readable = ((scores.num_seen > 0) & (center.num_seen > 0)).numpy()  # [S]
    if not readable.any():
        raise UserError(f"{index.name}: none of the {len(samples)} samples could be scored; run tools/check_shards.py")
    videos, first = np.unique(video_of[readable], return_index=True)
    clip_samples = samples[readable]
    labels = index.all_labels(clip_samples)  # [S, L]
    votes = scores.votes[videos]
    lost = {row: damaged.get(row, "no clip of it was read") for row in samples[~readable].tolist()}
    return VideoScores(
        classes=list(index.classes),
        keys=[index.key(row) for row in clip_samples[first]],
        videos=[index.source(row) for row in clip_samples[first]],
        labels=labels[first],
        probabilities=(scores.sums[videos] / votes.sum(dim=1, keepdim=True)).numpy(),
        votes=votes.numpy().astype(np.int64),
        clip_labels=labels,
        clip_predicted=center.predicted.numpy()[readable],
        clips_per_video=int(np.bincount(video_of[readable]).max()) * num_views,
        unreadable=name_damaged(index, lost),
    )


def videos_of(index: ShardIndex, samples: np.ndarray) -> np.ndarray:
    """Which video each sample belongs to, numbered by name: int64 [S], 0 to V - 1."""
    return np.unique(index.sources[samples], return_inverse=True)[1].astype(np.int64)


def views_per_sample(video_of: np.ndarray, *, num_clips: int) -> int:
    """Clips of each sample so that a video gets about `num_clips`; of ten segments, one clip each is enough.

    Args:
        video_of: Which video each sample belongs to, int64 [S].
    """
    return max(1, num_clips // int(np.bincount(video_of).max()))


def evaluate(
    model: TrainedModel,
    index: ShardIndex,
    samples: np.ndarray,
    *,
    num_clips: int,
    num_crops: int = 1,
    global_batch_size: int,
    ranks: Ranks,
    settings: LoaderSettings | None = None,
    interrupted: Callable[[], bool] | None = None,
    on_batch: Callable[[int, int], None] = lambda *_: None,
) -> VideoScores | None:
    """Score `samples` on all ranks together; every rank gets the same result. A collective.

    clip@1 is always of one center crop of one center clip, so more of either make a second pass over the videos. The
    network is left in eval mode.

    Args:
        samples: Rows of the index, int64 [S].
        num_clips: Uniformly spaced clips of a video whose probabilities are averaged.
        num_crops: Crops of each of them, along the longer side of the picture.
        settings: Of the loaders.
        interrupted: Called once a batch on every rank; must return the same on all ranks.
        on_batch: Called with (clips done, clips in all).

    Returns:
        None when interrupted.
    """
    samples = np.sort(samples)
    video_of = videos_of(index, samples)
    num_views = views_per_sample(video_of, num_clips=num_clips)
    plans = [EvalPlan(index, samples, model.clip, global_batch_size=global_batch_size)]
    if num_views * num_crops > 1:
        reads = max(global_batch_size // (num_crops * ranks.world_size), 1) * ranks.world_size
        more = {"global_batch_size": reads * num_crops, "num_views": num_views, "num_crops": num_crops}
        plans.append(EvalPlan(index, samples, model.clip, **more))
    total, done = sum(plan.num_clips for plan in plans), 0
    model.network.eval()
    tallies: list[ClipTally] = []
    damaged: dict[int, str] = {}
    for plan in plans:
        tally = ClipTally(samples, video_of=video_of, num_classes=len(index.classes), loss=model.loss)
        loader = ClipLoader(
            index, plan, rank=ranks.rank, world_size=ranks.world_size, device=ranks.device,
            settings=settings, mean=model.mean, std=model.std,
        )  # fmt: skip
        with loader, torch.no_grad():
            for batch in loader:
                if interrupted is not None and interrupted():
                    return None
                with autocast(ranks.device):
                    logits = model.network(batch.clips)  # [N, K]
                tally.add(logits, samples=batch.samples, weights=batch.weights)
                damaged |= batch.damaged
                done += batch.num_real_global
                on_batch(done, total)
        tally.reduce(ranks)
        tallies.append(tally)
    for part in ranks.gather(damaged):  # collective, once
        damaged |= part
    return combine(index, tallies[-1], center=tallies[0], num_views=num_views * num_crops, damaged=damaged)


def score_checkpoint(
    checkpoint: Path,
    index: ShardIndex,
    *,
    ranks: Ranks,
    split: str | None = None,
    subset: str = "test",
    num_clips: int = 10,
    num_crops: int = 1,
    num_threads: int = 2,
    batch_size: int | None = None,
    quiet: bool = False,
) -> tuple[VideoScores, dict[str, Any]]:
    """Score a checkpoint on one side of a split, with all processes together.

    Args:
        split: None is the split of the training.
        batch_size: Clips of a batch over all processes; None is 16 for each.

    Returns:
        The scores, and the content of the JSON of tools/evaluate.py: accuracies, classes, a prediction for each video.

    Raises:
        UserError: The checkpoint cannot be read, or the shards have other classes or no such split.
    """
    state = load_checkpoint(checkpoint)
    classes, config = state["classes"], from_dict(state["config"])
    if classes != index.classes:
        raise UserError(
            f"{checkpoint}: trained on {len(classes)} classes ({', '.join(classes[:3])}, …), {index.name} "
            f"has {len(index.classes)} ({', '.join(index.classes[:3])}, …); choose shards of the same classes"
        )
    split = split or config.split
    samples = index.samples_of(split, subset)
    model = trained_model(state, device=ranks.device)
    with process_group(ranks), progress("evaluating", unit="clips", quiet=quiet or not ranks.is_main) as tell:
        scores = evaluate(
            model,
            index,
            samples,
            num_clips=num_clips,
            num_crops=num_crops,
            global_batch_size=batch_size or 16 * ranks.world_size,
            ranks=ranks,
            settings=LoaderSettings(num_threads=num_threads),
            on_batch=tell,
        )
    assert scores is not None  # nothing interrupts it
    about = {"checkpoint": str(checkpoint), "step": state["step"], "data": index.name, "split": split, "subset": subset}
    return scores, {
        **about,
        **scores.summary(),
        "class_accuracy": accuracies_by_name(scores.classes, scores.confusion),
        "class_ap": scores.class_ap,
        "confusion": scores.confusion.tolist(),  # row: class, column: predicted
        "predictions": scores.predictions(),
        "torch": torch.__version__,
    }
