"""Mistakes in the order of their confidence, a confusion matrix that can be read, and where a run's shards are."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.pages.run_facts import Scores, is_to_score, read_scores, shards_of, small_matrix
from res3d_video.tools.run_reader import Run, read_run
from tests.tools.pages.made_runs import train_line, write_run, write_scores
from tests.train.conftest import build_squares

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
    found = scores.mistakes()
    assert [mistake.key for mistake in found] == ["v3", "v0", "v2", "v5"]
    assert (found[0].label, found[0].predicted, found[0].confidence, found[0].true_confidence) == (
        "jump",
        "dive",
        0.95,
        0.05,
    )


def test_any_of_several_labels_is_right(scores: Scores) -> None:
    scores.predictions[1]["labels"] = ["dive", "swing"]
    assert [mistake.key for mistake in scores.mistakes()] == ["v3", "v0", "v5"]


def test_a_true_class_beyond_the_five_likeliest_has_no_probability(scores: Scores) -> None:
    del scores.predictions[2]["top5"]["jump"]
    assert scores.mistakes()[0].true_confidence is None


def test_counts_by_class_are_those_of_the_hand(scores: Scores) -> None:
    assert scores.confusion.tolist() == [[1, 0, 1, 0], [2, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert scores.num_wrong == 4
    assert scores.pairs() == [("jump", "dive", 2), ("dive", "swing", 1), ("swing", "dive", 1)]
    assert [scores.confused_with(k) for k in range(4)] == [("swing", 1), ("dive", 2), ("dive", 1), None]


def test_a_small_matrix_shows_the_classes_that_occur(scores: Scores) -> None:
    names, counts, num_others = small_matrix(scores)
    assert (names, counts.tolist(), num_others) == (["dive", "jump", "swing"], [[1, 0, 1], [2, 1, 0], [1, 0, 1]], 0)


def test_of_many_classes_those_with_the_most_mistakes_are_shown_and_no_video_is_lost() -> None:
    for num_classes in range(2, 12):
        confusion = np.random.default_rng(num_classes).integers(0, 5, (num_classes, num_classes))
        scores = Scores({}, [f"c{k}" for k in range(num_classes)], confusion, [])
        for most in range(2, 12):
            names, counts, num_others = small_matrix(scores, most=most)
            assert counts.shape == (len(names),) * 2
            assert counts.sum() == confusion.sum()
            assert len(names) <= most
            assert (names[-1] == "all others") == (num_others > 0) == (num_classes > most)


def test_the_classes_put_together_are_the_ones_with_fewest_mistakes() -> None:
    confusion = np.array([[9, 3, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0], [0, 0, 1, 9]])
    names, counts, num_others = small_matrix(Scores({}, ["a", "b", "c", "d"], confusion, []), most=3)
    assert (names, num_others) == (["a", "b", "all others"], 2)
    assert counts.tolist() == [[9, 3, 0], [0, 9, 0], [0, 0, 19]]


@pytest.mark.parametrize("change", [{"confusion": [[1]]}, {"predictions": 3}, {"class_accuracy": None}])
def test_a_file_of_another_program_is_refused_in_one_line(tmp_path: Path, change: dict) -> None:
    path = write_scores(tmp_path, CLASSES, VIDEOS)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"scores.json: not what tools/evaluate.py writes \(.*\); evaluate again$"):
        read_scores(path)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return build_squares(tmp_path_factory.mktemp("squares"), classes={"left": -3, "right": 3}, num_groups=2)


def run_on(folder: Path, /, **data: str) -> Run:
    return read_run(write_run(folder, [train_line(1)], about={"data": data}))


def test_shards_are_those_given_else_those_that_the_run_names(squares: ShardIndex, tmp_path: Path) -> None:
    same = {"name": "squares", "fingerprint": squares.fingerprint}
    assert shards_of(run_on(tmp_path / "a", **same), [squares]) == (squares, "")
    index, remark = shards_of(run_on(tmp_path / "b", **same, folder=str(squares.data_dir)), [])
    assert index is not None
    assert (index.fingerprint, remark) == (squares.fingerprint, "")
    rebuilt = {"name": "squares", "fingerprint": "other"}
    index, remark = shards_of(run_on(tmp_path / "c", **rebuilt), [squares])
    assert index is squares
    assert "another build of squares" in remark
    index, remark = shards_of(run_on(tmp_path / "d", **rebuilt, folder=str(squares.data_dir)), [])
    assert "have been built anew since" in remark


def test_shards_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    run = run_on(tmp_path / "a", name="other", fingerprint="1", folder=str(tmp_path / "gone"))
    assert shards_of(run, []) == (
        None,
        f"The shards are no longer in {tmp_path / 'gone'}; give them with --data to see the clips.",
    )
    assert shards_of(run_on(tmp_path / "b", name="other"), [])[1].endswith("given with --data.")


def test_a_run_is_to_be_scored_when_its_checkpoint_is_newer_than_its_scores(tmp_path: Path) -> None:
    run = run_on(tmp_path / "run", name="other")
    assert not is_to_score(run)
    (run.folder / "latest.pt").touch()
    assert is_to_score(run)
    assert not is_to_score(replace(run, is_locked=True))
    scores = write_scores(run.folder, CLASSES, VIDEOS)
    os.utime(run.folder / "latest.pt", (100, 100))
    assert not is_to_score(run)
    os.utime(scores, (99, 99))
    assert is_to_score(run)
