"""A linear SVM on a video's features: L2-normalised, one against the rest, liblinear (arXiv:1708.05038, section 4).

The paper does not print C. Here it is chosen for each split by cross-validation among the training videos, and a group
(a recording, a person) is never on both sides of a fold. Needs scikit-learn, of the extra `features`.
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.train.evaluation import confusion_matrix
from res3d_video.train.evaluation.features import l2_normalised

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

GRID = (0.01, 0.1, 1.0, 10.0, 100.0)
NUM_FOLDS = 5
MAX_ITERATIONS = 5_000
SEED = 0  # of liblinear's order of samples, and of the randomised PCA


@dataclass(frozen=True)
class SplitData:
    """One split of V videos.

    Attributes:
        features: float [V, D], averaged over each video's clips; normalised by whoever uses them.
        labels: int64 [V], below `num_classes`; a class may be absent from either side.
        groups: [V], the recording or person of each.
        train, test: int64, rows of either side.
    """

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    train: np.ndarray
    test: np.ndarray
    num_classes: int


@dataclass(frozen=True)
class SplitScores:
    """What the SVM made of one split: N test videos, K classes.

    Attributes:
        c: Chosen by cross-validation, or the only one given.
        c_accuracy: C -> share of training videos right in cross-validation; empty when there was nothing to choose.
        predicted, labels: int64 [N], of the test videos.
        converged: Whether liblinear ended by its own rule with the chosen C, and not at MAX_ITERATIONS.
    """

    c: float
    c_accuracy: dict[float, float]
    predicted: np.ndarray
    labels: np.ndarray
    num_train: int
    num_classes: int
    converged: bool

    @property
    def accuracy(self) -> float:
        """Share of test videos that are right."""
        return float((self.predicted == self.labels).mean())

    @property
    def c_is_at_the_end(self) -> bool:
        """Whether a smaller or larger C than any tried might do better: an end of the grid beats its neighbor."""
        order = sorted(self.c_accuracy)
        inner = {order[0]: order[1], order[-1]: order[-2]} if order else {}
        return self.c in inner and self.c_accuracy[self.c] > self.c_accuracy[inner[self.c]]

    @property
    def confusion(self) -> np.ndarray:
        """Test videos by class (row) and predicted class (column), int64 [K, K]."""
        return confusion_matrix(self.labels, self.predicted, num_classes=self.num_classes)


def fit(features: np.ndarray, labels: np.ndarray, *, c: float) -> "LinearSVC":
    """liblinear's SVM, one against the rest, squared hinge.

    Args:
        features: float [V, D].
        labels: int64 [V], at least two different ones.

    Raises:
        UserError: All videos are of one class.
    """
    from sklearn.svm import LinearSVC

    if len(np.unique(labels)) < 2:
        raise UserError(f"classes: all {len(labels)} videos to train on are of one class; extract more classes")
    return LinearSVC(C=c, dual="auto", max_iter=MAX_ITERATIONS, random_state=SEED).fit(features, labels)


def in_span(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features as coordinates in the space that the training rows span, where there are fewer rows than dimensions.

    The SVM is the same, for its weights lie in that space. UCF101's res5b has 25,088 dimensions and some 9,500
    training videos; their coordinates are triangular besides, and liblinear skips zeros.

    Args:
        train, test: float32 [V, D].

    Returns:
        float32 [V, min(D, training rows)], both.
    """
    if len(train) >= train.shape[1]:
        return train, test
    basis, coordinates = np.linalg.qr(train.T)  # [D, V], [V, V]
    return coordinates.T, test @ basis


def choose_c(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    grid: Sequence[float] = GRID,
    num_threads: int = 1,
    on_fit: Callable[[], None] = lambda: None,
) -> tuple[float, dict[float, float]]:
    """The C of the best accuracy in cross-validation; of equals the smallest, which regularises most.

    Folds keep groups whole and, as well as that allows, classes in proportion.

    Args:
        features: float [V, D], of training videos alone, normalised.
        labels, groups: [V].
        num_threads: SVMs fitted at a time; each holds a copy of the features, 16 bytes a number.
        on_fit: Called after each SVM.

    Returns:
        C, and for each C the share of videos that are right when their fold is left out; empty for a grid of one.

    Raises:
        UserError: There is a choice, and the videos cannot be cut in two by groups.
    """
    if len(grid) == 1:
        return grid[0], {}
    num_right = dict.fromkeys(sorted(grid), 0)
    work = [(c, fitted, held_out) for fitted, held_out in cut_into_folds(labels, groups) for c in num_right]

    def count_right(job: tuple[float, np.ndarray, np.ndarray]) -> int:
        c, fitted, held_out = job
        svm = fit(features[fitted], labels[fitted], c=c)
        return int((svm.predict(features[held_out]) == labels[held_out]).sum())

    with ThreadPoolExecutor(num_threads) as pool:  # liblinear lets other threads run
        for (c, _, _), right in zip(work, pool.map(count_right, work), strict=True):
            num_right[c] += right
            on_fit()
    accuracy = {c: right / len(labels) for c, right in num_right.items()}
    return max(accuracy, key=lambda c: accuracy[c]), accuracy  # the first of equals


def cut_into_folds(labels: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows held out, int64 each, of at most NUM_FOLDS folds; every row is held out once.

    Raises:
        UserError: Fewer than two groups, or a fold would leave one class to fit.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    num_groups, most = len(np.unique(groups)), int(np.bincount(labels).max())
    num_folds = min(NUM_FOLDS, num_groups, most)
    if num_folds < 2:
        raise UserError(
            f"groups: C cannot be chosen by cross-validation among {len(labels)} training videos of {num_groups} "
            "groups; give one value with --c"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of fewer videos than folds
        split = StratifiedGroupKFold(num_folds).split(np.zeros(len(labels)), labels, groups)
        folds = [(fitted, held_out) for fitted, held_out in split if len(held_out)]
    if any(len(np.unique(labels[fitted])) < 2 for fitted, _ in folds):
        raise UserError(
            "groups: a fold of the cross-validation leaves one class to fit, for each class is one group; "
            "give one value with --c"
        )
    return folds


def score_split(
    data: SplitData,
    *,
    grid: Sequence[float] = GRID,
    num_threads: int = 1,
    on_fit: Callable[[], None] = lambda: None,
) -> SplitScores:
    """Choose C and fit on the training rows, predict the test rows; raises what `choose_c` and `fit` do."""
    from sklearn.exceptions import ConvergenceWarning

    labels, groups = data.labels[data.train], data.groups[data.train]
    train, test = in_span(l2_normalised(data.features[data.train]), l2_normalised(data.features[data.test]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` says it
        c, c_accuracy = choose_c(train, labels, groups, grid=grid, num_threads=num_threads, on_fit=on_fit)
        svm = fit(train, labels, c=c)
    on_fit()
    return SplitScores(
        c=c,
        c_accuracy=c_accuracy,
        predicted=svm.predict(test).astype(np.int64),
        labels=data.labels[data.test],
        num_train=len(data.train),
        num_classes=data.num_classes,
        converged=bool(np.max(svm.n_iter_) < MAX_ITERATIONS),
    )


def compactness(
    data: SplitData,
    *,
    dims: Sequence[int],
    grid: Sequence[float] = GRID,
    num_threads: int = 1,
    on_fit: Callable[[], None] = lambda: None,
) -> dict[int, SplitScores]:
    """Scores of the features' first principal components, fitted and scored as the features themselves are.

    The components are those of the training rows, of normalised features; the projections are normalised again.

    Args:
        dims: Numbers of components; those above the number of training videos or D are left out.

    Returns:
        Number of components -> scores, rising.
    """
    from sklearn.decomposition import PCA

    possible = [d for d in sorted(set(dims)) if d <= min(len(data.train), data.features.shape[1])]
    if not possible:
        return {}
    features = l2_normalised(data.features)
    pca = PCA(possible[-1], random_state=SEED).fit(features[data.train])
    projected = pca.transform(features)  # [V, d], from the largest variance down
    return {
        d: score_split(replace(data, features=projected[:, :d]), grid=grid, num_threads=num_threads, on_fit=on_fit)
        for d in possible
    }
