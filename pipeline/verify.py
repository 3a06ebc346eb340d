"""Is a dataset folder whole? Checksums, index against tars, counts, and on request every frame decoded."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from res3d_video.pipeline.convert.shard import in_order
from res3d_video.pipeline.files import NotPlainError, is_plain_name, read_plain
from res3d_video.pipeline.index import SUBSETS, ShardIndex, open_index
from res3d_video.pipeline.shard_writer import dali_index, sha256_of, tar_components

MAX_META_BYTES = 2**20  # of key.json


def verify(
    data: Path | ShardIndex, *, decode: bool = False, report: Callable[[int, int], None] = lambda done, total: None
) -> tuple[ShardIndex, list[str]]:
    """Check a dataset from end to end.

    Args:
        data: A folder, or a dataset that is open already; a remote one has all its tars fetched.
        decode: Decode every frame, besides checking its crc32.
        report: Called with (tars checked, tars).

    Returns:
        The index, and one line for each fault found; an empty list is a whole dataset.

    Raises:
        ShardError: dataset.json or the index cannot be opened at all, or a server is gone.
    """
    index = data if isinstance(data, ShardIndex) else open_index(data)
    faults = [*_count_faults(index), *_stray_files(index)]
    tars = index.tar_of(np.arange(index.num_samples))
    by_tar = np.argsort(tars, kind="stable")  # rows are in the order of the tars, unless the index is damaged
    ends = np.searchsorted(tars[by_tar], np.arange(len(index.tars) + 1))
    for number, shard in enumerate(index.info["shards"]):
        samples = by_tar[ends[number] : ends[number + 1]]
        with _fetched(index, number) as fault:
            faults += [fault] if fault else _tar_faults(index, shard, samples, decode=decode)
        report(number + 1, len(index.tars))
    return index, faults


@contextmanager
def _fetched(index: ShardIndex, number: int) -> Iterator[str | None]:
    """Have a tar and its .idx in the index's folder while the block runs; why not, where they cannot be had."""
    if index.store is None:
        yield None
        return
    tar = index.store.open(number)
    if tar is None:
        yield index.store.unreadable[number]
        return
    with tar:
        index.store.fetch_beside(number)
        yield None


def _count_faults(index: ShardIndex) -> Iterator[str]:
    """dataset.json against the arrays: classes, splits, keys; frames were counted when it was opened."""
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
    if len(np.unique(index.keys)) != index.num_samples:
        yield "index/key.npy: keys are not unique"


def _stray_files(index: ShardIndex) -> Iterator[str]:
    for path in sorted(index.data_dir.glob("*.tar")):
        if path.name not in index.tars:
            yield f"{path.name}: not named in dataset.json"


def _tar_faults(index: ShardIndex, shard: dict, samples: np.ndarray, *, decode: bool) -> Iterator[str]:
    """One tar: size, sha256, DALI's index, the places of our index, crc32 of every frame, key.json."""
    tar = index.data_dir / shard["tar"]
    if not tar.is_file():
        yield f"{tar.name}: missing"
        return
    if tar.stat().st_size != shard["num_bytes"]:
        yield f"{tar.name}: {tar.stat().st_size} bytes, dataset.json says {shard['num_bytes']}"
    elif sha256_of(tar) != shard["sha256"]:
        yield f"{tar.name}: its sha256 is not the one in dataset.json"
    components, readable = list[tuple[str, int, int]](), True
    try:
        components.extend(tar_components(tar))
    except Exception as error:  # tarfile raises much more than TarError on damaged headers
        yield f"{tar.name}: not a readable tar ({error})"
        readable = False  # but for the files before this place
    try:
        expected = dali_index(components)
        if readable and read_plain(tar.with_suffix(".idx"), max_bytes=len(expected) + 1) != expected:
            yield f"{tar.stem}.idx: does not describe {tar.name}"
    except NotPlainError:
        yield f"{tar.stem}.idx: does not describe {tar.name}"
    except OSError:
        yield f"{tar.stem}.idx: missing"

    for name in (name for name, *_ in components if not is_plain_name(name)):
        yield f"{tar.name}: holds a file of the name {name!r:.80}, which may lead elsewhere"
    found = {name: (offset, size) for name, offset, size in components}
    num_threads = (os.cpu_count() or 1) if decode else 1
    with open(tar, "rb") as file, ThreadPoolExecutor(num_threads) as pool:
        stored = (_stored(index, int(sample), found, file) for sample in samples if found)
        work = partial(_sample_faults, index, decode=decode)
        with in_order(pool, work, stored, ahead=2 * num_threads) as results:
            for faults in results:
                yield from (f"{tar.name}: {fault}" for fault in faults.result())


def _stored(
    index: ShardIndex, sample: int, found: dict[str, tuple[int, int]], file: BinaryIO
) -> tuple[int, dict[str, tuple[int, bytes]]]:
    """A sample and its files in a tar: offset in the sample and content by what follows the key and a dot."""
    sizes = index.stored_as.file_sizes(int(index.num_frames[sample])) | {"json": MAX_META_BYTES}
    files = {}
    for name, max_bytes in sizes.items():
        offset, size = found.get(f"{index.key(sample)}.{name}", (0, max_bytes + 1))
        if size <= max_bytes:  # what is larger is as good as missing
            file.seek(offset)
            files[name] = offset - int(index.offset[sample]), file.read(size)
    return sample, files


def _sample_faults(index: ShardIndex, stored: tuple[int, dict[str, tuple[int, bytes]]], *, decode: bool) -> list[str]:
    """What is wrong with one sample's files."""
    sample, files = stored
    rows = slice(int(index.first_frame[sample]), int(index.first_frame[sample + 1]))
    faults = index.stored_as.segment_faults(files, np.array(index.frames[rows]), decode=decode)
    return [*(f"{index.key(sample)}: {fault}" for fault in faults), *_meta_faults(index, sample, files)]


def _meta_faults(index: ShardIndex, sample: int, files: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """One sample's key.json against the index."""
    key = index.key(sample)
    try:
        meta = json.loads(files["json"][1])
        told = (meta["label"], meta["num_frames_stored"], meta["source"], meta.get("labels", [meta["label"]]))
    except (KeyError, ValueError, TypeError, RecursionError):
        yield f"{key}.json is missing or not JSON"
        return
    labels = index.all_labels(np.array([sample]))[0].tolist()
    if told != (index.labels[sample], index.num_frames[sample], index.source(sample), labels):
        yield f"{key}.json and the index tell different things"
