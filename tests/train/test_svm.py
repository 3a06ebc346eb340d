"""The linear SVM on features: known answers, and who may touch the choice of C."""

from dataclasses import replace

import numpy as np
import pytest

from res3d_video.train.evaluation import linear_svm
from res3d_video.train.evaluation.features import l2_normalised
from res3d_video.train.evaluation.linear_svm import (
    SplitData,
    choose_c,
    compactness,
    cut_into_folds,
    in_span,
    score_split,
)


def clusters(
    *, num_classes: int = 4, num_groups: int = 6, num_dims: int = 20, noise: float = 0.05, seed: int = 0
) -> SplitData:
    """A video a class, group and take (two); class k lies around unit vector k. The last two groups are tested."""
    random = np.random.default_rng(seed)
    group, label, _ = np.indices((num_groups, num_classes, 2)).reshape(3, -1)
    features = np.eye(num_dims)[label] + noise * random.standard_normal((len(label), num_dims))
    lengths = random.uniform(0.1, 100, len(label))[:, None]  # which normalisation must take away
    return SplitData(
        features=(features * lengths).astype(np.float32),
        labels=label,
        groups=np.array([f"g{g}" for g in group]),
        train=np.flatnonzero(group < num_groups - 2),
        test=np.flatnonzero(group >= num_groups - 2),
        num_classes=num_classes,
    )


def test_separable_clusters_are_all_right() -> None:
    data = clusters()
    scores = score_split(data)
    assert scores.accuracy == 1.0
    assert scores.converged
    assert scores.confusion.tolist() == (4 * np.eye(4, dtype=int)).tolist()
    assert set(scores.c_accuracy) == set(linear_svm.GRID)


def test_shuffled_labels_are_at_chance() -> None:
    data = clusters(num_groups=30, num_classes=4)
    random = np.random.default_rng(1)
    found = [score_split(replace(data, labels=random.permutation(data.labels)), grid=[1.0]).accuracy for _ in range(20)]
    # 20 × 16 test videos, chance 1/4: the standard error is 0.024
    assert abs(np.mean(found) - 0.25) < 0.1


@pytest.mark.parametrize("grid", [[0.01], [0.1, 10.0]])
def test_the_lengths_of_features_do_not_matter(grid: list[float]) -> None:
    data = clusters(noise=0.4)
    rare = np.flatnonzero(data.labels[data.train] == 0)[2:]  # classes of other sizes, so that the intercept matters
    data = replace(data, train=np.delete(data.train, rare))
    other_lengths = data.features * 10 ** np.random.default_rng(2).uniform(-5, 3, (len(data.labels), 1))
    a, b = score_split(data, grid=grid), score_split(replace(data, features=other_lengths), grid=grid)
    assert a.predicted.tolist() == b.predicted.tolist()
    assert a.c_accuracy == b.c_accuracy


def numbered(data: SplitData) -> SplitData:
    """Each video's feature is a direction of its own in the plane, so that it can be told from its normalised row."""
    angle = np.arange(len(data.labels)) / len(data.labels)
    return replace(data, features=np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32))


def rows_in(features: np.ndarray, *, of: SplitData) -> np.ndarray:
    return np.round(np.arctan2(features[:, 1], features[:, 0]) * len(of.labels)).astype(int)


def test_no_test_video_and_no_group_of_a_fold_touches_the_choice_of_c(monkeypatch: pytest.MonkeyPatch) -> None:
    data = numbered(clusters())
    fits: list[tuple[np.ndarray, float]] = []
    held_out: list[np.ndarray] = []
    fit = linear_svm.fit

    class Watched:
        def __init__(self, svm: object, rows: np.ndarray) -> None:
            self.svm, self.rows, self.n_iter_ = svm, rows, 1

        def predict(self, features: np.ndarray) -> np.ndarray:
            asked = rows_in(features, of=data)
            held_out.append(asked)
            assert not set(asked) & set(self.rows)
            assert not set(data.groups[asked]) & set(data.groups[self.rows])
            return self.svm.predict(features)  # type: ignore[attr-defined]

    def watch(features: np.ndarray, labels: np.ndarray, *, c: float) -> Watched:
        svm = fit(features, labels, c=c)
        rows = rows_in(features, of=data)
        assert labels.tolist() == data.labels[rows].tolist()
        fits.append((rows, c))
        return Watched(svm, rows)

    monkeypatch.setattr(linear_svm, "fit", watch)
    scores = score_split(data, grid=[0.1, 1.0])
    assert not any(set(rows) & set(data.test) for rows, _ in fits)
    *in_folds, last = fits
    assert sorted(last[0]) == sorted(data.train)
    assert last[1] == scores.c
    assert held_out[-1].tolist() == data.test.tolist()
    for c in (0.1, 1.0):  # each training video is held out once for each C
        asked = [rows for rows, (_, fitted_c) in zip(held_out, in_folds, strict=False) if fitted_c == c]
        assert sorted(np.concatenate(asked)) == sorted(data.train)


def test_the_choice_does_not_change_with_the_test_side() -> None:
    data = clusters(noise=0.5)
    spoiled = replace(data, features=data.features.copy(), labels=data.labels.copy())
    spoiled.features[data.test] = 1e6
    spoiled.labels[data.test] = 0
    a, b = score_split(data), score_split(spoiled)
    assert (a.c, a.c_accuracy) == (b.c, b.c_accuracy)
    assert a.accuracy != b.accuracy


def test_of_equally_good_cs_the_smallest_is_taken() -> None:
    data = clusters()
    c, accuracy = choose_c(data.features[data.train], data.labels[data.train], data.groups[data.train], grid=[10, 1, 5])
    assert accuracy == {1: 1.0, 5: 1.0, 10: 1.0}
    assert c == 1


def test_groups_that_give_the_class_away_do_not_help_in_cross_validation() -> None:
    """Features that only tell the group: right on known groups, at best chance on new ones."""
    data = clusters(num_classes=2, num_groups=10)
    group = np.unique(data.groups, return_inverse=True)[1]
    labels = np.random.default_rng(3).integers(0, 2, 10)[group]  # a class for each group
    _, accuracy = choose_c(np.eye(10)[group], labels, data.groups, grid=[0.1, 100.0])
    assert max(accuracy.values()) <= 0.6


def test_folds_hold_every_row_out_once_and_keep_groups_whole() -> None:
    data = clusters(num_groups=7)
    folds = cut_into_folds(data.labels, data.groups)
    assert len(folds) == linear_svm.NUM_FOLDS
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(len(data.labels)))
    for fitted, held_out in folds:
        assert not set(data.groups[fitted]) & set(data.groups[held_out])


def test_one_group_leaves_no_choice_but_a_given_c_works() -> None:
    data = replace(clusters(), groups=np.array(["g"] * len(clusters().labels)))
    with pytest.raises(match="among 32 training videos of 1 groups; give one value with --c"):
        score_split(data)
    scores = score_split(data, grid=[3.0])
    assert (scores.c, scores.c_accuracy, scores.accuracy) == (3.0, {}, 1.0)


def test_a_class_for_each_group_leaves_no_choice() -> None:
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(match="each class is one group; give one value with --c"):
        cut_into_folds(labels, labels)


def test_one_class_cannot_be_learnt() -> None:
    data = clusters(num_classes=1)
    with pytest.raises(match="all 8 videos to train on are of one class"):
        score_split(data, grid=[1.0])


def test_a_class_may_be_absent_from_either_side() -> None:
    data = clusters(num_classes=4)
    train = data.train[data.labels[data.train] != 3]  # class 3 is tested only
    test = data.test[data.labels[data.test] != 0]  # class 0 is trained on only
    scores = score_split(replace(data, train=train, test=test))
    assert scores.confusion.sum(axis=1).tolist() == [0, 4, 4, 4]
    assert scores.confusion[3, 3] == 0
    assert scores.accuracy == pytest.approx(8 / 12)


def test_fewer_videos_than_dimensions_are_enough() -> None:
    assert score_split(clusters(num_dims=2_000, noise=0.01)).accuracy == 1.0


def test_coordinates_in_the_span_of_the_training_videos_give_the_same_svm() -> None:
    data = clusters(num_dims=300, noise=0.3)
    train, test = l2_normalised(data.features[data.train]), l2_normalised(data.features[data.test])
    few_train, few_test = in_span(train, test)
    assert (few_train.shape, few_test.shape) == ((32, 32), (16, 32))
    np.testing.assert_allclose(few_train @ few_train.T, train @ train.T, atol=1e-5)
    labels = data.labels[data.train]
    for c in (0.1, 10.0):
        whole = linear_svm.fit(train, labels, c=c).decision_function(test)
        few = linear_svm.fit(few_train, labels, c=c).decision_function(few_test)
        np.testing.assert_allclose(few, whole, atol=2e-3)  # liblinear's tolerance
    assert in_span(train[:, :32], test[:, :32])[0].tolist() == train[:, :32].tolist()  # no fewer rows: left alone


def test_several_threads_choose_the_same() -> None:
    data = clusters(noise=0.5)
    a, b = score_split(data), score_split(data, num_threads=4)
    assert (a.c_accuracy, a.predicted.tolist()) == (b.c_accuracy, b.predicted.tolist())


def test_components_are_those_of_the_training_side() -> None:
    """The test side varies in a direction of its own, which would be the first component if it were looked at."""
    data = clusters(num_classes=2, num_dims=6, noise=0.01)
    features = data.features / np.linalg.norm(data.features, axis=1, keepdims=True)
    features[data.test, 5] += 30 * (-1.0) ** np.arange(len(data.test))
    (one,) = compactness(replace(data, features=features), dims=[1], grid=[1.0]).values()
    assert one.accuracy == 1.0  # along the difference of the two classes
    swapped = replace(data, features=features, train=data.test, test=data.train)
    (other,) = compactness(swapped, dims=[1], grid=[1.0]).values()
    assert other.accuracy < 1.0


def test_more_components_than_videos_or_dimensions_are_left_out() -> None:
    data = clusters(num_classes=4, num_dims=20)  # 32 training videos
    assert list(compactness(data, dims=[500, 3, 20, 21, 3], grid=[1.0])) == [3, 20]
    assert list(compactness(clusters(num_dims=100), dims=[32, 33], grid=[1.0])) == [32]
    assert compactness(data, dims=[500], grid=[1.0]) == {}


def test_all_components_are_as_good_as_the_features() -> None:
    data = clusters(noise=0.02)
    assert compactness(data, dims=[20], grid=[1.0])[20].accuracy == score_split(data, grid=[1.0]).accuracy == 1.0


def test_liblinear_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_svm, "MAX_ITERATIONS", 1)
    assert not score_split(clusters(noise=0.8), grid=[1e4]).converged
