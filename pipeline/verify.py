"""Is a dataset folder whole? Checksums, index against tars, counts, and on request every picture."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.checking import PictureCheck, StripCheck
from pipeline.h264.verify import VideoCheck
from pipeline.shard import SUBSETS, ShardIndex, open_index
from pipeline.shard_writer import dali_index, sha256_of, tar_components
from pipeline.source.plain_file import NotPlainError, is_plain_name, read_plain


def verify(
    data: Path | ShardIndex, *, decode: bool = False, report: Callable[[int, int], None] = lambda done, total: None
) -> tuple[ShardIndex, list[str]]:
    """Check a dataset from end to end.

    Args:
        data: A folder, or a dataset that is open already; a remote one has all its tars fetched.
        decode: Decode every picture, and check its size, besides its crc32.
        report: Called with (tars checked, tars).

    Returns:
        The index, and one line for each fault found; an empty list is a whole dataset.

    Raises:
        ShardError: dataset.json or the index cannot be opened at all, or a server is gone.
    """
    index = data if isinstance(data, ShardIndex) else open_index(data)
    check: PictureCheck = VideoCheck(index) if index.codec == "h264" else StripCheck(index)
    faults = [*_count_faults(index), *check.dataset_faults(), *_stray_files(index)]
    tars = index.tar_of(np.arange(index.num_samples))
    by_tar = np.argsort(tars, kind="stable")  # rows are in the order of the tars, unless the index is damaged
    ends = np.searchsorted(tars[by_tar], np.arange(len(index.tars) + 1))
    for number, shard in enumerate(index.info["shards"]):
        samples = by_tar[ends[number] : ends[number + 1]]
        with _fetched(index, number) as fault:
            faults += [fault] if fault else _tar_faults(index, check, shard, samples, decode=decode)
        report(number + 1, len(index.tars))
    return index, faults


@contextmanager
def _fetched(index: ShardIndex, number: int) -> Iterator[str | None]:
    """Have a tar and its .idx in the index's folder while the block runs; why not, where they cannot be had."""
    if index.store is None:
        yield None
        return
    stop = threading.Event()
    with ExitStack() as held:
        tar = index.store.open(number, stop=stop, let_go=lambda: None)
        if tar is None:
            yield index.store.unreadable[number]
            return
        held.enter_context(tar)
        index.store.fetch_beside(number, stop=stop)
        yield None


def _count_faults(index: ShardIndex) -> Iterator[str]:
    """dataset.json against the arrays: classes, splits, frames, keys."""
    info = index.info
    for name, count in zip(index.classes, np.bincount(index.labels, minlength=len(index.classes)), strict=True):
        said = info["class_counts"][name]
        if said != count:
            yield f"dataset.json: class {name} is said to have {said} samples, the index has {count}"
    lists = index.label_lists
    if lists is not None and (lists.values[lists.first[:-1]] != index.labels).any():
        yield "index/labels.npy: the first labels are not those of label.npy"
    for i, split in enumerate(index.split_names):
        for subset, value in SUBSETS.items():
            said, count = info["splits"][split][subset], int((index.subsets[:, i] == value).sum())
            if said != count:
                yield f"dataset.json: split {split} is said to have {said} {subset} samples, the index has {count}"
    if info["num_frames"] != int(index.num_frames.sum()):
        yield f"dataset.json: num_frames is {info['num_frames']}, the index adds up to {int(index.num_frames.sum())}"
    if len(np.unique(index.keys)) != index.num_samples:
        yield "index/key.npy: keys are not unique"


def _stray_files(index: ShardIndex) -> Iterator[str]:
    for path in sorted(index.data_dir.glob("*.tar")):
        if path.name not in index.tars:
            yield f"{path.name}: not named in dataset.json"


def _tar_faults(
    index: ShardIndex, check: PictureCheck, shard: dict, samples: np.ndarray, *, decode: bool
) -> Iterator[str]:
    """One tar: size, sha256, DALI's index, the offsets of our index, crc32 of every picture, key.json."""
    tar = index.data_dir / shard["tar"]
    if not tar.is_file():
        yield f"{tar.name}: missing"
        return
    if tar.stat().st_size != shard["num_bytes"]:
        yield f"{tar.name}: {tar.stat().st_size} bytes, dataset.json says {shard['num_bytes']}"
    elif sha256_of(tar) != shard["sha256"]:
        yield f"{tar.name}: its sha256 is not the one in dataset.json"
    try:
        components = tar_components(tar)
    except Exception as error:  # tarfile raises much more than TarError on damaged headers
        yield f"{tar.name}: not a readable tar ({error})"
        components = []
    try:
        expected = dali_index(components)
        if components and read_plain(tar.with_suffix(".idx"), max_bytes=len(expected) + 1) != expected:
            yield f"{tar.stem}.idx: does not describe {tar.name}"
    except NotPlainError:
        yield f"{tar.stem}.idx: does not describe {tar.name}"
    except OSError:
        yield f"{tar.stem}.idx: missing"

    for name in (name for name, *_ in components if not is_plain_name(name)):
        yield f"{tar.name}: holds a file of the name {name!r:.80}, which may lead elsewhere"
    if components:
        found = {name: (offset, size) for name, offset, size in components}
        with open(tar, "rb") as file:
            for sample in samples:
                faults = [*check.file_faults(int(sample), found, file), *_meta_faults(index, int(sample), found, file)]
                yield from (f"{tar.name}: {fault}" for fault in faults)
    yield from (f"{tar.name}: {fault}" for fault in check.picture_faults(samples, decode=decode))


def _meta_faults(index: ShardIndex, sample: int, found: dict[str, tuple[int, int]], file: BinaryIO) -> Iterator[str]:
    """One sample's key.json against the index."""
    key = index.key(sample)
    try:
        offset, size = found[f"{key}.json"]
        file.seek(offset)
        meta = json.loads(file.read(size))
        told = (meta["label"], meta["num_frames_stored"], meta["source"], meta.get("labels", [meta["label"]]))
    except (KeyError, ValueError):
        yield f"{key}.json is missing or not JSON"
        return
    labels = index.all_labels(np.array([sample]))[0].tolist()
    if told != (index.labels[sample], index.num_frames[sample], index.source(sample), labels):
        yield f"{key}.json and the index tell different things"
