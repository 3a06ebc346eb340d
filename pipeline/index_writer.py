"""The index over all tars, written from parts/*.json one after another: millions of samples need little memory."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.pipeline.files import new_file_opener, put_in_place, temporary_of, write_atomically
from res3d_video.pipeline.schema import FORMAT_VERSION, SUBSETS, TEXT, TEXT_COLUMNS, array_specs
from res3d_video.pipeline.shard_writer import (
    npy_bytes,
    to_json,
    unpack_frames,
)


class Parts:
    """The content of parts/*.json in the order of the tars; read anew by every iteration, one in memory at a time."""

    def __init__(self, out_dir: Path, names: list[str]) -> None:
        self._out_dir, self._names = out_dir, names

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for name in self._names:
            yield json.loads((self._out_dir / "parts" / f"{name}.json").read_bytes())


@dataclass
class Tally:
    """What all parts add up to; `labels` counts those of samples that may have several, None where none does."""

    samples: int = 0
    frames: int = 0
    labels: int | None = None
    quarantine: list[dict[str, str]] = field(default_factory=list)
    widths: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TEXT_COLUMNS, 1))
    shards: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: dict[str, Any]) -> None:
        samples = part["samples"]
        self.quarantine += part["quarantine"]
        if not samples:
            return
        self.samples += len(samples)
        self.frames += sum(s["num_frames_stored"] for s in samples)
        if "labels" in samples[0]:
            self.labels = (self.labels or 0) + sum(len(s["labels"]) for s in samples)
        for name in TEXT_COLUMNS:
            self.widths[name] = max(self.widths[name], *(len(s[name].encode()) for s in samples))
        self.shards.append({k: part[k] for k in ("tar", "num_bytes", "sha256")} | {"num_samples": len(samples)})


def write_index(
    out_dir: Path, parts: Iterable[dict[str, Any]], *, head: dict[str, Any], missing: list[dict[str, str]]
) -> tuple[Tally, int]:
    """Write index/*.npy, quarantine.jsonl and, last, dataset.json.

    Args:
        parts: The content of parts/*.json in order of the tars; iterated twice.
        head: What dataset.json says beyond counts: name, classes, split_names, codec, tools, …
        missing: Lines of quarantine.jsonl after those of the parts.

    Returns:
        What there is, and how many files changed.
    """
    tally = Tally()
    for part in parts:
        tally.add(part)
    num_splits = len(head["split_names"])
    specs = array_specs(
        num_samples=tally.samples, num_frames=tally.frames, num_splits=num_splits, num_labels=tally.labels
    )
    arrays = IndexArrays(out_dir)
    for name, (kind, shape) in specs.items():
        arrays.create(name, f"S{tally.widths[name]}" if kind is TEXT else kind, *shape)

    split_counts = np.zeros((num_splits, len(SUBSETS) + 1), np.int64)
    class_counts = np.zeros(len(head["classes"]), np.int64)
    for tar, part in enumerate(part for part in parts if part["samples"]):
        samples = part["samples"]
        for name in TEXT_COLUMNS:
            arrays.append(name, np.array([s[name].encode() for s in samples]))
        label = np.array([s["label"] for s in samples])
        split = np.array([[SUBSETS.get(name, 0) for name in s["subsets"]] for s in samples]).reshape(-1, num_splits)
        arrays.append("label", label)
        arrays.append("num_frames", np.array([s["num_frames_stored"] for s in samples]))
        arrays.append("content", np.array([s["content"] for s in samples]).reshape(-1, 4))
        arrays.append("split", split)
        arrays.append("tar", np.full(len(samples), tar))
        arrays.append("offset", np.array([s["offset"] for s in samples]))
        arrays.append_firsts("first_frame", [s["num_frames_stored"] for s in samples])
        arrays.append("frames", np.concatenate([unpack_frames(s["frames"]) for s in samples]))
        if tally.labels is not None:
            arrays.append_firsts("first_label", [len(s["labels"]) for s in samples])
            arrays.append("labels", np.array([label for s in samples for label in s["labels"]]))
        class_counts += np.bincount(label, minlength=len(class_counts))
        for i in range(num_splits):
            split_counts[i] += np.bincount(split[:, i], minlength=len(SUBSETS) + 1)
    changed = arrays.finish()

    changed += write_lines(out_dir / "quarantine.jsonl", [*tally.quarantine, *missing])
    info = {
        "format_version": FORMAT_VERSION,
        **head,
        "num_samples": tally.samples,
        "num_frames": tally.frames,
        "num_quarantined": len(tally.quarantine),
        "num_missing": len(missing),
        "splits": {
            name: {subset: int(split_counts[i, value]) for subset, value in SUBSETS.items()}
            for i, name in enumerate(head["split_names"])
        },
        "class_counts": dict(zip(head["classes"], class_counts.tolist(), strict=True)),
        "shards": tally.shards,
        "fingerprint": hashlib.sha256("".join(s["sha256"] for s in tally.shards).encode()).hexdigest()[:16],
    }
    if tally.labels is not None:
        info["num_labels"] = tally.labels
    return tally, changed + write_atomically(out_dir / "dataset.json", to_json(info))


class IndexArrays:
    """Arrays that are filled from the front on disk, and appear under their names when all are full."""

    def __init__(self, out_dir: Path) -> None:
        self._out_dir = out_dir  # half-written arrays lie here, so that index/ is not even touched if nothing changes
        (out_dir / "index").mkdir(parents=True, exist_ok=True)
        self._arrays: dict[str, np.ndarray] = {}
        self._filled: dict[str, int] = {}

    def create(self, name: str, kind: Any, *shape: int) -> None:
        """An array of zeros."""
        temporary = self._temporary(name)
        open(temporary, "wb", opener=new_file_opener).close()
        if 0 in shape:  # cannot be mapped
            temporary.write_bytes(npy_bytes(np.empty(shape, kind)))
            self._arrays[name] = np.empty(shape, kind)
        else:
            self._arrays[name] = np.lib.format.open_memmap(temporary, mode="w+", dtype=kind, shape=shape)
        self._filled[name] = 0

    def append(self, name: str, values: np.ndarray) -> None:
        """Fill the next rows."""
        first, end = self._filled[name], self._filled[name] + len(values)
        self._arrays[name][first:end] = values
        self._filled[name] = end

    def append_firsts(self, name: str, counts: list[int]) -> None:
        """Fill the next rows of an array that says where each sample's own rows begin; its first row is 0."""
        array, place = self._arrays[name], self._filled[name]
        array[place + 1 : place + 1 + len(counts)] = array[place] + np.cumsum(counts)
        self._filled[name] = place + len(counts)

    def finish(self) -> int:
        """Put the files in place; how many changed."""
        for array in self._arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        names = list(self._arrays)
        self._arrays.clear()
        return sum(put_in_place(self._temporary(name), self._out_dir / "index" / f"{name}.npy") for name in names)

    def _temporary(self, name: str) -> Path:
        return temporary_of(self._out_dir / f"{name}.npy")


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> bool:
    """Write a file of one JSON object a line; True when that changed anything."""
    with open(temporary_of(path), "w", encoding="utf-8", newline="\n", opener=new_file_opener) as file:
        for line in lines:
            file.write(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n")
    return put_in_place(temporary_of(path), path)
