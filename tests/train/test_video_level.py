"""Scores of clips and videos: every clip counts once, whatever the ranks, padding and damage."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from res3d_video.train.evaluation import class_accuracy
from res3d_video.train.evaluation.video_level import ClipTally, VideoScores, combine, videos_of, views_per_sample
from res3d_video.train.run_folder import accuracy_lines

Clips = list[tuple[int, list[float], int]]  # sample, probabilities, weight


def index_of(sources: list[str], labels: list[list[int]], num_classes: int) -> Any:
    names, most = np.array([source.encode() for source in sources]), max(map(len, labels))
    table = np.array([[*row, *[-1] * (most - len(row))] for row in labels])
    return SimpleNamespace(
        name="toy", classes=[f"class{k}" for k in range(num_classes)], tars=["a.tar"], tar=np.zeros(len(names), int),
        sources=names, source=lambda row: names[row].decode(), key=lambda row: f"{row:08d}",
        all_labels=lambda rows: table[rows],
    )  # fmt: skip


def tally_of(index: Any, clips: Clips) -> ClipTally:
    """Clips of all samples of an index, as one rank counts them."""
    samples, num_classes = np.arange(len(index.sources)), len(index.classes)
    tally = ClipTally(samples, video_of=videos_of(index, samples), num_classes=num_classes)
    for sample, row, weight in clips:
        logits = torch.tensor([row]).clamp(min=1e-12).log()
        tally.add(logits, samples=np.array([sample]), weights=torch.tensor([float(weight)]))
    return tally


def scores_of(index: Any, clips: Clips, center: Clips | None = None, *, num_views: int = 1) -> VideoScores:
    tallies = [tally_of(index, rows) for rows in (clips, clips if center is None else center)]
    return combine(index, tallies[0], center=tallies[1], num_views=num_views, damaged={})


def test_softmax_is_averaged_not_logits_and_neither_padding_nor_damage_counts() -> None:
    index = index_of(["a", "b"], [[0], [1]], 2)
    clips = [(0, [0.999, 0.001], 1), (0, [0.3, 0.7], 1), (0, [0.1, 0.9], 0), (1, [0.2, 0.8], 1), (1, [0.9, 0.1], 0)]
    found = scores_of(index, clips, num_views=2)
    assert found.probabilities == pytest.approx(np.array([[0.6495, 0.3505], [0.2, 0.8]]))
    assert found.votes.tolist() == [[1, 1], [0, 1]]


def test_two_ranks_add_up_to_one() -> None:
    index = index_of(["a", "b"], [[0], [1]], 2)
    rows: Clips = [(0, [0.5, 0.5], 1), (0, [0.1, 0.9], 1), (1, [0.8, 0.2], 1), (1, [0.6, 0.4], 1)]
    whole, first, second = tally_of(index, rows), tally_of(index, rows[:1]), tally_of(index, rows[1:])
    names = ("sums", "votes", "num_seen", "predicted")
    others = iter([getattr(second, name) for name in names])
    first.reduce(SimpleNamespace(sum=lambda values: values + next(others)))  # type: ignore[arg-type]
    for name in names:
        assert torch.allclose(getattr(first, name), getattr(whole, name)), name


def test_segments_of_one_source_are_one_video() -> None:
    index = index_of(["a.mp4", "a.mp4", "b.mp4"], [[0], [0], [1]], 2)
    scores = scores_of(index, [(0, [0.6, 0.4], 1), (1, [0.0, 1.0], 1), (2, [0.1, 0.9], 1)])
    assert scores.videos == ["a.mp4", "b.mp4"]
    assert scores.probabilities == pytest.approx(np.array([[0.3, 0.7], [0.1, 0.9]]))
    assert (scores.video_at_1, scores.clip_at_1, scores.clips_per_video) == (0.5, pytest.approx(2 / 3), 2)
    assert tally_of(index, []).sums.shape == (2, 2), "only videos keep a row of classes"


def test_unreadable_samples_are_left_out_and_counted() -> None:
    index = index_of(["a.mp4", "b.mp4", "b.mp4"], [[0], [1], [1]], 2)
    scores = scores_of(index, [(0, [0.6, 0.4], 1), (1, [0.5, 0.5], 0), (2, [0.3, 0.7], 1)])
    assert (scores.videos, scores.video_at_1) == (["a.mp4", "b.mp4"], 1.0)
    assert scores.unreadable == {"00000001": {"tar": "a.tar", "reason": "no clip of it was read"}}
    assert scores.keys == ["00000000", "00000002"]
    scores = scores_of(index, [(0, [0.6, 0.4], 1)])
    assert (scores.videos, len(scores.unreadable)) == (["a.mp4"], 2)
    with pytest.raises(ValueError, match="none of the 3 samples could be scored"):
        scores_of(index, [])


def test_every_clip_counts_in_the_accuracy_of_all_clips() -> None:
    index = index_of(["a.mp4", "b.mp4"], [[0], [1]], 2)
    clips = [(0, [0.9, 0.1], 1)] * 3 + [(0, [0.2, 0.8], 1), (0, [0.2, 0.8], 0)]
    clips += [(1, [0.7, 0.3], 1)] * 2 + [(1, [0.1, 0.9], 1)] * 3
    scores = scores_of(index, clips, [(0, [0.9, 0.1], 1), (1, [0.8, 0.2], 1)], num_views=5)
    assert scores.clip_at_1 == 0.5
    assert scores.all_clips_at_1 == pytest.approx(6 / 9), "of nine clips that decode, three and three are right"
    assert [line["num_clips_right"] for line in scores.predictions()] == [3, 3]
    assert [line["num_clips"] for line in scores.predictions()] == [4, 5]


def test_ten_clips_of_a_video_in_ten_segments_are_one_of_each() -> None:
    ten_segments, whole = np.zeros(10, np.int64), np.arange(2)
    assert [views_per_sample(ten_segments, num_clips=num) for num in (10, 30)] == [1, 3]
    assert views_per_sample(whole, num_clips=10) == 10


def test_accuracy_at_1_and_5_and_of_classes_and_predictions_from_the_likeliest_down() -> None:
    row = [0.3, 0.2, 0.16, 0.14, 0.12, 0.08]  # ranks its classes 0, 1, 2, 3, 4, 5
    scores = scores_of(index_of(list("abcd"), [[0], [4], [5], [4]], 6), [(sample, row, 1) for sample in range(4)])
    assert (scores.video_at_1, scores.video_at_5) == (0.25, 0.75)
    assert scores.chance == pytest.approx(1 / 3), "of six classes three have videos"
    assert scores.confusion[:, 0].tolist() == [1, 0, 0, 0, 2, 1]
    assert class_accuracy(scores.confusion) == pytest.approx([1, np.nan, np.nan, np.nan, 0, 0], nan_ok=True)
    assert scores.predictions()[1] == {
        "key": "00000001", "source": "b", "num_clips": 1, "num_clips_right": 0, "label": "class4",
        "predicted": "class0", "top5": {"class0": 0.3, "class1": 0.2, "class2": 0.16, "class3": 0.14, "class4": 0.12},
    }  # fmt: skip
    # of so few classes that the right one is always among five
    scores = scores_of(index_of(["a"], [[1]], 2), [(0, [0.9, 0.1], 1)])
    assert scores.video_at_5 is None
    assert not any("video@5" in line for line in accuracy_lines(scores))


def test_any_of_a_video_s_labels_is_right_and_classes_are_counted_by_the_first() -> None:
    index = index_of(["a.mp4", "a.mp4", "b.mp4", "c.mp4"], [[0, 3], [0, 3], [1], [2, 0, 4]], 7)
    values = np.full((4, 7), 0.0, np.float32)
    values[range(4), [3, 0, 6, 6]] = 0.4  # of a both clips are right, of b and c none
    values[range(4), [5, 5, 5, 4]] = 0.3
    values[2:, 3] = 0.2
    values[2, [0, 2, 1]] = 0.05, 0.04, 0.03  # b's class is the sixth likeliest
    scores = scores_of(index, [(i, row.tolist(), 1) for i, row in enumerate(values)])
    assert (scores.clip_at_1, scores.all_clips_at_1) == (0.5, 0.5)
    assert (scores.video_at_1, scores.video_at_5) == (0.0, pytest.approx(2 / 3)), "a: 5 at 0.3, before 0 and 3 at 0.2"
    assert scores.num_clips_right.tolist() == [2, 0, 0]
    assert scores.confusion[:, [5, 6]].tolist() == [[1, 0], [0, 1], [0, 1], [0, 0], [0, 0], [0, 0], [0, 0]]
    first, second, third = scores.predictions()
    assert (first["label"], first["labels"], first["num_clips_right"]) == ("class0", ["class0", "class3"], 2)
    assert (second["labels"], third["labels"]) == (["class1"], ["class2", "class0", "class4"])
