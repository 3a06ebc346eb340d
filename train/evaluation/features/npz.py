"""Feature files as .npz: arrays by name, as numpy.savez has them; `about` is a string of JSON."""

import itertools
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DAMAGED = (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile)  # what reading raises then


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
    with np.load(path, allow_pickle=False) as arrays:
        return arrays.get(name)


def names(path: Path) -> list[str]:
    """Names of the arrays."""
    with np.load(path, allow_pickle=False) as arrays:
        return list(arrays)


def num_dims(path: Path, layer: str) -> int:
    """D of a layer, by its array's header alone."""
    with zipfile.ZipFile(path) as archive, archive.open(f"layer/{layer}.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return shape[1]
