"""What lies on both sides of a split and should not: groups, source videos, the very same pictures."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from res3d_video.pipeline.index import SUBSETS, ShardIndex, chunks
from res3d_video.pipeline.schema import CRC32, SIZE
from res3d_video.tools.pages.data.facts import hashes, mixed

MAX_EXAMPLES = 5  # named of each kind
MAX_COMPARED = 10_000  # samples whose pictures are all compared; of more, the first and the last picture decide
MAX_KEYS = 2  # named of each side of an example
NAMES = {
    "group": ("group", "groups"),
    "source": ("source video", "source videos"),
    "content": ("set of identical segments", "sets of identical segments"),
}


@dataclass(frozen=True)
class Example:
    """One thing that lies on both sides, and some samples of it.

    Attributes:
        keys: Side -> keys of a few samples with their sources.
    """

    name: str
    num_train: int
    num_test: int
    keys: dict[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Leak:
    """What one split has on both sides.

    Attributes:
        kind: "group", "source" or "content".
        count: Things on both sides.
        num_things: Different things in the whole dataset.
        num_test: Test samples that are concerned.
    """

    split: str
    kind: str
    count: int
    num_things: int
    num_test: int
    examples: list[Example]

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def leaks(index: ShardIndex) -> list[Leak]:
    """Groups, sources and pictures on both sides, a `Leak` for each kind and split."""
    found = []
    for kind, names in (("group", index.groups), ("source", index.sources), ("content", None)):
        numbers = content_hashes(index) if names is None else hashes(names)
        is_known = numbers != 0 if names is None else numbers != hashes(np.array([b""]))[0]
        different, thing = np.unique(numbers, return_inverse=True)
        num_things = len(different) - (not is_known.all())
        for column, split in enumerate(index.split_names):
            sides = index.subsets[:, column]
            on_side = np.stack([is_known & (sides == SUBSETS[side]) for side in ("train", "test")])
            found.append(leak(index, thing, on_side, split=split, kind=kind, num_things=num_things))
    return found


def leak(index: ShardIndex, thing: np.ndarray, on_side: np.ndarray, *, split: str, kind: str, num_things: int) -> Leak:
    """What one split has on both sides.

    Args:
        thing: int64 [N], 0-based, equal where samples are of one thing.
        on_side: bool [2, N], training samples and test samples that are of any thing.
    """
    rows = on_both_sides(thing, on_side)
    own = thing[rows]
    if kind == "content" and 0 < len(rows) <= MAX_COMPARED:
        own = content_numbers(index, rows)
        kept = on_both_sides(own, on_side[:, rows])
        rows, own = rows[kept], own[kept]
    is_test = on_side[1][rows]
    different, first = np.unique(own, return_index=True)
    examples = []
    for number in different[np.argsort(first, kind="stable")[:MAX_EXAMPLES]].tolist():
        members = np.flatnonzero(own == number)
        sides = [rows[members[is_test[members] == side]] for side in (False, True)]
        examples.append(example(index, kind, *sides))
    return Leak(split, kind, len(different), num_things, int(is_test.sum()), examples)


def on_both_sides(thing: np.ndarray, on_side: np.ndarray) -> np.ndarray:
    """Rows of the things that have some on each side: int64, rising.

    >>> on_both_sides(np.array([0, 0, 1, 2, 2]), np.array([[1, 0, 1, 0, 0], [0, 1, 0, 1, 1]], bool))
    array([0, 1])
    """
    has = np.zeros((2, int(thing.max(initial=0)) + 1), bool)
    for side, rows in enumerate(on_side):
        has[side, thing[rows]] = True
    return np.flatnonzero((has[0] & has[1])[thing] & (on_side[0] | on_side[1]))


def example(index: ShardIndex, kind: str, train: np.ndarray, test: np.ndarray) -> Example:
    """One thing, from its rows on either side."""
    first = int(train[0])
    name = {"group": text(index.groups[first]), "source": index.source(first)}.get(kind, index.source(first))
    keys = {
        side: [(index.key(int(row)), index.source(int(row))) for row in rows[:MAX_KEYS]]
        for side, rows in (("train", train), ("test", test))
    }
    return Example(name, len(train), len(test), keys)


def text(name: bytes) -> str:
    """A name of the index for people."""
    return name.decode(errors="backslashreplace")


def content_hashes(index: ShardIndex) -> np.ndarray:
    """A number a sample, equal where length, first and last frame are: uint64 [N]; 0 where no sizes are known."""
    out = np.zeros(index.num_samples, np.uint64)
    for rows in chunks(index.num_samples):
        first = index.frames[index.first_frame[rows]]  # [n, 3]
        last = index.frames[index.first_frame[rows.start + 1 : rows.stop + 1] - 1]
        columns = [index.num_frames[rows]] + [ends[:, column] for column in (CRC32, SIZE) for ends in (first, last)]
        numbers = mixed(np.stack([column.astype(np.uint64) for column in columns], axis=1))
        out[rows] = np.where(first[:, SIZE] > 0, numbers, 0)
    return out


def content_numbers(index: ShardIndex, rows: np.ndarray) -> np.ndarray:
    """Numbers from 0 on, equal where all frames of two samples have the same checksums: int64 [n]."""
    numbers = dict[bytes, int]()
    out = []
    for row in rows.tolist():
        own = index.frames[index.first_frame[row] : index.first_frame[row + 1], SIZE:]
        out.append(numbers.setdefault(own.tobytes(), len(numbers)))
    return np.array(out, np.int64)


def verdict(found: Leak) -> str:
    """What a leak means, in a sentence.

    >>> verdict(Leak("1", "group", 0, 25, 0, []))
    'No group lies on both sides of split 1.'
    """
    one, several = NAMES[found.kind]
    if not found.count:
        return f"No {one} lies on both sides of split {found.split}."
    lie = f"1 {one} lies" if found.count == 1 else f"{found.count:,} {several} lie"
    shows = "1 test sample shows" if found.num_test == 1 else f"{found.num_test:,} test samples show"
    return f"{lie} on both sides of split {found.split}: {shows} what was trained on, so accuracies come out too high."
