"""Numbers of a dataset that its index knows of every sample: counts, balance, lengths. Pure numpy."""

from dataclasses import dataclass

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import SUBSETS, ShardIndex, chunks

SIDES = ("train", "test", "not used")  # columns of `counts`
SIDE_VALUES = (SUBSETS["train"], SUBSETS["test"], 0)
MAX_SIZES = 50  # stored picture sizes that are told apart; with --keep-aspect there may be many


@dataclass(frozen=True)
class Balance:
    """How evenly samples are spread over the classes that have any.

    Attributes:
        num_effective: exp of the entropy: so many classes of one size would be as uncertain.
    """

    num_classes: int
    largest: int
    smallest: int
    num_effective: float

    @property
    def ratio(self) -> float:
        """Samples of the largest class to one of the smallest."""
        return self.largest / self.smallest


def split_column(index: ShardIndex, split: str | None) -> int:
    """Which column of `index.subsets` is meant; None takes split 1, else the first.

    Raises:
        ValueError: There is no such split.
    """
    names = index.split_names
    if split is None:
        return names.index("1") if "1" in names else 0
    if split not in names:
        raise UserError(f"{index.name}: split {split} does not exist; choose {' or '.join(names)}")
    return names.index(split)


def side_counts(index: ShardIndex, split: int) -> np.ndarray:
    """Samples of every class on every side of a split: int64 [K, 3], see `SIDES`. First labels count."""
    num_classes = len(index.classes)
    counts = np.zeros((num_classes, 3), np.int64)
    for rows in chunks(index.num_samples):
        together = index.labels[rows].astype(np.int64) * 3 + index.subsets[rows, split]
        counts += np.bincount(together, minlength=3 * num_classes).reshape(num_classes, 3)
    return counts[:, SIDE_VALUES]


def balance(counts: np.ndarray) -> Balance | None:
    """Of samples a class, int [K]; None where no class has any.

    >>> balance(np.array([4, 0, 4, 4])).ratio, round(balance(np.array([6, 0, 3, 3])).num_effective, 6)
    (1.0, 2.828427)
    """
    present = counts[counts > 0]
    if not len(present):
        return None
    share = present / present.sum()
    effective = float(np.exp(-(share * np.log(share)).sum()))
    return Balance(len(present), int(present.max()), int(present.min()), effective)


def lacking(counts: np.ndarray, classes: list[str]) -> dict[str, list[str]]:
    """Classes that lack samples altogether, or on one side although they have some on another.

    >>> lacking(np.array([[2, 1, 0], [0, 3, 0], [4, 0, 0], [0, 0, 0]]), ["a", "b", "c", "d"])
    {'no samples': ['d'], 'no training samples': ['b'], 'no test samples': ['c']}
    """
    some = counts.sum(axis=1) > 0
    found = {"no samples": ~some, "no training samples": some & (counts[:, 0] == 0)}
    found["no test samples"] = some & (counts[:, 1] == 0)
    return {name: [classes[i] for i in np.flatnonzero(rows)] for name, rows in found.items()}


def length_counts(index: ShardIndex) -> tuple[np.ndarray, np.ndarray]:
    """The different lengths of samples in stored frames, rising, and how many samples have each: int64 both."""
    found: dict[int, int] = {}
    for rows in chunks(index.num_samples):
        lengths, counts = np.unique(index.num_frames[rows], return_counts=True)
        for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
            found[length] = found.get(length, 0) + count
    lengths = np.array(sorted(found), np.int64)
    return lengths, np.array([found[length] for length in sorted(found)], np.int64)


def sizes(index: ShardIndex) -> tuple[dict[tuple[int, int], int], int]:
    """Stored width and height -> samples, the most frequent first, and samples of sizes that are not named."""
    found: dict[int, int] = {}
    for rows in chunks(index.num_samples):
        together = index.content[rows, 2].astype(np.int64) << 16 | index.content[rows, 3]
        values, counts = np.unique(together, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            found[value] = found.get(value, 0) + count
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    named = {(value >> 16, value & 0xFFFF): count for value, count in ordered[:MAX_SIZES]}
    return named, sum(count for _, count in ordered[MAX_SIZES:])


def quantiles(values: np.ndarray, counts: np.ndarray, shares: tuple[float, ...] = (0.0, 0.5, 1.0)) -> list[float]:
    """The value below which a share of all lies, of values that occur so often; `values` rise.

    >>> quantiles(np.array([10, 20, 30]), np.array([1, 7, 2]))
    [10.0, 20.0, 30.0]
    """
    ends = np.cumsum(counts)
    places = np.minimum(np.searchsorted(ends, np.array(shares) * ends[-1]), len(values) - 1)
    return [float(values[place]) for place in places]


def hashes(names: np.ndarray) -> np.ndarray:
    """Byte strings to 64-bit numbers, equal where they are equal: uint64 [N].

    Of five million different names two meet in one number once in a million times.
    """
    words = -(-names.dtype.itemsize // 8)
    out = np.empty(len(names), np.uint64)
    for rows in chunks(len(names)):
        padded = np.ascontiguousarray(names[rows]).astype(f"S{words * 8}", copy=False)
        out[rows] = mixed(padded.view(np.uint64).reshape(-1, words))
    return out


def mixed(columns: np.ndarray) -> np.ndarray:
    """Rows of numbers to one number each: uint64 [N, W] to uint64 [N], by splitmix64's finaliser after each column."""
    out = np.zeros(len(columns), np.uint64)
    for column in columns.T:
        out = (out ^ column) + np.uint64(0x9E3779B97F4A7C15)
        out = (out ^ (out >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out ^= out >> np.uint64(31)
    return out
