"""Is a dataset folder whole? Checksums, index against tars, counts, and on request every picture."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg

from pipeline.filmstrip import num_strips
from pipeline.mapped_tars import PictureReader
from pipeline.shard import SUBSETS, ShardIndex, open_index
from pipeline.shard_writer import dali_index, sha256_of, strip_file, tar_components


def verify(
    data_dir: Path, *, decode: bool = False, report: Callable[[int, int], None] = lambda done, total: None
) -> tuple[ShardIndex, list[str]]:
    """Check a dataset folder from end to end.

    Args:
        decode: Decode every strip, and check its size, besides its crc32.
        report: Called with (tars checked, tars).

    Returns:
        The index, and one line for each fault found; an empty list is a whole dataset.

    Raises:
        ShardError: dataset.json or the index cannot be opened at all.
    """
    index = open_index(data_dir)
    faults = [*_count_faults(index), *_stray_files(index)]
    for number, shard in enumerate(index.info["shards"]):
        faults += _tar_faults(index, number, shard, decode=decode)
        report(number + 1, len(index.tars))
    return index, faults


def _count_faults(index: ShardIndex) -> Iterator[str]:
    """dataset.json against the arrays: classes, splits, frames, strips."""
    info = index.info
    if index.num_samples and not 0 <= index.labels.min() <= index.labels.max() < len(index.classes):
        yield f"index/label.npy: labels reach {index.labels.max()}, there are {len(index.classes)} classes"
    else:
        counted = np.bincount(index.labels, minlength=len(index.classes))
        for name, count in zip(index.classes, counted, strict=True):
            said = info["class_counts"].get(name)
            if said != count:
                yield f"dataset.json: class {name} is said to have {said} samples, the index has {count}"
    for i, split in enumerate(index.split_names):
        for subset, value in SUBSETS.items():
            said, count = info["splits"][split][subset], int((index.subsets[:, i] == value).sum())
            if said != count:
                yield f"dataset.json: split {split} is said to have {said} {subset} samples, the index has {count}"
    if info["num_frames"] != int(index.num_frames.sum()):
        yield f"dataset.json: num_frames is {info['num_frames']}, the index adds up to {int(index.num_frames.sum())}"
    strips = np.diff(index.pictures.first)
    wrong = [s for s in range(index.num_samples) if strips[s] != num_strips(int(index.num_frames[s]), index.layout)]
    for sample in wrong[:10]:
        yield f"{index.key(sample)}: {index.num_frames[sample]} frames cannot lie in {strips[sample]} strips"
    if len(np.unique(index.keys)) != index.num_samples:
        yield "index/key.npy: keys are not unique"


def _stray_files(index: ShardIndex) -> Iterator[str]:
    for path in sorted(index.data_dir.glob("*.tar")):
        if path.name not in index.tars:
            yield f"{path.name}: not named in dataset.json"


def _tar_faults(index: ShardIndex, number: int, shard: dict, *, decode: bool) -> Iterator[str]:
    """One tar: size, sha256, DALI's index, the offsets of our index, crc32 of every strip, key.json."""
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
        if components and tar.with_suffix(".idx").read_bytes() != dali_index(components):
            yield f"{tar.stem}.idx: does not describe {tar.name}"
    except OSError:
        yield f"{tar.stem}.idx: missing"

    samples = np.flatnonzero(index.tar_of(np.arange(index.num_samples)) == number)
    if components:
        found = {name: (offset, size) for name, offset, size in components}
        with open(tar, "rb") as file:
            for sample in samples:
                yield from _member_faults(index, int(sample), found, file, tar.name)
    yield from _strip_faults(index, samples, tar.name, decode=decode)


def _member_faults(index: ShardIndex, sample: int, found: dict, file, tar: str) -> Iterator[str]:
    """One sample's members in the tar against the index."""
    key, first, last = index.key(sample), int(index.pictures.first[sample]), int(index.pictures.first[sample + 1])
    for strip in range(first, last):
        name = f"{key}.{strip_file(strip - first, last - first)}"
        if found.get(name) != (index.pictures.offset[strip], index.pictures.size[strip]):
            yield f"{tar}: {name} is not where the index says"
    try:
        offset, size = found[f"{key}.json"]
        file.seek(offset)
        meta = json.loads(file.read(size))
        told = (meta["label"], meta["num_frames_stored"], meta["source"])
    except (KeyError, ValueError):
        yield f"{tar}: {key}.json is missing or not JSON"
        return
    if told != (index.labels[sample], index.num_frames[sample], index.source(sample)):
        yield f"{tar}: {key}.json and the index tell different things"


def _strip_faults(index: ShardIndex, samples: np.ndarray, tar: str, *, decode: bool) -> list[str]:
    """Strips of one tar that fail their crc32 or, with `decode`, are not a picture of the right size."""
    reader, layout = PictureReader(index), index.layout

    def fault(strip: int) -> str | None:
        jpeg = reader.read_one(strip)
        if jpeg is None:
            return "fails its crc32"
        if decode:
            try:
                shape = simplejpeg.decode_jpeg(jpeg).shape
            except ValueError as error:
                return f"does not decode ({error})"
            if shape != (layout.strip_height, layout.tile_width, 3):
                return f"is {shape[1]}×{shape[0]}, not {layout.tile_width}×{layout.strip_height}"
        return None

    owners = [(int(s), strip) for s in samples for strip in range(index.pictures.first[s], index.pictures.first[s + 1])]
    with ThreadPoolExecutor(os.cpu_count() if decode else 1) as pool:
        found = zip(owners, pool.map(fault, (strip for _, strip in owners)), strict=True)
        return [
            f"{tar}: strip {strip - index.pictures.first[sample]} of {index.key(sample)} {what}"
            for (sample, strip), what in found
            if what
        ]
