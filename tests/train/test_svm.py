"""The linear SVM on features: known answers, and who may touch the choice of C."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from res3d_video.train.evaluation import linear_svm
from res3d_video.train.evaluation.features import l2_normalised
from res3d_video.train.evaluation.linear_svm import SplitScores, cut_into_folds, in_span, score_split


def clusters(*, num_classes: int = 4, num_groups: int = 6, num_dims: int = 20, noise: float = 0.05) -> SimpleNamespace:
    """What `score_split` is asked of a video a class, group and take (two).

    Class k lies around unit vector k. The last two groups are tested.
    """
    random = np.random.default_rng(0)
    group, label, _ = np.indices((num_groups, num_classes, 2)).reshape(3, -1)
    features = np.eye(num_dims)[label] + noise * random.standard_normal((len(label), num_dims))
    lengths = random.uniform(0.1, 100, len(label))[:, None]  # which normalisation must take away
    train, test = np.flatnonzero(group < num_groups - 2), np.flatnonzero(group >= num_groups - 2)
    known = {"features": (features * lengths).astype(np.float32), "groups": np.array([f"g{g}" for g in group])}
    return SimpleNamespace(**known, labels=label, train=train, test=test, num_classes=num_classes)


def score(data: SimpleNamespace, **changes: Any) -> SplitScores:
    return score_split(**vars(data) | changes)


def test_separable_clusters_are_all_right_and_of_equally_good_cs_the_smallest_is_taken() -> None:
    scores = score(clusters())
    assert (scores.accuracy, scores.converged) == (1.0, True)
    assert scores.confusion.tolist() == (4 * np.eye(4, dtype=int)).tolist()
    assert scores.c_accuracy == dict.fromkeys(linear_svm.GRID, 1.0)
    assert scores.c == linear_svm.GRID[0]


@pytest.mark.parametrize("c", [0.01, None])
def test_the_lengths_of_features_do_not_matter(c: float | None) -> None:
    data = clusters(noise=0.4)
    rare = np.flatnonzero(data.labels[data.train] == 0)[2:]  # classes of other sizes, so that the intercept matters
    data.train = np.delete(data.train, rare)
    other_lengths = data.features * 10 ** np.random.default_rng(2).uniform(-5, 3, (len(data.labels), 1))
    a, b = score(data, c=c), score(data, features=other_lengths, c=c)
    assert a.predicted.tolist() == b.predicted.tolist()
    assert a.c_accuracy == b.c_accuracy


def test_the_choice_does_not_change_with_the_test_side() -> None:
    data = clusters(noise=0.5)
    a = score(data)
    data.features[data.test], data.labels[data.test] = 1e6, 0
    b = score(data, num_threads=4)
    assert (a.c, a.c_accuracy) == (b.c, b.c_accuracy)
    assert a.accuracy != b.accuracy


def test_groups_that_give_the_class_away_do_not_help_in_cross_validation() -> None:
    """Features that only tell the group: right on known groups, at best chance on new ones."""
    data = clusters(num_classes=2, num_groups=12)
    group = np.unique(data.groups, return_inverse=True)[1]
    labels = np.random.default_rng(3).integers(0, 2, 12)[group]  # a class for each group
    assert max(score(data, features=np.eye(12)[group], labels=labels).c_accuracy.values()) <= 0.6


def test_folds_hold_every_row_out_once_and_keep_groups_whole() -> None:
    data = clusters(num_groups=7)
    folds = cut_into_folds(data.labels, data.groups)
    assert len(folds) == linear_svm.NUM_FOLDS
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(len(data.labels)))
    for fitted, held_out in folds:
        assert not set(data.groups[fitted]) & set(data.groups[held_out])


def test_groups_may_leave_no_choice_and_a_given_c_needs_none() -> None:
    for groups in ([0, 0, 0, 0], [0, 0, 1, 1]):  # one group, or a class for each group
        with pytest.raises(ValueError, match=r"among 4 training videos of \d groups; give one value with --c"):
            cut_into_folds(np.array([0, 0, 1, 1]), np.array(groups))
    scores = score(clusters(), groups=np.zeros(48), c=3.0)
    assert (scores.c, scores.c_accuracy, scores.accuracy) == (3.0, {}, 1.0)


def test_a_class_may_be_absent_from_either_side_and_one_alone_cannot_be_learnt() -> None:
    with pytest.raises(ValueError, match="all 8 videos to train on are of one class"):
        score(clusters(num_classes=1))
    data = clusters(num_classes=4)
    train = data.train[data.labels[data.train] != 3]  # class 3 is tested only
    test = data.test[data.labels[data.test] != 0]  # class 0 is trained on only
    scores = score(data, train=train, test=test)
    assert scores.confusion.sum(axis=1).tolist() == [0, 4, 4, 4]
    assert scores.confusion[3, 3] == 0
    assert scores.accuracy == pytest.approx(8 / 12)


def test_coordinates_in_the_span_of_the_training_videos_give_the_same_svm() -> None:
    svm = pytest.importorskip("sklearn.svm")
    data = clusters(num_dims=300, noise=0.3)
    train, test = l2_normalised(data.features[data.train]), l2_normalised(data.features[data.test])
    few_train, few_test = in_span(train, test)
    assert (few_train.shape, few_test.shape) == ((32, 32), (16, 32))
    np.testing.assert_allclose(few_train @ few_train.T, train @ train.T, atol=1e-5)
    for c in (0.1, 10.0):
        whole, few = (svm.LinearSVC(C=c, max_iter=5_000).fit(x, data.labels[data.train]) for x in (train, few_train))
        np.testing.assert_allclose(few.decision_function(few_test), whole.decision_function(test), atol=2e-3)
    assert in_span(train[:, :32], test[:, :32])[0].tolist() == train[:, :32].tolist()  # no fewer rows: left alone


def test_liblinear_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_svm, "MAX_ITERATIONS", 1)
    assert not score(clusters(noise=0.8), c=1e4).converged
