"""ASLAN: official pair files, the twelve distances by hand and by scipy, folds that do not leak."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.aslan import main
from res3d_video.train.evaluation.features import l2_normalised, save_features
from res3d_video.train.paper.aslan import (
    PAIRS_AT_ONCE,
    cross_validate,
    describe_pairs,
    pair_distances,
    read_pairs,
    rows_of_samples,
)
from tests.features import made_features
from tests.schemas import check_schema
from tests.tools.commands import run

distance = pytest.importorskip("scipy.spatial.distance", reason="scipy is in the extra `features`")
io = pytest.importorskip("scipy.io")


def by_name(x: list[float], y: list[float]) -> dict[str, float]:
    return {name: float(found[0]) for name, found in pair_distances(np.array([x]), np.array([y])).items()}


def test_the_twelve_distances_are_those_computed_by_hand() -> None:
    # x = (4, 9, 0), y = (1, 4, 0): products 4, 36; roots of products 2, 6; differences 3, 5; sums 5, 13; masses 13, 5
    found = by_name([4, 9, 0], [1, 4, 0])
    expected = {
        "dot": 40, "root_dot": 40**0.5, "city_block": 8,
        "bhattacharyya": 8, "root_bhattacharyya": 8**0.5, "normalised_bhattacharyya": 8 / 65**0.5,
        "euclidean": 34**0.5, "hellinger": 2**0.5,  # 9 + 25; (2 - 1)² + (3 - 2)²
        "intersection": 5, "intersection_over_union": 5 / 13, "chi_square": 9 / 5 + 25 / 13,
        "jensen_shannon": 1.880015 + 2.928802 - 0.916291 - 1.942031,  # 4 ln(4 / 2.5) + 9 ln(9 / 6.5) + …
    }  # fmt: skip
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


def test_features_of_zeros_give_zeros_and_negative_ones_are_refused() -> None:
    assert set(by_name([0, 0], [0, 0]).values()) == {0}
    with pytest.raises(ValueError, match=r"features: -1 is negative; take layers after a ReLU or softmax"):
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
    last = by_name(*units[rows[-1]].tolist())
    assert found[-1, 12:] == pytest.approx([*last.values()], abs=1e-4)
    assert describe_pairs(features, np.zeros((0, 2), np.int64)).shape == (0, 24)


def test_the_ten_folds_of_view_2_are_read_and_matrices_that_hold_no_pairs_are_refused(tmp_path: Path) -> None:
    table = np.random.default_rng(0).integers(1, 3698, (600, 5, 10)).astype(np.float64)
    table[:, 2] = np.arange(600)[:, None] % 2
    io.savemat(tmp_path / "View2.mat", {"any_name": table})
    for number, fold in enumerate(read_pairs(tmp_path / "View2.mat")):
        assert np.array_equal(fold.samples, table[:, :2, number])
        assert fold.same.tolist() == [False, True] * 300
    assert number == 9
    for broken, message in (
        (np.full((2, 5, 3), 3.0), "the third column holds .*; expected 0 and 1"),
        (np.zeros((2, 5, 3)), "the first two columns hold no sample numbers; expected 1 to 9999"),
    ):
        io.savemat(tmp_path / "View2.mat", {"pairs": broken})
        with pytest.raises(UserError, match=message):
            read_pairs(tmp_path / "View2.mat")


def test_videos_are_found_by_the_digits_that_end_their_names() -> None:
    assert rows_of_samples(["a/0001.avi", "b_0002", "1234/x-0300.mp4"]) == {1: 0, 2: 1, 300: 2}
    with pytest.raises(ValueError, match="'00000012' does not end in an ASLAN sample's four digits, such as 0012"):
        rows_of_samples(["00000012"])
    with pytest.raises(ValueError, match=r"a/0001.avi and b/0001.mp4 are both sample 0001; keep one of them"):
        rows_of_samples(["a/0001.avi", "b/0001.mp4"])


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
    assert [(score.accuracy, score.auc) for score in clear] == [(1, 1)] * 5
    noise = cross_validate(*folds_of(10, 200, signal=0))
    assert abs(np.mean([score.accuracy for score in noise]) - 0.5) < 0.05
    assert [score.num_pairs for score in noise] == [200] * 10
    distances, same = folds_of(3, 60, signal=20)
    same[1] = ~same[1]  # one fold says the opposite of the others, which teach what it is scored by
    other = cross_validate(distances, same)[1]
    assert (other.accuracy, other.auc) == (0, 0)


def test_a_constant_distance_does_no_harm_and_pairs_of_one_kind_are_refused() -> None:
    distances, same = folds_of(2, 60, signal=20)
    distances = [np.hstack([rows, np.ones((60, 1))]) for rows in distances]
    assert [score.accuracy for score in cross_validate(distances, same)] == [1, 1]
    with pytest.raises(ValueError, match="pairs: 60 pairs of one kind only; same and not-same ones are needed"):
        cross_validate(distances, [same[0], np.ones(60, bool)])


# The command

NUM_ACTIONS, NUM_SAMPLES = 12, 48


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A small ASLAN: sample i shows action i % 12, and its features say so; View2 of three folds."""
    random = np.random.default_rng(0)
    actions = np.arange(NUM_SAMPLES) % NUM_ACTIONS
    features = {
        layer: random.random((NUM_ACTIONS, dims))[actions] + random.uniform(0, 0.1, (NUM_SAMPLES, dims))
        for layer, dims in (("res5b", 40), ("pool5", 16), ("prob", 8))
    }
    sources = [f"ASLAN_AVI/{sample:04}.avi" for sample in range(1, NUM_SAMPLES + 1)]
    save_features(tmp_path / "f.parquet", made_features(sources, features))
    save_features(tmp_path / "fewer.parquet", made_features(sources[1:], {n: v[1:] for n, v in features.items()}))
    folds = []
    for _ in range(3):
        first = random.integers(0, NUM_SAMPLES, 40)
        same = np.arange(40) % 2 == 0
        shift = np.where(same, NUM_ACTIONS, random.integers(1, NUM_ACTIONS, 40))
        second = (first + shift) % NUM_SAMPLES
        folds.append(np.stack([first + 1, second + 1, actions[first] == actions[second], *np.ones((2, 40))], axis=1))
    io.savemat(tmp_path / "View2.mat", {"action_splits_pairs": np.stack(folds, axis=2)})
    io.savemat(tmp_path / "View1.mat", {"pairs": folds[0]})
    return tmp_path


def aslan(files: Path, *options: object, pairs: str = "View2.mat", code: int = 0) -> Result:
    return run(main, "--features", files / "f.parquet", "--pairs", files / pairs, *options, code=code)


def test_accuracy_and_auc_are_told_and_written_and_missing_videos_are_counted_and_named(files: Path) -> None:
    result = aslan(files, "--json", files / "new" / "r.json")
    assert "120 pairs in 3 folds; chance is 50%" in result.stdout
    found = json.loads((files / "new" / "r.json").read_text())
    check_schema("aslan", found)
    assert found["accuracy"] > 0.95
    assert found["auc"] > 0.99
    assert found["accuracy"] == pytest.approx(np.mean([fold["accuracy"] for fold in found["folds"]]))
    assert (found["missing"], found["num_pairs_left_out"]) == ([], 0)

    result = aslan(files, "--features", files / "fewer.parquet", "--layers", "pool5", "--json", files / "r.json")
    found = json.loads((files / "r.json").read_text())
    assert found["missing"] == [1]
    assert found["num_pairs_left_out"] > 0
    assert f"1 videos without features (0001); {found['num_pairs_left_out']} pairs left out" in result.stdout


@pytest.mark.parametrize(
    ("options", "pairs", "code", "message"),
    [
        ([], "nowhere.mat", 1, "nowhere.mat"),
        ([], "f.parquet", 1, "is not a MATLAB file that scipy reads"),
        ([], "View1.mat", 1, "View1.mat holds pairs [40, 5]; expected one matrix of pairs x 5 x folds"),
        (["--layers", ","], "View2.mat", 2, "--layers must name at least one layer"),
    ],
)
def test_errors_are_one_line_that_names_the_value(
    files: Path, options: list[str], pairs: str, code: int, message: str
) -> None:
    assert message in aslan(files, *options, pairs=pairs, code=code).stderr
