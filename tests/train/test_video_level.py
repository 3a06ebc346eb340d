"""Scores of clips and videos: every clip counts once, whatever the ranks, padding and damage."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from train.evaluation.video_level import SampleScores, VideoScores, ViewScores, combine, views_per_sample
from train.ranks import Ranks


class OtherRank(Ranks):
    """A rank whose sums also hold what another rank has, in the order of the calls."""

    def __init__(self, *tensors: Tensor) -> None:
        object.__setattr__(self, "tensors", list(tensors))

    def sum(self, values: Tensor) -> Tensor:
        return values + self.tensors.pop(0)  # type: ignore[attr-defined]


def log_odds(*probabilities: float) -> list[float]:
    return np.log(probabilities).tolist()


def add(scores: ViewScores, rows: list[tuple[int, list[float], int]]) -> None:
    samples, logits, weights = zip(*rows, strict=True)
    scores.add(torch.tensor(logits), samples=np.array(samples), weights=torch.tensor(weights, dtype=torch.float32))


def index_of(sources: list[str], labels: list[int], num_classes: int) -> Any:
    names = np.array([source.encode() for source in sources])
    return SimpleNamespace(
        name="toy",
        classes=[f"class{k}" for k in range(num_classes)],
        sources=names,
        labels=np.array(labels, np.int32),
        key=lambda row: f"{row:08d}",
        source=lambda row: names[row].decode(),
    )


def one_hot(probabilities: np.ndarray) -> np.ndarray:
    """One view each: a vote for the likeliest class."""
    return np.eye(probabilities.shape[1], dtype=np.int64)[probabilities.argmax(axis=1)]


def scores_of(probabilities: list[list[float]], labels: list[int]) -> VideoScores:
    """One clip a video."""
    values = np.array(probabilities, np.float32)
    return VideoScores(
        classes=[f"class{k}" for k in range(values.shape[1])],
        keys=[f"{i}" for i in range(len(labels))],
        videos=[f"{i}.avi" for i in range(len(labels))],
        labels=np.array(labels),
        probabilities=values,
        votes=one_hot(values),
        clip_labels=np.array(labels),
        clip_predicted=values.argmax(axis=1),
        clips_per_video=1,
    )


def test_softmax_is_averaged_not_logits() -> None:
    scores = ViewScores(np.array([5]), num_views=2, num_classes=2)
    add(scores, [(5, log_odds(0.999, 0.001), 1), (5, log_odds(0.3, 0.7), 1)])
    assert scores.reduce(Ranks()).probabilities == pytest.approx(np.array([[0.6495, 0.3505]]))


def test_padding_does_not_count() -> None:
    scores = ViewScores(np.array([2, 9]), num_views=1, num_classes=2)
    add(scores, [(9, log_odds(0.2, 0.8), 1), (2, log_odds(0.6, 0.4), 1), (9, log_odds(0.9, 0.1), 0)])
    assert scores.reduce(Ranks()).probabilities == pytest.approx(np.array([[0.6, 0.4], [0.2, 0.8]]))


def test_two_ranks_add_up_to_one() -> None:
    rows = [
        (3, log_odds(0.5, 0.5), 1),
        (3, log_odds(0.1, 0.9), 1),
        (7, log_odds(0.8, 0.2), 1),
        (7, log_odds(0.6, 0.4), 1),
    ]
    whole, first, second = (ViewScores(np.array([3, 7]), num_views=2, num_classes=2) for _ in range(3))
    add(whole, rows)
    add(first, rows[:1])
    add(second, rows[1:])
    together, alone = first.reduce(OtherRank(second.num_seen, second.sums, second.votes)), whole.reduce(Ranks())
    assert together.probabilities == pytest.approx(alone.probabilities)
    assert together.votes.tolist() == alone.votes.tolist() == [[1, 1], [2, 0]]


def test_a_sample_that_ranks_score_twice_is_an_error() -> None:
    scores = ViewScores(np.array([3]), num_views=1, num_classes=2)
    add(scores, [(3, [0.0, 0.0], 1)])
    with pytest.raises(RuntimeError, match="sample 3 was scored 2 times instead of 1"):
        scores.reduce(OtherRank(torch.tensor([1]), torch.zeros(1, 2)))


def test_a_view_that_does_not_decode_is_left_out_of_the_mean() -> None:
    scores = ViewScores(np.array([3, 4]), num_views=2, num_classes=2)
    add(
        scores,
        [(3, log_odds(0.2, 0.8), 1), (3, log_odds(0.9, 0.1), 0), (4, [0.0, 0.0], 0), (4, [0.0, 0.0], 0)],
    )
    probabilities, votes = scores.reduce(Ranks())
    assert votes.tolist() == [[0, 1], [0, 0]]
    assert probabilities[0] == pytest.approx([0.2, 0.8])
    assert np.isnan(probabilities[1]).all()


def test_segments_of_one_source_are_one_video() -> None:
    index = index_of(["a.mp4", "a.mp4", "b.mp4"], [0, 0, 1], 2)
    values = np.array([[0.6, 0.4], [0.0, 1.0], [0.1, 0.9]], np.float32)
    each = SampleScores(values, one_hot(values))
    scores = combine(index, np.arange(3), scores=each, centre=each, num_views=1)
    assert scores.videos == ["a.mp4", "b.mp4"]
    assert scores.probabilities == pytest.approx(np.array([[0.3, 0.7], [0.1, 0.9]]))
    assert scores.video_at_1 == 0.5
    assert scores.clip_at_1 == pytest.approx(2 / 3)
    assert scores.votes.tolist() == [[1, 1], [0, 1]]
    assert scores.clips_per_video == 2


def test_unreadable_samples_are_left_out_and_counted() -> None:
    index = index_of(["a.mp4", "b.mp4"], [0, 1], 2)
    each = SampleScores(np.array([[0.6, 0.4], [np.nan, np.nan]], np.float32), np.array([[1, 0], [0, 0]]))
    scores = combine(index, np.arange(2), scores=each, centre=each, num_views=1)
    assert (scores.videos, scores.num_unreadable, scores.video_at_1) == (["a.mp4"], 1, 1.0)
    with pytest.raises(ValueError, match="none of the 1 samples could be scored"):
        none = SampleScores(each.probabilities[1:], each.votes[1:])
        combine(index, np.array([1]), scores=none, centre=none, num_views=1)


def test_every_clip_counts_in_the_accuracy_of_all_clips() -> None:
    index = index_of(["a.mp4", "b.mp4"], [0, 1], 2)
    centre = SampleScores(np.array([[0.9, 0.1], [0.8, 0.2]], np.float32), np.array([[1, 0], [1, 0]]))
    all_views = SampleScores(np.array([[0.6, 0.4], [0.3, 0.7]], np.float32), np.array([[3, 1], [2, 3]]))
    scores = combine(index, np.arange(2), scores=all_views, centre=centre, num_views=5)
    assert scores.clip_at_1 == 0.5
    assert scores.all_clips_at_1 == pytest.approx(6 / 9), "of nine clips that decode, three and three are right"
    assert [line["num_clips_right"] for line in scores.predictions()] == [3, 3]
    assert [line["num_clips"] for line in scores.predictions()] == [4, 5]


def test_ten_clips_of_a_video_in_ten_segments_are_one_of_each() -> None:
    ten_segments, whole = index_of(["a"] * 10, [0] * 10, 1), index_of(["a", "b"], [0, 0], 1)
    assert views_per_sample(ten_segments, np.arange(10), num_clips=10) == 1
    assert views_per_sample(ten_segments, np.arange(10), num_clips=30) == 3
    assert views_per_sample(whole, np.arange(2), num_clips=10) == 10


def test_accuracy_at_1_and_5_and_of_classes() -> None:
    row = [0.3, 0.2, 0.16, 0.14, 0.12, 0.08]  # ranks its classes 0, 1, 2, 3, 4, 5
    scores = scores_of([row, row, row, row], [0, 4, 5, 4])
    assert scores.video_at_1 == 0.25
    assert scores.video_at_5 == 0.75
    assert scores.chance == pytest.approx(1 / 3), "of six classes three have videos"
    assert scores.confusion[:, 0].tolist() == [1, 0, 0, 0, 2, 1]
    assert scores.class_accuracy == pytest.approx([1, np.nan, np.nan, np.nan, 0, 0], nan_ok=True)


def test_with_fewer_than_five_classes_the_right_one_is_always_among_five() -> None:
    assert scores_of([[0.9, 0.1], [0.9, 0.1]], [1, 0]).video_at_5 == 1.0


def test_predictions_name_classes_from_the_likeliest_down() -> None:
    scores = replace(scores_of([[0.1, 0.7, 0.2]], [2]), classes=["run", "jump", "walk"])
    assert scores.predictions() == [
        {
            "key": "0",
            "source": "0.avi",
            "label": "walk",
            "predicted": "jump",
            "top5": {"jump": 0.7, "walk": 0.2, "run": 0.1},
            "num_clips": 1,
            "num_clips_right": 0,
        }
    ]
