"""ASLAN, whether two videos show the same action: lists of pairs, distances of pairs, and a linear SVM over ten folds.

The protocol is that of C3D and arXiv:1708.05038. Features of each layer are averaged over a video and L2-normalized.
A pair has twelve distances per layer, which are z-normalized; a linear SVM classifies it (Kliper-Gross et al. 2012).
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from res3d_video.pipeline.errors import UserError, os_errors_of_the_user, printable
from res3d_video.pipeline.files import read_plain
from res3d_video.train.evaluation.features import l2_normalised

MAX_MAT_BYTES = 2**19  # View2.mat has half of that, and zlib expands data at most a thousand times
MAX_NUMBERS = 10**6
LAYERS = ("res5b", "pool5", "prob")  # the paper does not say; C3D uses prob, fc7, fc6 and pool5


class Pairs(NamedTuple):
    """P pairs of a fold: 1-based numbers of samples, int64 [P, 2]; whether their actions are the same, bool [P]."""

    samples: np.ndarray
    same: np.ndarray


def read_pairs(path: Path) -> list[Pairs]:
    """Read the folds of the official View2.mat: a matrix of 600 pairs x 5 x 10 folds.

    The columns are the two samples, 1 for the same action or 0, and the two actions.

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
        raise UserError(f"{path} holds {found or 'nothing'}; expected one matrix of pairs x 5 x folds")
    table = tables[0]  # [P, 5, folds]
    if not np.isin(table[:, 2], (0, 1)).all():
        raise UserError(f"{path}: the third column holds {sorted({*table[:, 2].flat})[:4]}; expected 0 and 1")
    if not ((table[:, :2] >= 1) & (table[:, :2] < 10_000) & (table[:, :2] % 1 == 0)).all():
        raise UserError(f"{path}: the first two columns hold no sample numbers; expected 1 to 9999")
    return [Pairs(fold[:, :2].astype(np.int64), fold[:, 2] == 1) for fold in np.moveaxis(table, 2, 0)]


def is_table(shape: tuple[int, ...]) -> bool:
    """Whether a matrix may be pairs x 5 x folds.

    >>> is_table((600, 5, 10)), is_table((600, 5)), is_table((10**9, 5, 10))
    (True, False, False)
    """
    return len(shape) == 3 and shape[1] == 5 and shape[2] > 1 and 0 < math.prod(shape) <= MAX_NUMBERS


def rows_of_samples(names: Sequence[str]) -> dict[int, int]:
    """Sample number -> row. The number is the last four digits of the video's name, as in the official folders.

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


class FoldScore(NamedTuple):
    """Accuracy and area under the ROC curve of a fold, 0 to 1, and the number of tested pairs."""

    accuracy: float
    auc: float
    num_pairs: int


def cross_validate(
    distances: Sequence[np.ndarray],
    same: Sequence[np.ndarray],
    *,
    on_fold: Callable[[int, int], None] = lambda *_: None,
) -> list[FoldScore]:
    """Test each fold with a linear SVM of C = 1 that is trained on the others, on z-normalized distances.

    Args:
        distances, same: For each fold, float64 [P, F] and bool [P].
        on_fold: Called with (folds done, folds in all).

    Raises:
        UserError: All pairs to train or to test on are of one kind.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    scores = []
    for number, (test, truth) in enumerate(zip(distances, same, strict=True)):
        others = [fold for fold in range(len(distances)) if fold != number]
        train, labels = (np.concatenate([part[fold] for fold in others]) for part in (distances, same))
        for side in (labels, truth):
            if len(np.unique(side)) < 2:
                raise UserError(f"pairs: {len(side)} pairs of one kind only; same and not-same ones are needed")
        svm = make_pipeline(StandardScaler(), LinearSVC(dual=False)).fit(train, labels)
        margins = svm.decision_function(test)  # [P]
        accuracy = float(((margins > 0) == truth).mean())
        scores.append(FoldScore(accuracy, float(roc_auc_score(truth, margins)), len(truth)))
        on_fold(number + 1, len(distances))
    return scores


PAIRS_AT_ONCE = 64  # with the 25,088 float64 of res5b, 13 MB for each of about ten arrays


def pair_distances(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """Twelve distances and similarities of each pair: name -> float64 [P]; 0 / 0 is 0.

    These are the usual ones for non-negative features. The C3D and Res3D papers only name "the 12 of Kliper-Gross et
    al.", whose own table may differ in one or two.

    Args:
        first, second: Non-negative features, float [P, D].

    Raises:
        UserError: A feature is negative, so that it has no square root.
    """
    from scipy.special import rel_entr

    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    lowest = min(x.min(initial=0), y.min(initial=0))
    if lowest < 0:
        raise UserError(f"features: {lowest:.3g} is negative; take layers after a ReLU or softmax, such as res5b")
    dot, roots = (x * y).sum(axis=1), np.sqrt(x * y).sum(axis=1)  # [P]
    intersection, union = np.minimum(x, y).sum(axis=1), np.maximum(x, y).sum(axis=1)
    return {
        "dot": dot,
        "root_dot": np.sqrt(dot),
        "bhattacharyya": roots,
        "root_bhattacharyya": np.sqrt(roots),
        "normalised_bhattacharyya": _ratio(roots, np.sqrt(x.sum(axis=1) * y.sum(axis=1))),
        "euclidean": np.sqrt(((x - y) ** 2).sum(axis=1)),
        "hellinger": np.sqrt(((np.sqrt(x) - np.sqrt(y)) ** 2).sum(axis=1)),
        "city_block": np.abs(x - y).sum(axis=1),
        "intersection": intersection,
        "intersection_over_union": _ratio(intersection, union),
        "chi_square": _ratio((x - y) ** 2, x + y).sum(axis=1),
        "jensen_shannon": (rel_entr(x, (x + y) / 2) + rel_entr(y, (x + y) / 2)).sum(axis=1),
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A quotient; 0 / 0 is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def describe_pairs(features: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The distances of pairs in all layers: float64 [P, 12 x layers].

    Args:
        features: Layer -> features averaged over each video, float [V, D].
        rows: The two videos of each pair, int64 [P, 2].
    """
    columns = []
    for values in features.values():
        units, blocks = l2_normalised(values), [np.zeros((0, 12))]
        for start in range(0, len(rows), PAIRS_AT_ONCE):
            left, right = rows[start : start + PAIRS_AT_ONCE].T
            blocks.append(np.stack([*pair_distances(units[left], units[right]).values()], axis=1))
        columns.append(np.concatenate(blocks))  # [P, 12]
    return np.concatenate(columns, axis=1)
