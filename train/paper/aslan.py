"""ASLAN: do two videos show the same action? Pair lists, distances of pairs, and a linear SVM over ten folds.

Protocol of C3D and arXiv:1708.05038: features of each layer are averaged over a video and L2-normalised, a pair gets
twelve distances a layer, each is z-normalised, and a linear SVM says same or not (Kliper-Gross et al. 2012).
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from res3d_video.pipeline.errors import UserError, os_errors_of_the_user, printable
from res3d_video.pipeline.files import read_plain
from res3d_video.train.evaluation.features import l2_normalised

MAX_MAT_BYTES = 2**19  # View2.mat has half of it, and zlib makes no more than a thousand times as much
MAX_NUMBERS = 10**6
LAYERS = ("res5b", "pool5", "prob")  # not stated in the paper; C3D takes prob, fc7, fc6 and pool5


@dataclass(frozen=True)
class Pairs:
    """P pairs of one fold.

    Attributes:
        samples: Numbers of the two action samples, from 1, int64 [P, 2].
        same: Whether they show the same action, bool [P].
    """

    samples: np.ndarray
    same: np.ndarray

    def __len__(self) -> int:
        return len(self.same)


def read_pairs(path: Path) -> list[Pairs]:
    """The folds of an official .mat file: ten of View2.mat, 600 pairs x 5 x 10; one of View 1's train or test pairs.

    The columns are the first sample, the second, 1 for the same action and 0 for another, and the two actions.

    Raises:
        UserError: The file holds something else.
    """
    from scipy.io import loadmat, whosmat  # of the extra `features`, as is scikit-learn

    with os_errors_of_the_user(path):
        content = read_plain(path, max_bytes=MAX_MAT_BYTES)
    try:
        shapes = {name: shape for name, shape, _ in whosmat(io.BytesIO(content))}
        fit = [name for name, shape in shapes.items() if is_table(shape)]
        arrays = loadmat(io.BytesIO(content), variable_names=fit) if len(fit) == 1 else {}
    except Exception as error:  # scipy raises half a dozen kinds for files that are not MATLAB's
        reason = printable(str(error), most=120)
        raise UserError(f"{path} is not a MATLAB file that scipy reads ({reason}); give the official one") from None
    tables = [arrays[name] for name in fit if name in arrays]
    if len(tables) != 1 or not is_table(tables[0].shape) or tables[0].dtype.kind not in "iuf":
        found = ", ".join(f"{printable(name, most=40)} {list(shape)}" for name, shape in [*shapes.items()][:5])
        raise UserError(f"{path} holds {found or 'nothing'}; expected one matrix of pairs x 5 (x folds)")
    table = tables[0].reshape(len(tables[0]), 5, -1)  # [P, 5, folds]
    if not np.isin(table[:, 2], (0, 1)).all():
        raise UserError(f"{path}: the third column holds {sorted({*table[:, 2].flat})[:4]}; expected 0 and 1")
    if not ((table[:, :2] >= 1) & (table[:, :2] < 10_000) & (table[:, :2] % 1 == 0)).all():
        raise UserError(f"{path}: the first two columns hold no sample numbers; expected 1 to 9999")
    return [
        Pairs(samples=table[:, :2, fold].astype(np.int64), same=table[:, 2, fold] == 1)
        for fold in range(table.shape[2])
    ]


def is_table(shape: tuple[int, ...]) -> bool:
    """Whether a matrix may be pairs x 5 (x folds).

    >>> is_table((600, 5, 10)), is_table((5, 600)), is_table((10**9, 5))
    (True, False, False)
    """
    return len(shape) in (2, 3) and shape[1] == 5 and 0 < math.prod(shape) <= MAX_NUMBERS


def rows_of_samples(names: Sequence[str]) -> dict[int, int]:
    """Sample number -> row: the four digits that end a raw video's name, as they do in the official folders.

    Raises:
        UserError: A name has another form, or two have the same number.

    >>> rows_of_samples(["ASLAN_AVI/0012.avi", "run_0003"])
    {12: 0, 3: 1}
    """
    rows: dict[int, int] = {}
    for row, name in enumerate(names):
        found = re.search(r"(?<!\d)(\d{4})(\.\w+)?$", name)
        if found is None:
            raise UserError(f"features: video {name!r} does not end in an ASLAN sample's four digits, such as 0012")
        number = int(found[1])
        if number in rows:
            raise UserError(f"features: {names[rows[number]]} and {name} are both sample {number:04}; keep one of them")
        rows[number] = row
    return rows


def without_missing(pairs: Pairs, rows: dict[int, int]) -> tuple[Pairs, set[int]]:
    """The pairs whose two videos have features, and the samples that have none."""
    present = np.isin(pairs.samples, list(rows))  # [P, 2]
    keep = present.all(axis=1)
    return Pairs(pairs.samples[keep], pairs.same[keep]), set(pairs.samples[~present].tolist())


@dataclass(frozen=True)
class FoldScore:
    """Accuracy and area under the ROC curve on one fold, 0…1, and how many pairs of it were tested."""

    accuracy: float
    auc: float
    num_pairs: int


def score_fold(
    train: np.ndarray, train_same: np.ndarray, test: np.ndarray, test_same: np.ndarray, *, c: float = 1.0
) -> FoldScore:
    """z-normalise by the training pairs, train a linear SVM on them, score the others.

    Args:
        train, test: Distances, float64 [P, F].
        train_same, test_same: bool [P].

    Raises:
        UserError: One side has only pairs of one kind.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    for side, same in (("training", train_same), ("test", test_same)):
        if len(np.unique(same)) < 2:
            raise UserError(f"pairs: {len(same)} {side} pairs of one kind only; same and not-same ones are needed")
    svm = make_pipeline(StandardScaler(), LinearSVC(C=c, dual=False)).fit(train, train_same)
    margins = svm.decision_function(test)  # [P]
    return FoldScore(
        accuracy=float(((margins > 0) == test_same).mean()),
        auc=float(roc_auc_score(test_same, margins)),
        num_pairs=len(test_same),
    )


def cross_validate(
    distances: Sequence[np.ndarray],
    same: Sequence[np.ndarray],
    *,
    c: float = 1.0,
    on_fold: Callable[[int, int], None] = lambda *_: None,
) -> list[FoldScore]:
    """Test each fold with what was trained on the others.

    Args:
        distances, same: Of each fold, float64 [P, F] and bool [P].
        on_fold: Told (folds done, folds in all).
    """
    scores = []
    for held_out in range(len(distances)):
        others = [fold for fold in range(len(distances)) if fold != held_out]
        train, labels = (np.concatenate([part[fold] for fold in others]) for part in (distances, same))
        scores.append(score_fold(train, labels, distances[held_out], same[held_out], c=c))
        on_fold(held_out + 1, len(distances))
    return scores


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and the standard error that ASLAN reports: sample deviation over √folds; NaN for one fold.

    >>> mean_and_error([0.5, 0.7])
    (0.6, 0.09999999999999998)
    """
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return float(np.mean(values)), error


PAIRS_AT_ONCE = 64  # times the 25,088 float64 of res5b: 13 MB for each of about ten arrays

DISTANCES = (
    "dot", "root_dot", "bhattacharyya", "root_bhattacharyya", "normalised_bhattacharyya", "euclidean",
    "hellinger", "city_block", "intersection", "intersection_over_union", "chi_square", "jensen_shannon",
)  # fmt: skip


def pair_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Twelve distances and similarities of each pair, in the order of DISTANCES.

    With x and y the two rows, Σ over their entries, m = (x + y) / 2 and 0 / 0 = 0:

        dot                       Σ x·y
        root_dot                  √ Σ x·y
        bhattacharyya             Σ √(x·y)
        root_bhattacharyya        √ Σ √(x·y)
        normalised_bhattacharyya  Σ √(x·y) / √(Σ x · Σ y)
        euclidean                 √ Σ (x - y)²
        hellinger                 √ Σ (√x - √y)²
        city_block                Σ |x - y|
        intersection              Σ min(x, y)
        intersection_over_union   Σ min(x, y) / Σ max(x, y)
        chi_square                Σ (x - y)² / (x + y)
        jensen_shannon            Σ x·ln(x / m) + y·ln(y / m)

    These are the usual ones for features that are not negative. The C3D and Res3D papers only say "the 12 of
    Kliper-Gross et al."; that paper's own table may differ in one or the other.

    Args:
        first, second: Not negative, float [P, D]. Returns float64 [P, 12].

    Raises:
        UserError: There is a negative value, of which some of these have no root.
    """
    from scipy.special import rel_entr

    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    lowest = min(x.min(initial=0), y.min(initial=0))
    if lowest < 0:
        raise UserError(f"features: {lowest:.3g} is negative; take layers after a ReLU or softmax, such as res5b")
    total, gap, low = x + y, x - y, np.minimum(x, y)  # [P, D]
    roots = np.sqrt(x * y)
    dot, root_sum = (x * y).sum(axis=1), roots.sum(axis=1)  # [P]
    masses = np.sqrt(x.sum(axis=1) * y.sum(axis=1))
    union = np.maximum(x, y).sum(axis=1)
    columns = [
        dot,
        np.sqrt(dot),
        root_sum,
        np.sqrt(root_sum),
        _ratio(root_sum, masses),
        np.sqrt((gap * gap).sum(axis=1)),
        np.sqrt(np.square(np.sqrt(x) - np.sqrt(y)).sum(axis=1)),
        np.abs(gap).sum(axis=1),
        low.sum(axis=1),
        _ratio(low.sum(axis=1), union),
        _ratio(gap * gap, total).sum(axis=1),
        (rel_entr(x, total / 2) + rel_entr(y, total / 2)).sum(axis=1),
    ]
    return np.stack(columns, axis=1)  # [P, 12]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A quotient that is 0 where nothing is divided by nothing."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def describe_pairs(features: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The distances of pairs in every layer, layer after layer: float64 [P, 12 x layers].

    Args:
        features: By layer, averaged over each video, float [V, D].
        rows: The two videos of each pair, int64 [P, 2].
    """
    columns = []
    for values in features.values():
        units = l2_normalised(values)  # [V, D]
        blocks = [np.zeros((0, len(DISTANCES)))]
        for start in range(0, len(rows), PAIRS_AT_ONCE):
            left, right = rows[start : start + PAIRS_AT_ONCE].T
            blocks.append(pair_distances(units[left], units[right]))
        columns.append(np.concatenate(blocks))  # [P, 12]
    return np.concatenate(columns, axis=1)
