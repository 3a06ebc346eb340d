"""How far apart the features of two videos are, in the twelve ways of the ASLAN benchmark."""

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.train.evaluation.features.rows import l2_normalised

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
        first, second: Not negative, float [P, D].

    Returns:
        float64 [P, 12].

    Raises:
        ValueError: There is a negative value, of which some of these have no root.
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
    """The distances of pairs in every layer.

    Args:
        features: By layer, averaged over each video, float [V, D].
        rows: The two videos of each pair, int64 [P, 2].

    Returns:
        float64 [P, 12 x layers], layer after layer.
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
