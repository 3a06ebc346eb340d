"""ASLAN: official pair files, the twelve distances by hand and by scipy, folds that do not leak."""

import re
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.errors import UserError
from res3d_video.train.evaluation.features import FeatureError, l2_normalised, read_rows
from res3d_video.train.paper.aslan import (
    DISTANCES,
    PAIRS_AT_ONCE,
    Pairs,
    cross_validate,
    describe_pairs,
    mean_and_error,
    pair_distances,
    read_pairs,
    rows_of_samples,
    score_fold,
    without_missing,
)
from tests.parquet import write_parquet

distance = pytest.importorskip("scipy.spatial.distance", reason="scipy is in the extra `features`")
io = pytest.importorskip("scipy.io")


def by_name(x: list[float], y: list[float]) -> dict[str, float]:
    return dict(zip(DISTANCES, pair_distances(np.array([x]), np.array([y]))[0].tolist(), strict=True))


def test_the_twelve_distances_are_those_computed_by_hand() -> None:
    # x = (4, 9, 0), y = (1, 4, 0): products 4, 36; roots of products 2, 6; differences 3, 5; sums 5, 13; masses 13, 5
    found = by_name([4, 9, 0], [1, 4, 0])
    expected = {
        "dot": 40,
        "root_dot": 40**0.5,
        "bhattacharyya": 8,
        "root_bhattacharyya": 8**0.5,
        "normalised_bhattacharyya": 8 / 65**0.5,
        "euclidean": 34**0.5,  # 9 + 25
        "hellinger": 2**0.5,  # (2 - 1)² + (3 - 2)²
        "city_block": 8,
        "intersection": 5,
        "intersection_over_union": 5 / 13,
        "chi_square": 9 / 5 + 25 / 13,
        # 4 ln(4 / 2.5) + 9 ln(9 / 6.5) + 1 ln(1 / 2.5) + 4 ln(4 / 6.5)
        "jensen_shannon": 1.880015 + 2.928802 - 0.916291 - 1.942031,
    }
    assert found == pytest.approx(expected, abs=2e-6)


def test_distances_agree_with_scipy_on_random_features() -> None:
    random = np.random.default_rng(0)
    for x, y in l2_normalised(random.random((40, 30))).reshape(20, 2, 30).astype(np.float64):
        found = by_name(x, y)
        assert found["dot"] == pytest.approx(1 - distance.cosine(x, y), abs=1e-6)
        assert found["euclidean"] == pytest.approx(distance.euclidean(x, y))
        assert found["city_block"] == pytest.approx(distance.cityblock(x, y))
        shares = distance.jensenshannon(x / x.sum(), y / y.sum()) ** 2  # scipy normalises; its square is half of ours
        assert by_name(x / x.sum(), y / y.sum())["jensen_shannon"] == pytest.approx(2 * shares)


def test_distances_are_symmetric_and_those_of_a_video_to_itself_are_extreme() -> None:
    random = np.random.default_rng(1)
    x, y = random.random((2, 50, 16))
    assert pair_distances(x, y) == pytest.approx(pair_distances(y, x))
    itself = dict(zip(DISTANCES, pair_distances(x, x).T, strict=True))
    for name in ("euclidean", "hellinger", "city_block", "chi_square", "jensen_shannon"):
        assert itself[name] == pytest.approx(0)
    assert itself["intersection_over_union"] == pytest.approx(1)
    assert itself["normalised_bhattacharyya"] == pytest.approx(1)


def test_features_of_zeros_give_zeros_and_negative_ones_are_refused() -> None:
    assert by_name([0, 0], [0, 0]) == dict.fromkeys(DISTANCES, 0)
    with pytest.raises(
        ValueError, match=r"features: -1 is negative; take layers after a ReLU or softmax, such as res5b"
    ):
        by_name([1, -1], [1, 1])


def test_a_pair_has_the_distances_of_each_layer_of_normalised_features() -> None:
    random = np.random.default_rng(2)
    features = {"res5b": random.random((9, 20)), "prob": random.random((9, 5))}
    rows = random.integers(0, 9, (PAIRS_AT_ONCE + 3, 2))
    found = describe_pairs(features, rows)
    assert found.shape == (PAIRS_AT_ONCE + 3, 24)
    scaled = {"res5b": features["res5b"] * 7, "prob": features["prob"] * np.arange(1, 10)[:, None]}
    assert describe_pairs(scaled, rows) == pytest.approx(found, abs=1e-4)
    units = features["prob"] / np.linalg.norm(features["prob"], axis=1, keepdims=True)
    last = pair_distances(units[rows[[-1], 0]], units[rows[[-1], 1]])
    assert found[-1, 12:] == pytest.approx(last[0], abs=1e-4)
    assert describe_pairs(features, np.zeros((0, 2), np.int64)).shape == (0, 24)


def write_view_2(path: Path, table: np.ndarray) -> Path:
    io.savemat(path, {"action_splits_pairs": table})
    return path


def test_the_ten_folds_of_view_2_are_read(tmp_path: Path) -> None:
    table = np.random.default_rng(0).integers(1, 3698, (600, 5, 10)).astype(np.float64)
    table[:, 2] = np.arange(600)[:, None] % 2
    folds = read_pairs(write_view_2(tmp_path / "View2.mat", table))
    assert len(folds) == 10
    for number, fold in enumerate(folds):
        assert np.array_equal(fold.samples, table[:, :2, number])
        assert fold.same.tolist() == [False, True] * 300


def test_the_matrix_of_view_1_is_one_fold_whatever_its_name(tmp_path: Path) -> None:
    io.savemat(tmp_path / "train_pairs.mat", {"any_name": np.array([[1, 2, 1, 5, 5], [3, 4, 0, 5, 6]], np.uint16)})
    (fold,) = read_pairs(tmp_path / "train_pairs.mat")
    assert fold.samples.tolist() == [[1, 2], [3, 4]]
    assert fold.same.tolist() == [True, False]


def test_files_that_hold_no_pairs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mat").write_text("1 2 1 5 5\n")
    with pytest.raises(ValueError, match=r"text.mat is not a MATLAB file that scipy reads"):
        read_pairs(tmp_path / "text.mat")
    with pytest.raises(ValueError, match=re.escape("action_splits_pairs [2, 4]; expected one matrix of pairs x 5")):
        read_pairs(write_view_2(tmp_path / "narrow.mat", np.ones((2, 4))))
    with pytest.raises(ValueError, match="the third column holds .*; expected 0 and 1"):
        read_pairs(write_view_2(tmp_path / "labels.mat", np.full((2, 5), 3.0)))
    with pytest.raises(UserError, match="nowhere.mat: No such file"):
        read_pairs(tmp_path / "nowhere.mat")


def test_videos_are_found_by_the_digits_that_end_their_names() -> None:
    assert rows_of_samples(["a/0001.avi", "b_0002", "1234/x-0300.mp4"]) == {1: 0, 2: 1, 300: 2}
    with pytest.raises(
        ValueError, match="video '00000012' does not end in an ASLAN sample's four digits, such as 0012"
    ):
        rows_of_samples(["00000012"])
    with pytest.raises(ValueError, match=r"a/0001.avi and b/0001.mp4 are both sample 0001; keep one of them"):
        rows_of_samples(["a/0001.avi", "b/0001.mp4"])


def test_pairs_without_features_are_left_out_and_the_videos_named() -> None:
    pairs = Pairs(samples=np.array([[1, 2], [1, 7], [8, 7]]), same=np.array([True, False, True]))
    usable, missing = without_missing(pairs, {1: 0, 2: 1})
    assert usable.samples.tolist() == [[1, 2]]
    assert usable.same.tolist() == [True]
    assert missing == {7, 8}


def test_feature_files_are_read_by_source_and_else_by_key(tmp_path: Path) -> None:
    path, rows = tmp_path / "f.parquet", np.ones((2, 3), np.float16)
    write_parquet(path, key=["00", "01"], source=["x", "y"], pool5=rows)
    assert read_rows(path, layers=["pool5"], names=("source", "key"))[0] == ["x", "y"]
    names, values = read_rows(path, layers=["pool5"])
    assert names == ["00", "01"]
    assert values["pool5"].tolist() == [[1] * 3] * 2
    write_parquet(path, key=["00", "01"], pool5=rows)
    assert read_rows(path, layers=[], names=("source", "key"))[0] == ["00", "01"]
    with pytest.raises(FeatureError, match="has no res5b; choose pool5"):
        read_rows(path, layers=["res5b"])


@pytest.mark.parametrize(
    ("keys", "rows", "message"),
    [
        (["a", "a"], np.ones((2, 3)), "has a twice; extract one row a video, not one a clip"),
        ([1, 2], np.ones((2, 3)), r"key of .*f.parquet is int64; make it again"),
        (["a", "b"], np.ones(2), "has lists of numbers in  alone; choose among them"),
        (["a", "b"], np.full((2, 3), np.nan), "pool5 of .* holds values that are not finite; make it again"),
    ],
)
def test_damaged_feature_files_are_refused(tmp_path: Path, keys: list, rows: np.ndarray, message: str) -> None:
    write_parquet(tmp_path / "f.parquet", key=keys, pool5=rows)
    with pytest.raises(FeatureError, match=message):
        read_rows(tmp_path / "f.parquet", layers=["pool5"])


def folds_of(num_folds: int, num_pairs: int, *, signal: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Random distances [P, 12] whose first column differs by `signal` deviations between same and not."""
    random = np.random.default_rng(0)
    same = [np.arange(num_pairs) % 2 == 0 for _ in range(num_folds)]
    distances = [random.normal(size=(num_pairs, 12)) for _ in range(num_folds)]
    for columns, labels in zip(distances, same, strict=True):
        columns[:, 0] = columns[:, 0] * 1e-3 + signal * 1e-3 * labels  # small, as distances of features can be
    return distances, same


def test_pairs_that_differ_are_told_apart_and_noise_is_at_chance() -> None:
    clear = cross_validate(*folds_of(5, 60, signal=20))
    assert [score.accuracy for score in clear] == [1] * 5
    assert [score.auc for score in clear] == [1] * 5
    noise = cross_validate(*folds_of(10, 200, signal=0))
    assert abs(mean_and_error([score.accuracy for score in noise])[0] - 0.5) < 0.05
    assert [score.num_pairs for score in noise] == [200] * 10


def test_a_fold_is_scored_by_what_the_others_taught() -> None:
    distances, same = folds_of(3, 60, signal=20)
    same[1] = ~same[1]  # one fold says the opposite of the others
    scores = cross_validate(distances, same)
    assert scores[1].accuracy == 0
    assert scores[1].auc == 0


def test_the_test_pairs_have_no_part_in_the_normalisation() -> None:
    distances, same = folds_of(2, 60, signal=20)
    alone = score_fold(distances[0], same[0], distances[1][:30], same[1][:30])
    outliers = np.vstack([distances[1][:30], np.full((2, 12), 1e9)])
    labels = np.array([*same[1][:30], True, True])
    together = score_fold(distances[0], same[0], outliers, labels)
    # The last two say nothing of the first thirty: these are right or wrong as they were alone.
    assert abs(together.accuracy * 32 - alone.accuracy * 30) <= 2


def test_a_constant_distance_does_no_harm() -> None:
    distances, same = folds_of(2, 60, signal=20)
    distances = [np.hstack([rows, np.ones((60, 1))]) for rows in distances]
    assert [score.accuracy for score in cross_validate(distances, same)] == [1, 1]


def test_pairs_of_one_kind_are_refused() -> None:
    distances, same = folds_of(2, 10, signal=1)
    with pytest.raises(ValueError, match="pairs: 10 test pairs of one kind only; same and not-same ones are needed"):
        score_fold(distances[0], same[0], distances[1], np.ones(10, bool))


def test_the_error_is_the_standard_error_of_the_mean() -> None:
    # mean 0.7; squared deviations .01, .01, .04 sum to .06; √(.06 / 2) / √3 = .1
    assert mean_and_error([0.6, 0.6, 0.9]) == pytest.approx((0.7, 0.1))
    assert np.isnan(mean_and_error([0.5])[1])


def test_the_measures_named_are_the_measures_explained() -> None:
    assert len(set(DISTANCES)) == 12
    assert re.findall(r"^        (\w+)  ", pair_distances.__doc__ or "", re.MULTILINE)[:12] == list(DISTANCES)
