"""What `verify` checks of one codec: its files against the index, and its pictures. Here filmstrips."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Protocol

import numpy as np
import simplejpeg

from pipeline.picture_reader import PictureReader
from pipeline.shard import ShardIndex
from pipeline.shard_writer import strip_file

Found = dict[str, tuple[int, int]]  # offset and size of every file of a tar, by its name


class PictureCheck(Protocol):
    """Looks for faults that only a codec knows; each is one line, without the tar's name."""

    def dataset_faults(self) -> Iterator[str]:
        """dataset.json and the index alone."""

    def file_faults(self, sample: int, found: Found, file: BinaryIO) -> Iterator[str]:
        """One sample's files in its tar, open as `file`, against the index."""

    def picture_faults(self, samples: np.ndarray, *, decode: bool) -> Iterator[str]:
        """Pictures of some samples that a loader replaces and, with `decode`, those in which a decoder meets errors."""


class StripCheck:
    """Of filmstrips."""

    def __init__(self, index: ShardIndex) -> None:
        self._index = index
        self._reader = PictureReader(index, max_open_tars=1)

    def dataset_faults(self) -> Iterator[str]:
        return iter(())

    def file_faults(self, sample: int, found: Found, file: BinaryIO) -> Iterator[str]:
        where, key = self._index.pictures, self._index.key(sample)
        first, last = int(where.first[sample]), int(where.first[sample + 1])
        for strip in range(first, last):
            name = f"{key}.{strip_file(strip - first, last - first)}"
            if found.get(name) != (where.offset[strip], where.size[strip]):
                yield f"{name} is not where the index says"

    def picture_faults(self, samples: np.ndarray, *, decode: bool) -> Iterator[str]:
        first = self._index.pictures.first
        owners = [(int(sample), strip) for sample in samples for strip in range(first[sample], first[sample + 1])]
        with ThreadPoolExecutor(os.cpu_count() if decode else 1) as pool:
            found = pool.map(lambda owner: self._strip_fault(owner[1], decode=decode), owners)
            for (sample, strip), what in zip(owners, found, strict=True):
                if what:
                    yield f"strip {strip - first[sample]} of {self._index.key(sample)} {what}"

    def _strip_fault(self, strip: int, *, decode: bool) -> str | None:
        (jpeg,) = self._reader.read_or_fault(np.array([strip]))
        if isinstance(jpeg, str):
            return jpeg
        if decode:
            try:
                simplejpeg.decode_jpeg(jpeg)
            except ValueError as error:
                return f"does not decode ({error})"
        return None
