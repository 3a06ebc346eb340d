"""Checks a dataset: checksums, index against tars, counts, and on request every frame decoded."""

import json
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from res3d_video.pipeline.convert.shard import in_order
from res3d_video.pipeline.files import is_plain_name, read_plain
from res3d_video.pipeline.index import SUBSETS, ShardIndex, open_index
from res3d_video.pipeline.shard_writer import dali_index, sha256_of

MAX_META_BYTES = 2**20  # of key.json

StoredSample = tuple[
    int, dict[str, tuple[int, bytes]]
]  # a sample, and its files by name: offset in the sample, and content


def verify(
    data: Path | ShardIndex, *, decode: bool = False, report: Callable[[int, int], None] = lambda done, total: None
) -> tuple[ShardIndex, list[str]]:
    """Check a whole dataset.

    Args:
        data: A folder or an open dataset. All tars of a remote one are downloaded.
        decode: Decode every frame, besides checking its crc32.
        report: Called with (tars checked, tars).

    Returns:
        The index, and one line for each fault; an empty list means that the dataset is whole.

    Raises:
        ShardError: dataset.json or the index cannot be opened, or the server is unreachable.
    """
    index = data if isinstance(data, ShardIndex) else open_index(data)
    strays = [path.name for path in sorted(index.data_dir.glob("*.tar")) if path.name not in index.tars]
    faults = [*_count_faults(index), *(f"{name}: not named in dataset.json" for name in strays)]
    tars = index.tar_of(np.arange(index.num_samples))
    by_tar = np.argsort(tars, kind="stable")  # rows are in the order of the tars, unless the index is damaged
    ends = np.searchsorted(tars[by_tar], np.arange(len(index.tars) + 1))
    for number, shard in enumerate(index.info["shards"]):
        check = partial(_tar_faults, index, shard, by_tar[ends[number] : ends[number + 1]], decode=decode)
        if index.store is None:
            faults += check()
        elif tar := index.store.open(number):
            with tar:  # an open tar is not evicted from the cache
                index.store.fetch_beside(number)
                faults += check()
        else:
            faults.append(index.store.unreadable[number])
        report(number + 1, len(index.tars))
    return index, faults


def _count_faults(index: ShardIndex) -> Iterator[str]:
    """dataset.json against the arrays: classes, splits, keys. Frames were counted when the index was opened."""
    info, counts = index.info, np.bincount(index.labels, minlength=len(index.classes)).tolist()
    found = [(f"class {name}", info["class_counts"][name], n) for name, n in zip(index.classes, counts, strict=True)]
    for i, split in enumerate(index.split_names):
        for subset, value in SUBSETS.items():
            count = int((index.subsets[:, i] == value).sum())
            found.append((f"split {split}, {subset},", info["splits"][split].get(subset, 0), count))
    for what, stated, count in found:
        if stated != count:
            yield f"dataset.json: {what} is said to have {stated} samples, the index has {count}"
    if index.label_lists is not None:
        first, values = index.label_lists
        if (values[first[:-1]] != index.labels).any():
            yield "index/labels.npy: the first labels are not those of label.npy"
    if len(np.unique(index.keys)) != index.num_samples:
        yield "index/key.npy: keys are not unique"


def _tar_faults(index: ShardIndex, shard: dict[str, Any], samples: np.ndarray, *, decode: bool) -> Iterator[str]:
    """One tar: size, sha256, DALI's index, offsets in our index, crc32 of every frame, key.json."""
    tar = index.data_dir / shard["tar"]
    if not tar.is_file():
        yield f"{tar.name}: missing"
        return
    if tar.stat().st_size != shard["num_bytes"]:
        yield f"{tar.name}: {tar.stat().st_size} bytes, dataset.json says {shard['num_bytes']}"
    elif sha256_of(tar) != shard["sha256"]:
        yield f"{tar.name}: its sha256 is not the one in dataset.json"
    found: list[tuple[str, int, int]] = []
    try:
        with tarfile.open(tar, "r:") as opened:
            for member in opened:
                if member.isfile():
                    found.append((member.name, member.offset_data, member.size))
    except Exception as error:  # tarfile raises much more than TarError on damaged headers
        yield f"{tar.name}: not a readable tar ({error})"  # the files before the damage are still checked
    else:
        yield from _idx_faults(tar, dali_index(found))
    for name in (name for name, *_ in found if not is_plain_name(name)):
        yield f"{tar.name}: holds a file of the name {name!r:.80}, which may lead elsewhere"
    places = {name: (offset, size) for name, offset, size in found}
    num_threads = (os.cpu_count() or 1) if decode else 1
    with open(tar, "rb") as file, ThreadPoolExecutor(num_threads) as pool:
        stored = (_stored(index, int(sample), places, file) for sample in samples if places)
        work = partial(_sample_faults, index, decode=decode)
        with in_order(pool, work, stored, ahead=2 * num_threads) as results:
            for faults in results:
                yield from (f"{tar.name}: {fault}" for fault in faults.result())


def _idx_faults(tar: Path, expected: bytes) -> Iterator[str]:
    idx = tar.with_suffix(".idx")
    try:
        if read_plain(idx, max_bytes=len(expected) + 1) != expected:
            yield f"{idx.name}: does not describe {tar.name}"
    except OSError as error:
        yield f"{idx.name}: " + ("missing" if isinstance(error, FileNotFoundError) else f"does not describe {tar.name}")


def _stored(index: ShardIndex, sample: int, found: dict[str, tuple[int, int]], file: BinaryIO) -> StoredSample:
    """A sample and its files in a tar."""
    sizes = index.stored_as.file_sizes(int(index.num_frames[sample])) | {"json": MAX_META_BYTES}
    files = {}
    for name, max_bytes in sizes.items():
        offset, size = found.get(f"{index.key(sample)}.{name}", (0, max_bytes + 1))
        if size <= max_bytes:  # a larger file counts as missing
            file.seek(offset)
            files[name] = offset - int(index.offset[sample]), file.read(size)
    return sample, files


def _sample_faults(index: ShardIndex, stored: StoredSample, *, decode: bool) -> list[str]:
    """What is wrong with one sample's frames, and with its key.json against the index."""
    sample, files = stored
    key, rows = index.key(sample), slice(int(index.first_frame[sample]), int(index.first_frame[sample + 1]))
    found = index.stored_as.segment_faults(files, np.array(index.frames[rows]), decode=decode)
    faults = [f"{key}: {fault}" for fault in found]
    try:
        meta = json.loads(files["json"][1])
        stated = (meta["label"], meta["num_frames_stored"], meta["source"], meta.get("labels", [meta["label"]]))
    except (KeyError, ValueError, TypeError, RecursionError):
        return [*faults, f"{key}.json is missing or not JSON"]
    labels = index.all_labels(np.array([sample]))[0].tolist()
    if stated != (index.labels[sample], index.num_frames[sample], index.source(sample), labels):
        faults.append(f"{key}.json and the index tell different things")
    return faults
