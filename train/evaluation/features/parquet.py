"""Feature files as Parquet: a column for each array, a list of numbers for each layer; for pandas, DuckDB, Spark.

key, source, group      string
label, class            int64, and the name that it stands for
subset                  list of strings, one for each split of the dataset: train, test, or null
num_clips, start        int64
a layer's name          list of D float or halffloat

`about` and `unreadable` are JSON in the schema's metadata. Wants pyarrow, which is in the extra `features`.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from res3d_video.pipeline.index import SUBSETS
from res3d_video.pipeline.typed_json import decode
from res3d_video.train.evaluation.features.npz import MAX_PACKED, MAX_RATIO

COLUMN_OF = {
    "keys": "key",
    "sources": "source",
    "groups": "group",
    "labels": "label",
    "subsets": "subset",
    "num_clips": "num_clips",
    "starts": "start",
}
METADATA = ("about", "unreadable")
REPEATED = ["source", "class", "group", "subset.list.element"]  # columns that a dictionary makes smaller
DAMAGED = (OSError, ValueError, pa.ArrowException)  # what reading raises then
MAX_ROWS = 2**20  # of a file with fewer bytes


def write(
    path: Path, about: dict[str, Any], columns: dict[str, np.ndarray], layers: dict[str, Iterator[np.ndarray]]
) -> None:
    """Write a file; each layer comes as arrays [r, D] whose rows follow one another, as many in every layer."""
    metadata = {"about": json.dumps(about), "unreadable": json.dumps(columns["unreadable"].tolist())}
    whole = row_table(columns, classes=about["data"]["classes"])
    writer, first = None, 0
    with path.open("wb") as file:
        for pieces in zip(*layers.values(), strict=True):
            table = whole.slice(first, len(pieces[0]))
            for name, piece in zip(layers, pieces, strict=True):
                table = table.append_column(name, vectors(piece))
            if writer is None:
                schema = table.schema.with_metadata(metadata)
                options = {"compression": "zstd", "use_dictionary": REPEATED, "write_page_checksum": True}
                writer = pq.ParquetWriter(file, schema, **options)
            if len(table):
                writer.write_table(table.cast(writer.schema))
            first += len(table)
        if writer is not None:
            writer.close()
        file.flush()
        os.fsync(file.fileno())


def row_table(columns: dict[str, np.ndarray], *, classes: list[str]) -> pa.Table:
    """What is known of the rows: every column but the layers."""
    arrays = {}
    for name, column in COLUMN_OF.items():
        values = columns[name]
        if name == "subsets":
            arrays[column] = subset_lists(values)
        else:
            arrays[column] = pa.array(values.tolist(), pa.string() if values.dtype.kind == "U" else pa.int64())
        if name == "labels":
            arrays["class"] = pa.array([classes[label] for label in values.tolist()], pa.string())
    return pa.table(arrays)


def subset_lists(subsets: np.ndarray) -> pa.Array:
    """subsets [R, splits] as lists of names.

    >>> subset_lists(np.array([[1, 2], [0, 1]], np.int8)).to_pylist()
    [['train', 'test'], [None, 'train']]
    """
    name_of = {number: name for name, number in SUBSETS.items()}
    rows = [[name_of.get(number) for number in row] for row in subsets.tolist()]
    return pa.array(rows, pa.list_(pa.string(), subsets.shape[1]))


def vectors(values: np.ndarray) -> pa.Array:
    """float16 or float32 [R, D] as R lists of D numbers."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def read(path: Path, name: str) -> np.ndarray | None:
    """One array, None if there is none of that name; raises one of DAMAGED."""
    schema = pq.read_schema(path)
    if name in METADATA:
        found = (schema.metadata or {}).get(name.encode())
        if found is None:
            return None
        return np.array(found.decode()) if name == "about" else np.array(decode(found, list[str]), np.str_)
    wanted = COLUMN_OF.get(name, name.removeprefix("layer/"))
    if wanted not in schema.names:
        return None
    kind = schema.field(wanted).type
    check_size(path, wanted, kind)
    column = pq.read_table(path, columns=[wanted], page_checksum_verification=True)[wanted].combine_chunks()
    if name == "subsets" and is_list(kind):
        rows = [[SUBSETS.get(subset, 0) for subset in row or ()] for row in column.to_pylist()]
        return np.array(rows, np.int8).reshape(len(rows), -1 if rows else kind.list_size)
    if column.null_count:
        raise ValueError(f"{wanted}: {column.null_count} rows without a value")
    if name.startswith("layer/") and is_list(kind) and pa.types.is_floating(kind.value_type):
        num_dims = kind.list_size if pa.types.is_fixed_size_list(kind) else -1
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), num_dims)
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), np.int64 if pa.types.is_integer(kind) else np.str_)
    raise ValueError(f"{wanted}: holds {kind!s:.80}")


def is_list(kind: pa.DataType) -> bool:
    """Whether a column's rows are lists."""
    return pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind)


def check_size(path: Path, column: str, kind: pa.DataType) -> None:
    """Refuse a column that would take far more memory than the file has bytes.

    Raises:
        ValueError: It would.
    """
    about, size = pq.read_metadata(path), path.stat().st_size
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    num_bytes = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] == column)
    num_bytes = max(num_bytes, about.num_rows * (kind.list_size * 4 if pa.types.is_fixed_size_list(kind) else 8))
    if about.num_rows > max(MAX_ROWS, size) or num_bytes > max(MAX_PACKED, MAX_RATIO * size):
        raise ValueError(f"{column}: {about.num_rows} rows of {num_bytes} bytes packed into {size}")


def names(path: Path) -> list[str]:
    """Names of the arrays."""
    columns = {column: name for name, column in COLUMN_OF.items()}
    return [columns.get(name, f"layer/{name}") for name in pq.read_schema(path).names if name != "class"]


def num_dims(path: Path, layer: str) -> int:
    """D of a layer, by the schema alone."""
    return pq.read_schema(path).field(layer).type.list_size
