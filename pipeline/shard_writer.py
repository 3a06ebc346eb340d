"""The shard format as it is written, one tar at a time; index_writer.py writes the index over all of them."""

import base64
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.pipeline.codecs import EncodedSegment
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import new_file_opener, temporary_of, write_atomically


def to_json(value: Any) -> bytes:
    """JSON for people: sorted keys, two blanks, a final line end; the same value gives the same bytes."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class EncodedSample:
    """One segment with its name and what is known of it, ready to be stored.

    Attributes:
        meta: Content of key.json.
    """

    key: str
    segment: EncodedSegment
    meta: dict[str, Any]


class TarShard(AbstractContextManager):
    """Write samples to a tar that appears under its name only when it is complete.

    Leaving the `with` block by an exception leaves no file behind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = temporary_of(path)
        self._samples: list[EncodedSample] = []

    def __enter__(self) -> "TarShard":
        self._file = open(self._temporary, "wb", opener=new_file_opener)
        # USTAR and fixed owner, mode and time: the same samples give the same bytes; DALI misreads PAX headers.
        # Not by webdataset's writer, which does the same and takes two seconds to load torch.
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
        components = list(tar_components(self._temporary))
        self._offsets = {name: offset for name, offset, _ in components}
        self._sha256 = sha256_of(self._temporary)
        status = self._temporary.stat()
        self._num_bytes, self._file_number = status.st_size, status.st_ino
        self._temporary.replace(self.path)  # first, so that of two processes all files of the later one remain
        write_atomically(self.path.with_suffix(".idx"), dali_index(components))

    def is_in_place(self) -> bool:
        """Whether the finished tar is still the file that has its name; False may be wrong, True is not."""
        try:
            return self.path.stat().st_ino == self._file_number
        except FileNotFoundError:
            return False

    def summary(self) -> dict[str, Any]:
        """Name, bytes, checksum and samples of the finished tar, for parts/*.json."""
        return {
            "tar": self.path.name,
            "num_bytes": self._num_bytes,
            "sha256": self._sha256,
            "samples": [self._entry(sample) for sample in self._samples],
        }

    def _entry(self, sample: EncodedSample) -> dict[str, Any]:
        """What parts/*.json says: key.json, where the sample lies, and the rows of its frames (`pack_frames`)."""
        at = {name: self._offsets[f"{sample.key}.{name}"] for name in sample.segment.files}
        offset = min(at.values())
        rows = [(at[r.file] + r.offset - offset, r.size, r.crc32) for r in sample.segment.frames]
        return {"key": sample.key, **sample.meta, "offset": offset, "frames": pack_frames(np.array(rows, "<u4"))}


def pack_frames(frames: np.ndarray) -> str:
    """Rows of the index, uint32 [F, 3], as a word of JSON.

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


def tar_components(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset of the data and size of every file in a tar, bytes, in order."""
    with tarfile.open(path, "r:") as tar:
        yield from ((member.name, member.offset_data, member.size) for member in tar if member.isfile())


def dali_index(components: Iterable[tuple[str, int, int]]) -> bytes:
    """DALI's index file (v1.2) of a tar: a line a sample, `extension offset size name` for each of its files.

    >>> print(dali_index([("a.000.jpg", 512, 9), ("a.json", 1536, 2), ("b.json", 2560, 2)]).decode(), end="")
    v1.2 2
    000.jpg 512 9 a.000.jpg json 1536 2 a.json
    json 2560 2 b.json
    """
    lines: dict[str, list[str]] = {}
    for name, offset, size in components:
        key, _, extension = name.partition(".")
        lines.setdefault(key, []).append(f"{extension} {offset} {size} {name}")
    return "".join(
        f"{line}\n" for line in [f"v1.2 {len(lines)}", *(" ".join(parts) for parts in lines.values())]
    ).encode()


def npy_bytes(array: np.ndarray) -> bytes:
    """The .npy file of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
