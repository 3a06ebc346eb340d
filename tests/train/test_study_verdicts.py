"""Claims seen, not seen and undecided, by the accuracies of every seed; which scores are a run's."""

import itertools
import json
from pathlib import Path

import pytest

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.study_report import percent
from res3d_video.train.evaluation.confusion import SCORES
from res3d_video.train.paper.study import RowScores, StudySettings, is_clearly_above, judge, plan_run, read_scores
from res3d_video.train.paper.tables import TABLES, Claim, Row


def row_of(*accuracies: float) -> RowScores:
    return RowScores(Row("a", "sr18"), 1, 1, accuracies, accuracies)


def test_three_seeds_are_clearly_above_three_others_in_one_order_of_twenty() -> None:
    orders = list(itertools.combinations(range(6), 3))
    clear = [ours for ours in orders if is_clearly_above(ours, sorted({*range(6)} - {*ours}))]
    assert (clear, len(orders)) == ([(3, 4, 5)], 20)


def test_equal_runs_and_single_seeds_are_not_clear() -> None:
    assert not is_clearly_above([0.5, 0.6], [0.5, 0.4])
    assert not is_clearly_above([0.9], [0.1, 0.2])
    assert not is_clearly_above([0.8, 0.9], [0.1])


CLAIM = Claim("a is best", above=(("a", "b"), ("a", "c")), not_below=(("a", "d"),))
HIGH, MIDDLE, LOW, VAGUE = row_of(0.9, 0.8), row_of(0.6, 0.7), row_of(0.2, 0.3), row_of(0.1, 0.95)


def test_a_claim_is_seen_when_all_its_comparisons_are_clear() -> None:
    assert judge(CLAIM, {"a": HIGH, "b": LOW, "c": MIDDLE, "d": HIGH}).word == "seen"
    assert judge(CLAIM, {"a": HIGH, "b": LOW, "c": MIDDLE, "d": VAGUE}).word == "seen", "d need not be worse"


def test_a_claim_is_not_seen_when_one_comparison_is_clearly_the_other_way_round() -> None:
    verdict = judge(CLAIM, {"a": MIDDLE, "b": HIGH, "c": LOW, "d": LOW})
    assert (verdict.word, verdict.reasons) == ("not seen", ["a against b: -20.0 points"])
    assert judge(CLAIM, {"a": MIDDLE, "b": LOW, "c": LOW, "d": HIGH}).word == "not seen"


def test_a_claim_is_undecided_when_a_comparison_is_not_clear_or_a_row_lacks() -> None:
    verdict = judge(CLAIM, {"a": HIGH, "b": LOW, "c": VAGUE, "d": LOW})
    assert (verdict.word, verdict.reasons) == ("undecided", ["a against c: +32.5 points, but not in every seed"])
    verdict = judge(CLAIM, {"a": HIGH, "b": LOW})
    assert (verdict.word, verdict.reasons) == ("undecided", ["c not run", "d not run"])
    verdict = judge(CLAIM, {name: row_of(0.9 if name == "a" else 0.1) for name in "abcd"})
    assert verdict.word == "undecided"
    assert verdict.reasons[0] == "a against b: +80.0 points, one seed"


def test_accuracies_are_means_with_the_sample_deviation() -> None:
    assert (percent([0.3, 0.5]), percent([0.3])) == ("40.0 ± 14.1", "30.0")


def test_scores_are_only_those_of_a_run_of_all_its_steps(squares: ShardIndex, tmp_path: Path) -> None:
    run = plan_run(TABLES[4].rows[0], seed=0, settings=StudySettings(steps=5, size=32), indexes=[squares])
    path = tmp_path / run.folder / SCORES
    path.parent.mkdir(parents=True)
    assert read_scores(tmp_path, run) is None
    scores = {"step": 5, "all_clips_at_1": 0.75, "video_at_1": 0.5, "chance": 0.5, "other": [1]}
    for text in (json.dumps(scores | {"step": 4}), json.dumps(scores)[:-9], json.dumps(scores | {"chance": 2})):
        path.write_text(text)
        assert read_scores(tmp_path, run) is None
    path.write_text(json.dumps(scores))
    found = read_scores(tmp_path, run)
    assert found is not None
    assert found["all_clips_at_1"] == pytest.approx(0.75)
