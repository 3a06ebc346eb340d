"""A linear SVM on a video's features: L2-normalized, one versus rest, liblinear (arXiv:1708.05038, section 4).

The paper does not state C. Here it is chosen for each split by cross-validation on the training videos, where a group
(a recording, a person) is never on both sides of a fold. Needs scikit-learn, from the extra `features`.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.train.evaluation import confusion_matrix
from res3d_video.train.evaluation.features import l2_normalised

GRID = (0.01, 0.1, 1.0, 10.0, 100.0)
NUM_FOLDS = 5
MAX_ITERATIONS = 5_000


@dataclass(frozen=True)
class SplitScores:
    """Scores of the SVM on one split: N test videos, K classes.

    Attributes:
        c: Chosen by cross-validation, or the given one.
        c_accuracy: C -> accuracy in cross-validation, mean over the folds; empty if C was given.
        predicted, labels: int64 [N], of the test videos.
        confusion: Test videos by class (row) and predicted class (column), int64 [K, K].
        converged: Whether liblinear converged with the chosen C before MAX_ITERATIONS.
    """

    c: float
    c_accuracy: dict[float, float]
    predicted: np.ndarray
    labels: np.ndarray
    confusion: np.ndarray
    num_train: int
    converged: bool

    @property
    def accuracy(self) -> float:
        """Share of test videos that are right."""
        return float((self.predicted == self.labels).mean())


def score_split(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    train: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    c: float | None = None,
    num_threads: int = 1,
) -> SplitScores:
    """Choose C and fit on the training rows, predict the test rows.

    Args:
        features: float [V, D], averaged over each video's clips; of any length.
        labels: int64 [V], below `num_classes`; a class may be absent from either side.
        groups: [V], the recording or person of each.
        train, test: int64, rows of either side.
        c: None chooses the most accurate of GRID; among equals the smallest, which regularizes most.
        num_threads: SVMs fitted at a time; each has a copy of the features, 16 bytes a number.

    Raises:
        UserError: All training videos are of one class, or their groups allow no cross-validation to choose C.
    """
    from sklearn.base import clone
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import LinearSVC

    known = labels[train]
    to_fit, to_predict = in_span(l2_normalised(features[train]), l2_normalised(features[test]))
    if len(np.unique(known)) < 2:
        raise UserError(f"classes: all {len(known)} videos to train on are of one class; extract more classes")
    svm = LinearSVC(C=c or 1.0, dual="auto", max_iter=MAX_ITERATIONS, random_state=0)
    c_accuracy: dict[float, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `converged` reports it; a class may have fewer videos than folds
        if c is None:
            folds = cut_into_folds(known, groups[train])

            def accuracy(c: float) -> float:
                return float(cross_val_score(clone(svm).set_params(C=c), to_fit, known, cv=folds).mean())

            with ThreadPoolExecutor(num_threads) as pool:  # liblinear lets other threads run
                c_accuracy = dict(zip(GRID, pool.map(accuracy, GRID), strict=True))
            svm.set_params(C=max(GRID, key=lambda c: c_accuracy[c]))
        svm.fit(to_fit, known)
    predicted = svm.predict(to_predict).astype(np.int64)
    return SplitScores(
        c=svm.C,
        c_accuracy=c_accuracy,
        predicted=predicted,
        labels=labels[test],
        confusion=confusion_matrix(labels[test], predicted, num_classes=num_classes),
        num_train=len(train),
        converged=bool(np.max(svm.n_iter_) < MAX_ITERATIONS),
    )


def in_span(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features as coordinates in the span of the training rows, if there are fewer rows than dimensions.

    The SVM is the same, as its weights lie in that span. UCF101's res5b has 25,088 dimensions and about 9,500 training
    videos; the coordinates are also triangular, and liblinear skips zeros.

    Args:
        train, test: float32 [V, D].

    Returns:
        float32 [V, min(D, training rows)], both.
    """
    if len(train) >= train.shape[1]:
        return train, test
    basis, coordinates = np.linalg.qr(train.T)  # [D, V], [V, V]
    return coordinates.T, test @ basis


def cut_into_folds(labels: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and held-out rows, int64 each, of at most NUM_FOLDS folds; every row is held out once.

    Folds do not split groups, and keep the proportions of classes as far as possible.

    Raises:
        UserError: There are fewer than two groups, or a fold would have only one class to fit.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    num_groups, most = len(np.unique(groups)), int(np.bincount(labels).max())
    num_folds, folds = min(NUM_FOLDS, num_groups, most), []
    if num_folds >= 2:
        split = StratifiedGroupKFold(num_folds).split(np.zeros(len(labels)), labels, groups)
        folds = [(fitted, held_out) for fitted, held_out in split if len(held_out)]
    if not folds or any(len(np.unique(labels[fitted])) < 2 for fitted, _ in folds):
        raise UserError(
            f"groups: C cannot be chosen by cross-validation among {len(labels)} training videos of {num_groups} "
            "groups; give one value with --c"
        )
    return folds
