"""Random words to numbers, and random orders of millions of samples. Pure numpy."""

import numpy as np


def random_below(words: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Random words uint64 [B] to integers in [0, bound), by their upper 32 bits; bound < 2**31.

    >>> random_below(np.array([0, 2**63, 2**64 - 1], np.uint64), np.array([10, 10, 10]))
    array([0, 5, 9])
    """
    return ((words >> np.uint64(32)) * bound.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def window_order(tar: np.ndarray, *, window: int, random: np.random.Generator) -> np.ndarray:
    """Shuffle tars, then samples within each `window` of consecutive tars.

    Args:
        tar: int [N], which tar each sample lies in.

    Returns:
        int64 [N], a permutation; samples of one window of tars are read before those of the next.
    """
    present = np.zeros(int(tar.max()) + 1, bool)
    present[tar] = True
    turn = np.empty(len(present), np.int64)  # which window each tar is read in
    turn[present] = random.permutation(int(present.sum())) // window
    drawn = random.random(len(tar))
    turns = turn[tar]
    order = np.argsort(turns.astype(np.min_scalar_type(turns.max())), kind="stable")  # 16 bits are sorted by radix
    ends = np.cumsum(np.bincount(turns))
    for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        own = order[first:end]
        order[first:end] = own[np.argsort(drawn[own], kind="stable")]  # in pieces that fit the cache
    return order


def compact(rows: np.ndarray) -> np.ndarray:
    """Rows as int32, half the memory, where they all fit; millions of them are kept.

    >>> compact(np.array([5, 2**31 - 1])).dtype, compact(np.array([5, 2**31])).dtype
    (dtype('int32'), dtype('int64'))
    """
    return rows.astype(np.int32) if rows.max(initial=0) < 2**31 else rows
