"""Mistakes in the order of their confidence, and a confusion matrix that can be read, as computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from res3d_video.tools.pages.run.classes import OTHERS, class_table, matrix_html, matrix_of
from res3d_video.tools.pages.run.reading import read_run
from res3d_video.tools.pages.run.scores import Scores, read_scores, surest_mistakes
from tests.tools.pages.made_runs import train_line, write_run, write_scores

CLASSES = ["dive", "jump", "swing", "walk"]
VIDEOS = [
    ("v1", "dive", "dive", 0.9), ("v2", "dive", "swing", 0.6), ("v3", "jump", "dive", 0.95),
    ("v4", "jump", "jump", 0.5), ("v5", "swing", "dive", 0.6), ("v6", "swing", "swing", 0.99),
    ("v0", "jump", "dive", 0.7),
]  # fmt: skip


@pytest.fixture
def scores(tmp_path: Path) -> Scores:
    return read_scores(write_scores(tmp_path, CLASSES, VIDEOS))


def test_the_surest_mistakes_come_first_and_equals_by_key(scores: Scores) -> None:
    found = surest_mistakes(scores)
    assert [mistake.key for mistake in found] == ["v3", "v0", "v2", "v5"]
    assert (found[0].label, found[0].predicted, found[0].confidence, found[0].true_confidence) == (
        "jump",
        "dive",
        0.95,
        0.05,
    )
    assert [mistake.rank for mistake in found] == [2, 2, 2, 2]


def test_any_of_several_labels_is_right(scores: Scores) -> None:
    scores.predictions[1]["labels"] = ["dive", "swing"]
    assert [mistake.key for mistake in surest_mistakes(scores)] == ["v3", "v0", "v5"]


def test_a_true_class_beyond_the_five_likeliest_has_no_probability(scores: Scores) -> None:
    del scores.predictions[2]["top5"]["jump"]
    assert (surest_mistakes(scores)[0].true_confidence, surest_mistakes(scores)[0].rank) == (None, None)


def test_counts_by_class_are_those_of_the_hand(scores: Scores) -> None:
    assert scores.confusion.tolist() == [[1, 0, 1, 0], [2, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert (scores.num_videos, scores.num_right) == (7, 3)
    assert scores.occurring.tolist() == [0, 1, 2]
    assert scores.pairs() == [("jump", "dive", 2), ("dive", "swing", 1), ("swing", "dive", 1)]
    assert [scores.taken_for(k) for k in range(4)] == [("swing", 1), ("dive", 2), ("dive", 1), None]


def test_a_small_matrix_shows_the_classes_that_occur(scores: Scores) -> None:
    matrix = matrix_of(scores)
    assert (matrix.names, matrix.num_left) == (["dive", "jump", "swing"], 0)
    assert matrix.counts.tolist() == [[1, 0, 1], [2, 1, 0], [1, 0, 1]]
    assert matrix.shares()[1].tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_of_many_classes_those_with_the_most_mistakes_are_shown_and_no_video_is_lost() -> None:
    for num_classes in range(2, 12):
        confusion = np.random.default_rng(num_classes).integers(0, 5, (num_classes, num_classes))
        scores = Scores({}, [f"c{k}" for k in range(num_classes)], confusion, [])
        for most in range(2, 12):
            matrix = matrix_of(scores, most=most)
            assert matrix.counts.shape == (len(matrix.names),) * 2
            assert matrix.counts.sum() == confusion.sum()
            assert len(matrix.names) <= most
            assert (matrix.names[-1] == OTHERS) == (matrix.num_left > 0) == (num_classes > most)


def test_the_class_put_together_are_the_ones_with_fewest_mistakes() -> None:
    confusion = np.array([[9, 3, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0], [0, 0, 1, 9]])
    matrix = matrix_of(Scores({}, ["a", "b", "c", "d"], confusion, []), most=3)
    assert matrix.names == ["a", "b", OTHERS]
    assert matrix.counts.tolist() == [[9, 3, 0], [0, 9, 0], [0, 0, 19]]


def test_the_matrix_says_right_and_wrong_without_colours_too(scores: Scores) -> None:
    html = matrix_html(matrix_of(scores), caption="all")
    assert html.count('class="number right"') == 3
    assert html.count('class="number wrong"') == 3
    assert html.count("<th ") == 1 + 3 + 1 + 3


def test_the_table_of_classes_has_a_column_a_run_and_their_spread(tmp_path: Path, scores: Scores) -> None:
    run = read_run(write_run(tmp_path / "run", [train_line(1)]), name="<one>")
    other = Scores({}, CLASSES, np.diag([2, 3, 2, 0]), [])
    html = class_table([(run, scores), (run, other)])
    assert html.count("<tr>") == 1 + 3
    assert "&lt;one&gt;" in html
    assert "33.3 %" in html
    assert "66.7" in html
    with pytest.raises(ValueError, match="other classes"):
        class_table([(run, scores), (run, Scores({}, ["x"], np.zeros((1, 1), np.int64), []))])


@pytest.mark.parametrize("change", [{"confusion": [[1]]}, {"predictions": 3}, {"class_accuracy": None}])
def test_a_file_of_another_program_is_refused_in_one_line(tmp_path: Path, change: dict) -> None:
    path = write_scores(tmp_path, CLASSES, VIDEOS)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"scores.json: not what tools/evaluate.py writes \(.*\); evaluate again$"):
        read_scores(path)
