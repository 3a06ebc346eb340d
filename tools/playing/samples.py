"""Which sample is meant, what its key.json says, and its frames as they are stored."""

import difflib
from io import FileIO

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.frames import damaged, decode_frames
from res3d_video.pipeline.index import ShardError, ShardIndex, choices
from res3d_video.pipeline.reader import open_tar
from res3d_video.tools.pages.data.key_json import KeyJson, read_meta

MAX_NAMED = 3  # samples in an error message
MAX_COMPARED = 2_000  # keys that difflib looks at; of millions it would take minutes


def find_sample(index: ShardIndex, key: str) -> int:
    """The sample with a key, or whose video has a name, or with a part of either that is unique.

    Raises:
        ValueError: There is none, or more than one; names the nearest.
    """
    wanted = key.encode()
    exact = np.flatnonzero(index.keys == wanted)
    if len(exact):
        return int(exact[0])
    found = np.flatnonzero(contains(index.keys, wanted) | contains(index.sources, wanted))
    if len(found) == 1:
        return int(found[0])
    paths = index.sources[found]
    named = found[contains(paths, b"/" + wanted + b".") | np.char.startswith(paths, wanted + b".")]
    if len(named) == 1:
        return int(named[0])
    if len(found):
        first = listed([f"{index.key(row)} ({index.source(row)})" for row in found[:MAX_NAMED]], count=len(found))
        raise UserError(f"{key}: {len(found)} samples have it in their key or source: {first}; give one's key")
    names = nearest_names(index, key)
    near = f"the nearest are {', '.join(names)}" if names else "nothing is like it"
    raise UserError(f"{key}: no sample of {index.name} has it in its key or source; {near}")


def contains(names: np.ndarray, part: bytes) -> np.ndarray:
    """Which of some byte strings have a part: bool [N]."""
    return np.char.find(names, part) >= 0


def listed(names: list[str], *, count: int) -> str:
    """Names with commas, and that there are more.

    >>> listed(["a", "b"], count=2), listed(["a", "b"], count=5)
    ('a, b', 'a, b, …')
    """
    return ", ".join([*names, "…"] if count > len(names) else names)


def nearest_names(index: ShardIndex, key: str) -> list[str]:
    """Up to three keys, or names of sources without folder and ending, that look like `key`, the likest first.

    Of a large dataset only names with the longest beginning in common are compared.
    """
    stems = np.char.rpartition(np.asarray(index.sources), b"/")[:, 2]
    found: list[str] = []
    for names in (stems, np.asarray(index.keys)):
        rows = like_beginning(names, key.encode())[:MAX_COMPARED]
        found += [names[row].decode(errors="backslashreplace").partition(".")[0] for row in rows]
    return difflib.get_close_matches(key, list(dict.fromkeys(found)), n=MAX_NAMED, cutoff=0.5)


def like_beginning(names: np.ndarray, wanted: bytes) -> np.ndarray:
    """Rows of the names to compare: all of few; of many those that share the longest beginning with `wanted`.

    >>> names = np.array([b"v_Bike_1", b"v_Bike_2", b"v_Swing_1"] * 1000)
    >>> len(like_beginning(names, b"v_Biek_2")), len(like_beginning(names[:3], b"v_Biek_2"))
    (2000, 3)
    """
    rows = np.arange(len(names))
    if len(names) <= MAX_COMPARED:
        return rows
    for length in range(1, len(wanted) + 1):
        closer = rows[np.char.startswith(names[rows], wanted[:length])]
        if not len(closer):
            break
        rows = closer
    return rows


def sample_meta(index: ShardIndex, sample: int) -> KeyJson:
    """What the sample's key.json in the tar says; shards/README.md has its fields.

    Raises:
        ShardError: It cannot be read.
    """
    try:
        with whole_tar(index, int(index.tar_of(np.array([sample]))[0])) as file:
            meta = read_meta(index, sample, file)
    except OSError:
        meta = None
    if meta is None:
        raise damaged(index, sample, "its key.json cannot be read")
    return meta


def whole_tar(index: ShardIndex, number: int) -> FileIO:
    """A tar, fetched if it is behind a URL.

    Raises:
        ShardError: It cannot be had.
    """
    file = open_tar(index, number)
    if file is None:
        url = getattr(index.store, "url", index.data_dir)
        raise ShardError(f"{index.tars[number]}: cannot be had from {url}; run tools/check_shards.py there")
    return file


def stored_frames(index: ShardIndex, sample: int, frames: np.ndarray) -> np.ndarray:
    """Some frames of a sample as they are stored, the tile's padding cut off.

    Args:
        frames: int [n], numbers of stored frames, never decreasing.

    Returns:
        uint8 RGB FHWC [n, height, width, 3].

    Raises:
        ShardError: One is damaged.
    """
    left, top, width, height = index.content[sample].tolist()
    return decode_frames(index, sample, frames)[:, top : top + height, left : left + width]


def nth_sample(index: ShardIndex, number: int) -> int:
    """The sample with a number.

    Raises:
        ValueError: There are fewer.
    """
    if number >= index.num_samples:
        raise UserError(f"--index: {number} does not exist; choose 0 to {index.num_samples - 1}")
    return number


def random_sample(index: ShardIndex, *, split: str | None, side: str | None, random: np.random.Generator) -> int:
    """Any sample of a side of a split; without a side, any that the split uses; without a split, any at all.

    Raises:
        ValueError: There is none.
    """
    if side is not None:
        return int(random.choice(index.samples_of(split or index.split_names[0], side)))
    if split is None:
        return int(random.integers(index.num_samples))
    if split not in index.split_names:
        raise UserError(f"{index.name}: split {split} does not exist; choose {choices(index.split_names)}")
    used = np.flatnonzero(index.subsets[:, index.split_names.index(split)])
    if not len(used):
        raise UserError(f"{index.name}: split {split} uses no sample; choose another")
    return int(random.choice(used))
