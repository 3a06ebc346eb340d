"""Feature files as .npz: arrays by name, as numpy.savez has them; `about` is a string of JSON."""

import itertools
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# What reading a damaged file raises.
DAMAGED = (OSError, ValueError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)
KINDS = "biufU"
MAX_PACKED, MAX_RATIO = 2**28, 100  # an array of more bytes than the first must not shrink more than the second


def write(
    path: Path, about: dict[str, Any], columns: dict[str, np.ndarray], layers: dict[str, Iterator[np.ndarray]]
) -> None:
    """Write a file; no layer need fit in memory: each comes as arrays [r, D] whose rows follow one another."""
    num_rows = len(columns["labels"])
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, values in {"about": np.array(json.dumps(about)), **columns}.items():
                _write_array(archive, name, values.shape, [values])
            for layer, pieces in layers.items():
                first = next(pieces)
                shape = (num_rows, *first.shape[1:])
                _write_array(archive, f"layer/{layer}", shape, itertools.chain([first], pieces))
        file.flush()
        os.fsync(file.fileno())


def _write_array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
    """One array; the same values give the same bytes."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        for number, piece in enumerate(pieces):
            if number == 0:
                header = {"descr": np.lib.format.dtype_to_descr(piece.dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(piece).tobytes())


def read(path: Path, name: str) -> np.ndarray | None:
    """One array, None if there is none of that name; raises one of DAMAGED."""
    with zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            return None
        read_shape(archive, name)
        with archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def names(path: Path) -> list[str]:
    """Names of the arrays."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def num_dims(path: Path, layer: str) -> int:
    """D of a layer, by its array's header alone."""
    with zipfile.ZipFile(path) as archive:
        return read_shape(archive, f"layer/{layer}")[1]


def read_shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """Shape of an array, whose numbers are as many as the file holds.

    Raises:
        ValueError: They are not, or it is no array of numbers or strings.
    """
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > max(MAX_PACKED, MAX_RATIO * entry.compress_size):
        raise ValueError(f"{name}: {entry.file_size} bytes packed into {entry.compress_size}")
    with archive.open(entry) as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
        except Exception as error:  # numpy raises ValueError, TypeError, SyntaxError, … for damaged headers
            raise ValueError(f"{name}: no array ({error!r:.60})") from None
        content = entry.file_size - file.tell()
    if dtype.kind not in KINDS or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"{name}: an array of {dtype!s:.40} and shape {shape!s:.40}")
    if math.prod(shape) * dtype.itemsize != content:
        raise ValueError(f"{name}: its shape {shape!s:.40} does not fit its {content} bytes")
    return shape
