"""Scores of clips and videos: every clip counts once, whatever the ranks, padding and damage."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from res3d_video.train.evaluation.confusion import class_accuracy
from res3d_video.train.evaluation.video_level import (
    ClipScores,
    ClipTally,
    VideoScores,
    combine,
    videos_of,
    views_per_sample,
)
from res3d_video.train.ranks import Ranks
from res3d_video.train.run_folder import accuracy_lines


class OtherRank(Ranks):
    """A rank whose sums also hold what another rank has, in the order of the calls."""

    def __init__(self, *tensors: Tensor) -> None:
        object.__setattr__(self, "tensors", list(tensors))

    def sum(self, values: Tensor) -> Tensor:
        return values + self.tensors.pop(0)  # type: ignore[attr-defined]


def log_odds(*probabilities: float) -> list[float]:
    return np.log(probabilities).tolist()


def add(scores: ClipTally, rows: list[tuple[int, list[float], int]]) -> None:
    samples, logits, weights = zip(*rows, strict=True)
    scores.add(torch.tensor(logits), samples=np.array(samples), weights=torch.tensor(weights, dtype=torch.float32))


def index_of(sources: list[str], labels: list[int], num_classes: int) -> Any:
    names = np.array([source.encode() for source in sources])
    return SimpleNamespace(
        name="toy",
        classes=[f"class{k}" for k in range(num_classes)],
        sources=names,
        labels=np.array(labels, np.int32),
        label_lists=None,
        tars=["a.tar"],
        tar=np.zeros(len(names), int),
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
        labels=np.array(labels)[:, None],
        probabilities=values,
        votes=one_hot(values),
        clip_labels=np.array(labels)[:, None],
        clip_predicted=values.argmax(axis=1),
        clips_per_video=1,
    )


def tally_of(samples: list[int], *, video_of: list[int] | None = None, num_views: int = 1) -> ClipTally:
    """Two classes; each sample is a video of its own unless the test says otherwise."""
    videos = np.array(video_of if video_of is not None else range(len(samples)))
    return ClipTally(np.array(samples), video_of=videos, num_views=num_views, num_classes=2)


def scored(index: Any, clips: list[tuple[int, list[float], int]], *, num_views: int = 1) -> ClipScores:
    """Clips (sample, probabilities, weight) of all samples of an index, as one rank counts them."""
    samples = np.arange(len(index.labels))
    num_classes = len(clips[0][1])
    tally = ClipTally(samples, video_of=videos_of(index, samples), num_views=num_views, num_classes=num_classes)
    add(tally, [(sample, np.log(np.maximum(row, 1e-12)).tolist(), weight) for sample, row, weight in clips])
    return tally.reduce(Ranks())


def combined(index: Any, scores: ClipScores, center: ClipScores | None = None, *, num_views: int = 1) -> VideoScores:
    samples = np.arange(len(index.labels))
    of_videos = videos_of(index, samples)
    return combine(index, samples, video_of=of_videos, scores=scores, center=center or scores, num_views=num_views)


def test_softmax_is_averaged_not_logits() -> None:
    scores = tally_of([5], num_views=2)
    add(scores, [(5, log_odds(0.999, 0.001), 1), (5, log_odds(0.3, 0.7), 1)])
    assert scores.reduce(Ranks()).probabilities == pytest.approx(np.array([[0.6495, 0.3505]]))


def test_padding_does_not_count() -> None:
    scores = tally_of([2, 9])
    add(scores, [(9, log_odds(0.2, 0.8), 1), (2, log_odds(0.6, 0.4), 1), (9, log_odds(0.9, 0.1), 0)])
    found = scores.reduce(Ranks())
    assert found.probabilities == pytest.approx(np.array([[0.6, 0.4], [0.2, 0.8]]))
    assert (found.predicted.tolist(), found.num_seen.tolist()) == ([0, 1], [1, 1])


def test_two_ranks_add_up_to_one() -> None:
    rows = [
        (3, log_odds(0.5, 0.5), 1),
        (3, log_odds(0.1, 0.9), 1),
        (7, log_odds(0.8, 0.2), 1),
        (7, log_odds(0.6, 0.4), 1),
    ]
    whole, first, second = (tally_of([3, 7], num_views=2) for _ in range(3))
    add(whole, rows)
    add(first, rows[:1])
    add(second, rows[1:])
    other = OtherRank(second.num_seen, second.sums, second.votes, second.predicted)
    together, alone = first.reduce(other), whole.reduce(Ranks())
    assert together.probabilities == pytest.approx(alone.probabilities)
    assert together.votes.tolist() == alone.votes.tolist() == [[1, 1], [2, 0]]


def test_the_center_clip_s_class_comes_from_the_rank_that_has_seen_it() -> None:
    first, second = tally_of([3, 7]), tally_of([3, 7])
    add(first, [(7, log_odds(0.1, 0.9), 1)])
    add(second, [(3, log_odds(0.2, 0.8), 1)])
    found = first.reduce(OtherRank(second.num_seen, second.sums, second.votes, second.predicted))
    assert found.predicted.tolist() == [1, 1]


def test_a_sample_that_ranks_score_twice_is_an_error() -> None:
    scores = tally_of([3])
    add(scores, [(3, [0.0, 0.0], 1)])
    with pytest.raises(RuntimeError, match="sample 3 was scored 2 times instead of 1"):
        scores.reduce(OtherRank(torch.tensor([1]), torch.zeros(1, 2)))


def test_a_view_that_does_not_decode_is_left_out_of_the_mean() -> None:
    scores = tally_of([3, 4], num_views=2)
    add(
        scores,
        [(3, log_odds(0.2, 0.8), 1), (3, log_odds(0.9, 0.1), 0), (4, [0.0, 0.0], 0), (4, [0.0, 0.0], 0)],
    )
    found = scores.reduce(Ranks())
    assert found.votes.tolist() == [[0, 1], [0, 0]]
    assert found.num_seen.tolist() == [1, 0]
    assert found.probabilities[0] == pytest.approx([0.2, 0.8])
    assert np.isnan(found.probabilities[1]).all()


def test_samples_keep_a_number_each_and_only_videos_a_row_of_classes() -> None:
    tally = tally_of([1, 2, 3, 4], video_of=[0, 0, 0, 1])
    assert (tally.sums.shape, tally.votes.shape, tally.num_seen.shape) == ((2, 2), (2, 2), (4,))


def test_segments_of_one_source_are_one_video() -> None:
    index = index_of(["a.mp4", "a.mp4", "b.mp4"], [0, 0, 1], 2)
    scores = combined(index, scored(index, [(0, [0.6, 0.4], 1), (1, [0.0, 1.0], 1), (2, [0.1, 0.9], 1)]))
    assert scores.videos == ["a.mp4", "b.mp4"]
    assert scores.probabilities == pytest.approx(np.array([[0.3, 0.7], [0.1, 0.9]]))
    assert scores.video_at_1 == 0.5
    assert scores.clip_at_1 == pytest.approx(2 / 3)
    assert scores.votes.tolist() == [[1, 1], [0, 1]]
    assert scores.clips_per_video == 2


def test_unreadable_samples_are_left_out_and_counted() -> None:
    index = index_of(["a.mp4", "b.mp4", "b.mp4"], [0, 1, 1], 2)
    scores = combined(index, scored(index, [(0, [0.6, 0.4], 1), (1, [0.5, 0.5], 0), (2, [0.3, 0.7], 1)]))
    assert (scores.videos, len(scores.unreadable), scores.video_at_1) == (["a.mp4", "b.mp4"], 1, 1.0)
    assert scores.unreadable == {"00000001": {"tar": "a.tar", "reason": "no clip of it was read"}}
    assert scores.keys == ["00000000", "00000002"]
    scores = combined(index, scored(index, [(0, [0.6, 0.4], 1), (1, [0.5, 0.5], 0), (2, [0.3, 0.7], 0)]))
    assert (scores.videos, len(scores.unreadable)) == (["a.mp4"], 2)
    nothing = scored(index, [(0, [0.6, 0.4], 0), (1, [0.5, 0.5], 0), (2, [0.3, 0.7], 0)])
    with pytest.raises(ValueError, match="none of the 3 samples could be scored"):
        combined(index, nothing)


def test_every_clip_counts_in_the_accuracy_of_all_clips() -> None:
    index = index_of(["a.mp4", "b.mp4"], [0, 1], 2)
    center = scored(index, [(0, [0.9, 0.1], 1), (1, [0.8, 0.2], 1)])
    right_and_wrong = [(0, [0.9, 0.1], 1)] * 3 + [(0, [0.2, 0.8], 1), (0, [0.2, 0.8], 0)]
    right_and_wrong += [(1, [0.7, 0.3], 1)] * 2 + [(1, [0.1, 0.9], 1)] * 3
    scores = combined(index, scored(index, right_and_wrong, num_views=5), center, num_views=5)
    assert scores.clip_at_1 == 0.5
    assert scores.all_clips_at_1 == pytest.approx(6 / 9), "of nine clips that decode, three and three are right"
    assert [line["num_clips_right"] for line in scores.predictions()] == [3, 3]
    assert [line["num_clips"] for line in scores.predictions()] == [4, 5]


def test_ten_clips_of_a_video_in_ten_segments_are_one_of_each() -> None:
    ten_segments, whole = index_of(["a"] * 10, [0] * 10, 1), index_of(["a", "b"], [0, 0], 1)
    assert views_per_sample(videos_of(ten_segments, np.arange(10)), num_clips=10) == 1
    assert views_per_sample(videos_of(ten_segments, np.arange(10)), num_clips=30) == 3
    assert views_per_sample(videos_of(whole, np.arange(2)), num_clips=10) == 10


def test_accuracy_at_1_and_5_and_of_classes() -> None:
    row = [0.3, 0.2, 0.16, 0.14, 0.12, 0.08]  # ranks its classes 0, 1, 2, 3, 4, 5
    scores = scores_of([row, row, row, row], [0, 4, 5, 4])
    assert scores.video_at_1 == 0.25
    assert scores.video_at_5 == 0.75
    assert scores.chance == pytest.approx(1 / 3), "of six classes three have videos"
    assert scores.confusion[:, 0].tolist() == [1, 0, 0, 0, 2, 1]
    assert class_accuracy(scores.confusion) == pytest.approx([1, np.nan, np.nan, np.nan, 0, 0], nan_ok=True)


def test_of_so_few_classes_that_the_right_one_is_always_among_five_nothing_is_said() -> None:
    scores = scores_of([[0.9, 0.1], [0.9, 0.1]], [1, 0])
    assert scores.video_at_5 is None
    assert not any("video@5" in line for line in accuracy_lines(scores))


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


def test_any_of_a_video_s_labels_is_right_and_classes_are_counted_by_the_first() -> None:
    index = index_of(["a.mp4", "a.mp4", "b.mp4", "c.mp4"], [0, 0, 1, 2], 7)
    index.label_lists, table = object(), np.array([[0, 3, -1], [0, 3, -1], [1, -1, -1], [2, 0, 4]])
    index.all_labels = lambda rows: table[rows]
    values = np.full((4, 7), 0.0, np.float32)
    values[range(4), [3, 0, 6, 6]] = 0.4  # of a both clips are right, of b and c none
    values[range(4), [5, 5, 5, 4]] = 0.3
    values[2:, 3] = 0.2
    values[2, [0, 2, 1]] = 0.05, 0.04, 0.03  # b's class is the sixth likeliest
    scores = combined(index, scored(index, [(i, row.tolist(), 1) for i, row in enumerate(values)]))
    assert (scores.clip_at_1, scores.all_clips_at_1) == (0.5, 0.5)
    assert (scores.video_at_1, scores.video_at_5) == (0.0, pytest.approx(2 / 3)), "a: 5 at 0.3, before 0 and 3 at 0.2"
    assert scores.num_clips_right.tolist() == [2, 0, 0]
    assert scores.confusion[:, [5, 6]].tolist() == [[1, 0], [0, 1], [0, 1], [0, 0], [0, 0], [0, 0], [0, 0]]
    first, second, third = scores.predictions()
    assert (first["label"], first["labels"], first["num_clips_right"]) == ("class0", ["class0", "class3"], 2)
    assert (second["labels"], third["labels"]) == (["class1"], ["class2", "class0", "class4"])
