"""How few dimensions features can do with: the linear SVM on their first principal components (C3D's compactness)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from train.evaluation.features.rows import l2_normalised
from train.evaluation.linear_svm import GRID, SplitData, SplitScores, scikit_learn, score_split

PCA_DIMS = (10, 20, 50, 100, 200, 500)
SEED = 0  # of the randomised PCA


def compactness(
    data: SplitData,
    *,
    dims: Sequence[int] = PCA_DIMS,
    grid: Sequence[float] = GRID,
    num_threads: int = 1,
    on_fit: Callable[[], None] | None = None,
) -> dict[int, SplitScores]:
    """Scores of the features' first principal components, fitted and scored as the features themselves are.

    The components are those of the training rows, of normalised features; the projections are normalised again.

    Args:
        dims: Numbers of components; those above the number of training videos or D are left out.

    Returns:
        Number of components -> scores, rising.
    """
    with scikit_learn():
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
