"""The shard format as it is written: tars, and the index over all of them.

The index is written from parts/*.json, one after another, so millions of samples need little memory.
"""

import base64
import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.pipeline.codecs import EncodedSegment
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import new_file_opener, put_in_place, temporary_of, write_atomically
from res3d_video.pipeline.schema import FORMAT_VERSION, SUBSETS, TEXT, TEXT_COLUMNS, array_specs


def to_json(value: Any) -> bytes:
    """Readable JSON: sorted keys, an indent of two, a final line end; equal values give equal bytes."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class EncodedSample:
    """An encoded segment with its key and the content of its key.json."""

    key: str
    segment: EncodedSegment
    meta: dict[str, Any]


class TarShard(AbstractContextManager):
    """Writes samples to a tar, which gets its name only when it is complete.

    An exception in the `with` block leaves no file behind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = temporary_of(path)
        self._samples: list[EncodedSample] = []
        self._components: list[tuple[str, int, int]] = []

    def __enter__(self) -> "TarShard":
        self._file = open(self._temporary, "wb", opener=new_file_opener)
        # USTAR with fixed owner, mode and time: equal samples give equal bytes, and DALI misreads PAX headers.
        # webdataset's writer would do the same but takes two seconds to import torch.
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        return self

    def add(self, sample: EncodedSample) -> None:
        """Append one sample: its files, then key.json."""
        if "." in sample.key or len(sample.key) > 60:
            raise UserError(f"key {sample.key!r}: must be at most 60 characters without a dot")
        about = json.dumps(sample.meta, sort_keys=True, ensure_ascii=False).encode()
        for name, content in sorted((sample.segment.files | {"json": about}).items()):
            info = tarfile.TarInfo(f"{sample.key}.{name}")
            info.size, info.mode = len(content), 0o444
            self._components.append((info.name, self._tar.offset + tarfile.BLOCKSIZE, info.size))
            self._tar.addfile(info, io.BytesIO(content))
        self._samples.append(sample)

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            if kind is None:
                raise
        finally:
            self._file.close()
            if kind is not None:
                self._temporary.unlink(missing_ok=True)
        if kind is not None:
            return
        self._sha256 = sha256_of(self._temporary)
        status = self._temporary.stat()
        self._num_bytes, self._file_number = status.st_size, status.st_ino
        self._temporary.replace(self.path)  # before the .idx: if two processes write, all files are the later one's
        write_atomically(self.path.with_suffix(".idx"), dali_index(self._components))

    def is_in_place(self) -> bool:
        """Whether `path` is still the tar written here. True is certain, False is not."""
        try:
            return self.path.stat().st_ino == self._file_number
        except FileNotFoundError:
            return False

    def summary(self) -> dict[str, Any]:
        """The entry of parts/*.json for the finished tar: name, bytes, checksum.

        For each sample: its key.json, its offset, and the rows of its frames (`pack_frames`).
        """
        offsets, samples = {name: offset for name, offset, _ in self._components}, []
        for sample in self._samples:
            at = {name: offsets[f"{sample.key}.{name}"] for name in sample.segment.files}
            offset = min(at.values())
            rows = [(at[r.file] + r.offset - offset, r.size, r.crc32) for r in sample.segment.frames]
            place = {"offset": offset, "frames": pack_frames(np.array(rows, "<u4"))}
            samples.append({"key": sample.key, **sample.meta, **place})
        about = {"tar": self.path.name, "num_bytes": self._num_bytes, "sha256": self._sha256}
        return about | {"samples": samples}


def pack_frames(frames: np.ndarray) -> str:
    """Rows of the index, uint32 [F, 3], as a base64 string for JSON.

    >>> pack_frames(np.array([[1, 2, 3]]))
    'AQAAAAIAAAADAAAA'
    """
    return base64.b64encode(frames.astype("<u4").tobytes()).decode()


def unpack_frames(word: str) -> np.ndarray:
    """What `pack_frames` packed: uint32 [F, 3]."""
    return np.frombuffer(base64.b64decode(word), "<u4").reshape(-1, 3)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dali_index(components: Iterable[tuple[str, int, int]]) -> bytes:
    """DALI's index file (v1.2) of a tar: one line per sample, `extension offset size name` for each of its files.

    Args:
        components: Name, offset of the content and size of each file, bytes, in order.

    >>> print(dali_index([("a.000.jpg", 512, 9), ("a.json", 1536, 2), ("b.json", 2560, 2)]).decode(), end="")
    v1.2 2
    000.jpg 512 9 a.000.jpg json 1536 2 a.json
    json 2560 2 b.json
    """
    lines: dict[str, list[str]] = {}
    for name, offset, size in components:
        key, _, extension = name.partition(".")
        lines.setdefault(key, []).append(f"{extension} {offset} {size} {name}")
    return "\n".join([f"v1.2 {len(lines)}", *map(" ".join, lines.values()), ""]).encode()


class Parts:
    """The contents of parts/*.json in the order of the tars; each iteration reads them again, one at a time."""

    def __init__(self, out_dir: Path, names: list[str]) -> None:
        self._paths = [out_dir / "parts" / f"{name}.json" for name in names]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (json.loads(path.read_bytes()) for path in self._paths)


def write_index(
    out_dir: Path, parts: Iterable[dict[str, Any]], *, head: dict[str, Any], missing: list[dict[str, str]]
) -> tuple[dict[str, Any], list[dict[str, str]], int]:
    """Write index/*.npy, quarantine.jsonl and, last, dataset.json.

    Args:
        parts: The content of parts/*.json in order of the tars; iterated twice.
        head: The fields of dataset.json other than counts: name, classes, split_names, codec, tools, …
        missing: Lines of quarantine.jsonl that follow those of the parts.

    Returns:
        The content of dataset.json, the parts' lines of quarantine.jsonl, and how many files changed.
    """
    quarantine: list[dict[str, str]] = []
    shards: list[dict[str, Any]] = []
    num_rows, widths = Counter[str](), dict.fromkeys(TEXT_COLUMNS, 1)
    has_several = False  # of the parts of an appended dataset, some may have lists of labels and others not
    for part in parts:
        quarantine += part["quarantine"]
        if part["samples"]:
            has_several |= "labels" in part["samples"][0]
            for name, rows in rows_of(part["samples"], tar=len(shards)).items():
                num_rows[name] += len(rows)
                if name in widths:
                    widths[name] = max(widths[name], rows.dtype.itemsize)
            about = {key: part[key] for key in ("tar", "num_bytes", "sha256")}
            shards.append(about | {"num_samples": len(part["samples"])})
    info = {
        "format_version": FORMAT_VERSION,
        **head,
        "num_samples": num_rows["key"],
        "num_frames": num_rows["frames"],
        "num_quarantined": len(quarantine),
        "num_missing": len(missing),
        "shards": shards,
        "fingerprint": hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest()[:16],
    }
    if has_several:
        info["num_labels"] = num_rows["labels"]

    # Arrays are written next to index/, which is not touched at all if nothing changes.
    (out_dir / "index").mkdir(parents=True, exist_ok=True)
    temporary = {name: temporary_of(out_dir / f"{name}.npy") for name in array_specs(info)}
    arrays = {
        name: _new_array(temporary[name], f"S{widths[name]}" if kind is TEXT else kind, shape)
        for name, (kind, shape) in array_specs(info).items()
    }
    filled = dict.fromkeys(arrays, 0)
    for tar, part in enumerate(part for part in parts if part["samples"]):
        found = rows_of(part["samples"], tar=tar)
        for name, array in arrays.items():
            rows = found[name]
            begin, end = filled[name], filled[name] + len(rows)
            if name.startswith("first_"):
                array[begin + 1 : end + 1] = array[begin] + np.cumsum(rows)
            else:
                array[begin:end] = rows
            filled[name] = end
    class_counts = np.bincount(arrays["label"], minlength=len(head["classes"]))
    info["class_counts"] = dict(zip(head["classes"], class_counts.tolist(), strict=True))
    info["splits"] = {}
    for i, name in enumerate(head["split_names"]):
        counts = {subset: int((arrays["split"][:, i] == value).sum()) for subset, value in SUBSETS.items()}
        info["splits"][name] = {subset: count for subset, count in counts.items() if count or subset != "val"}
    for array in arrays.values():
        if isinstance(array, np.memmap):
            array.flush()
    del array, arrays
    changed = sum(put_in_place(path, out_dir / "index" / f"{name}.npy") for name, path in temporary.items())
    changed += write_lines(out_dir / "quarantine.jsonl", [*quarantine, *missing])
    return info, quarantine, changed + write_atomically(out_dir / "dataset.json", to_json(info))


def rows_of(samples: list[dict[str, Any]], *, tar: int) -> dict[str, np.ndarray]:
    """The rows that a part's samples add to each array of the index; for first_… arrays, the difference per row."""
    labels = [sample.get("labels", [sample["label"]]) for sample in samples]
    return {name: np.array([sample[name].encode() for sample in samples]) for name in TEXT_COLUMNS} | {
        "label": np.array([sample["label"] for sample in samples]),
        "num_frames": np.array([sample["num_frames_stored"] for sample in samples]),
        "content": np.array([sample["content"] for sample in samples]),
        "split": np.array([[SUBSETS.get(subset, 0) for subset in sample["subsets"]] for sample in samples]),
        "tar": np.full(len(samples), tar),
        "offset": np.array([sample["offset"] for sample in samples]),
        "first_frame": np.array([sample["num_frames_stored"] for sample in samples]),
        "frames": np.concatenate([unpack_frames(sample["frames"]) for sample in samples]),
        "first_label": np.array([len(own) for own in labels]),
        "labels": np.array([label for own in labels for label in own]),
    }


def _new_array(path: Path, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of zeros in a new file."""
    with open(path, "wb", opener=new_file_opener) as file:
        if 0 in shape:  # cannot be mapped
            array = np.empty(shape, kind)
            np.save(file, array)
            return array
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> bool:
    """Write one JSON object per line; returns whether the file changed."""
    with open(temporary_of(path), "w", encoding="utf-8", newline="\n", opener=new_file_opener) as file:
        for line in lines:
            file.write(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n")
    return put_in_place(temporary_of(path), path)
