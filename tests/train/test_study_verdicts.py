"""Differences of rows and their intervals against other implementations; claims seen, not seen, undecided."""

import json
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.study_findings import judge
from res3d_video.train.evaluation.confusion import SCORES
from res3d_video.train.study.results import (
    Difference,
    RowScores,
    RunScores,
    difference,
    groups_of,
    is_done,
    read_scores,
)
from res3d_video.train.study.runs import StudySettings, plan_run
from res3d_video.train.study.tables import TABLES, Claim, Row

stats = pytest.importorskip("scipy.stats", reason="intervals need scipy")
ROW = Row("a", "sr18")


def run_of(right: list[int], total: int = 10) -> RunScores:
    """Groups of `total` clips each."""
    return RunScores(np.array(right), np.full(len(right), total), video_at_1=0.5, chance=0.2)


def row_of(*runs: list[int]) -> RowScores:
    return RowScores(ROW, 1, 1, tuple(run_of(right) for right in runs))


def test_accuracy_counts_clips_not_groups() -> None:
    scores = RunScores(np.array([1, 9]), np.array([2, 18]), video_at_1=0.5, chance=0.2)
    assert scores.clip_accuracy == 0.5
    assert row_of([2, 4], [4, 6]).clip_accuracy == (pytest.approx(0.4), pytest.approx(0.2 / 2**0.5))


def test_when_only_seeds_differ_the_interval_is_that_of_welch_s_test() -> None:
    # each run gets the same share of every group right, so the choice of groups decides nothing
    row, rival = row_of([5] * 4, [6] * 4, [8] * 4), row_of([3] * 4, [4] * 4)
    found = difference(row, rival)
    expected = stats.ttest_ind([0.5, 0.6, 0.8], [0.3, 0.4], equal_var=False).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.6333333 - 0.35)
    assert found.interval == pytest.approx((expected.low, expected.high))


def test_when_only_groups_differ_the_interval_is_that_of_the_paired_test_over_groups() -> None:
    ours, theirs = [9, 7, 8, 3, 6], [5, 7, 6, 1, 6]
    found = difference(row_of(ours, ours), row_of(theirs, theirs))
    paired = stats.ttest_rel(np.array(ours) / 10, np.array(theirs) / 10).confidence_interval(0.95)
    assert found.interval == pytest.approx((paired.low, paired.high))


def test_rows_that_err_on_the_same_videos_are_told_apart_more_easily() -> None:
    hard_and_easy = [1, 9, 2, 8, 3, 7]
    a_little_better = [n + 1 for n in hard_and_easy]
    other_way_round = [n + 1 for n in reversed(hard_and_easy)]
    assert difference(row_of(a_little_better, a_little_better), row_of(hard_and_easy, hard_and_easy)).is_above
    assert not difference(row_of(other_way_round, other_way_round), row_of(hard_and_easy, hard_and_easy)).is_above


@pytest.mark.parametrize("runs", [([5, 5],), ([5], [6])], ids=["one seed", "one group"])
def test_without_two_seeds_and_two_groups_nothing_is_clear(runs: tuple[list[int], ...]) -> None:
    assert difference(row_of(*runs), row_of(*runs)).interval is None


CLAIM = Claim("a is best", above=(("a", "b"), ("a", "c")), not_below=(("a", "d"),))
HIGH, MIDDLE, LOW = row_of([9, 8, 9], [9, 9, 9]), row_of([6, 5, 6], [6, 6, 6]), row_of([2, 3, 2], [2, 2, 2])
VAGUE = row_of([9, 1, 5], [0, 4, 9])


def test_a_claim_is_seen_when_all_its_comparisons_are_clear() -> None:
    assert judge(CLAIM, {"a": HIGH, "b": LOW, "c": MIDDLE, "d": HIGH}).word == "seen"
    assert judge(CLAIM, {"a": HIGH, "b": LOW, "c": MIDDLE, "d": VAGUE}).word == "seen", "d need not be worse"


def test_a_claim_is_not_seen_when_one_comparison_is_clearly_the_other_way_round() -> None:
    verdict = judge(CLAIM, {"a": MIDDLE, "b": HIGH, "c": LOW, "d": LOW})
    assert verdict.word == "not seen"
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["a against b"]
    assert judge(CLAIM, {"a": MIDDLE, "b": LOW, "c": LOW, "d": HIGH}).word == "not seen"


def test_a_claim_is_undecided_when_a_comparison_is_not_clear_or_a_row_lacks() -> None:
    assert judge(CLAIM, {"a": HIGH, "b": LOW, "c": VAGUE, "d": LOW}).word == "undecided"
    verdict = judge(CLAIM, {"a": HIGH, "b": LOW})
    assert (verdict.word, verdict.reasons) == ("undecided", ("c not run", "d not run"))
    one_seed = {name: row_of([9, 8, 9] if name == "a" else [1, 1, 2]) for name in "abcd"}
    verdict = judge(CLAIM, one_seed)
    assert verdict.word == "undecided"
    assert verdict.reasons[0] == "a against b: +73.3 points, one seed"


def test_an_interval_that_touches_zero_is_not_clear() -> None:
    assert not Difference(0.1, (0.0, 0.2)).is_above
    assert not Difference(-0.1, (-0.2, 0.0)).is_below
    assert Difference(0.1, (0.01, 0.2)).is_above
    assert Difference(-0.1, (-0.2, -0.01)).is_below


def test_scores_are_read_by_group_and_only_from_a_run_of_all_its_steps(squares: ShardIndex, tmp_path: Path) -> None:
    run = plan_run(TABLES[4].rows[0], seed=0, settings=StudySettings(steps=5, size=32), indexes=[squares])
    groups = groups_of(squares, "1")
    assert len(set(groups.values())) < len(groups), "some group has several videos"
    path = tmp_path / run.folder / SCORES
    path.parent.mkdir(parents=True)
    assert not is_done(tmp_path, run)
    video = {"num_clips": 4, "num_clips_right": 3}
    scores = {"step": 5, "predictions": [{"key": key} | video for key in groups], "video_at_1": 0.75, "chance": 0.5}
    path.write_text(json.dumps(scores | {"step": 4}))
    assert not is_done(tmp_path, run)
    path.write_text(json.dumps(scores)[:-9])
    assert not is_done(tmp_path, run)
    path.write_text(json.dumps(scores))
    assert is_done(tmp_path, run)
    found = read_scores(tmp_path, run, groups=groups)
    assert found.total.sum() == 4 * len(groups)
    assert (found.clip_accuracy, found.video_at_1, len(found.total)) == (0.75, 0.75, len(set(groups.values())))
    path.write_text(json.dumps(scores | {"predictions": [{"key": "other"} | video]}))
    with pytest.raises(
        ValueError, match=r"not the scores of these shards \('other'\); remove the folder, or choose another --out"
    ):
        read_scores(tmp_path, run, groups=groups)
