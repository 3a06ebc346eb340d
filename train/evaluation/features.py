"""Feature files: a folder of Parquet parts with a row per video or clip and a list per layer; for pandas or DuckDB.

key, source, group   string: of the video's first sample (of the clip's sample); raw video; recording or person
label, class         int64, position in about["data"]["classes"], and the name there
subset               list of strings, one for each split of the dataset: train, test, or null
num_clips, start     int64: clips averaged in the row; first source frame of its first clip
a layer's name       list of D float or halffloat

The schema's metadata has `about`, JSON about how the features were made, equal in all parts; and `unreadable`, a JSON
list of the part's raw videos of which no clip could be decoded.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from res3d_video.pipeline.errors import UserError, printable
from res3d_video.pipeline.index import SUBSETS
from res3d_video.pipeline.shard_writer import write_atomically
from res3d_video.pipeline.typed_json import MOST, Text, convert, decode

FORMAT = 1
DTYPES = ("float16", "float32")
COLUMNS = {  # field of Features -> column
    "keys": "key", "sources": "source", "groups": "group", "labels": "label", "subsets": "subset",
    "num_clips": "num_clips", "starts": "start",
}  # fmt: skip
REPEATED = ["source", "class", "group", "subset.list.element"]  # columns stored with a dictionary
MAX_PACKED, MAX_RATIO = 2**28, 100  # bytes of a column; larger ones may be compressed by at most this ratio
MAX_ROWS = 2**20  # of a file with fewer bytes


class FeatureError(UserError):
    """Features are missing, damaged or made in another way; the message is one line."""


class AboutDataset(TypedDict):
    """Which dataset."""

    name: Text


class AboutCheckpoint(TypedDict):
    """Which network."""

    step: int
    data: AboutDataset
    split: Text


class AboutData(AboutDataset):
    """Which videos."""

    classes: list[Text]
    split_names: list[Text]


class About(TypedDict):
    """The fields of `about` that are read."""

    format: Literal[1]
    checkpoint: AboutCheckpoint
    data: AboutData
    layers: list[Text]
    per_clip: bool


@dataclass(frozen=True)
class Features:
    """R rows of features.

    Attributes:
        keys, sources, groups: str [R].
        labels, num_clips, starts: int64 [R].
        subsets: int8 [R, splits], 1 train, 2 test, 3 validation, 0 not used; splits as in about["data"]["split_names"].
        unreadable: Raw videos, or keys of windows, without a row, str [U].
        layers: name -> float16 or float32 [R, D].
    """

    about: dict[str, Any]
    keys: np.ndarray
    sources: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    subsets: np.ndarray
    num_clips: np.ndarray
    starts: np.ndarray
    unreadable: np.ndarray
    layers: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> list[str]:
        return self.about["data"]["classes"]

    @property
    def split_names(self) -> list[str]:
        return self.about["data"]["split_names"]

    def rows_of(self, split: str, subset: str) -> np.ndarray:
        """Rows of one side of a split: int64 [n], ascending."""
        return np.flatnonzero(self.subsets[:, self.split_names.index(split)] == SUBSETS[subset])

    def num_test_seen(self, split: str) -> int:
        """Number of test videos of a split that the network was trained on, because it was trained on another split.

        For example with UCF101's split 2 and a network trained on its split 1, but not with one trained on Sports-1M.
        """
        checkpoint = self.about["checkpoint"]
        if checkpoint["data"]["name"] != self.about["data"]["name"] or checkpoint["split"] not in self.split_names:
            return 0
        return len(np.intersect1d(self.rows_of(checkpoint["split"], "train"), self.rows_of(split, "test")))

    def of_videos(self) -> "Features":
        """The features with a row per video; rows of clips are averaged."""
        return self.averaged() if self.about["per_clip"] else self

    def averaged(self) -> "Features":
        """Rows of clips as rows of videos, in the order of their first clips; features are float32 means."""
        sources, first, video_of = np.unique(self.sources, return_index=True, return_inverse=True)
        order = np.argsort(first)
        video_of = np.argsort(order)[video_of]  # [R], counted in the order of first clips
        num_clips = np.bincount(video_of, minlength=len(sources))  # [V]
        layers = {}
        for name, values in self.layers.items():
            sums = np.zeros((len(sources), values.shape[1]), np.float64)
            np.add.at(sums, video_of, values)
            layers[name] = (sums / num_clips[:, None]).astype(np.float32)
        columns = {name: getattr(self, name)[first[order]] for name in COLUMNS}
        return replace(self, **columns | {"num_clips": num_clips.astype(np.int64)}, layers=layers)


@contextmanager
def parquet(path: Path) -> Iterator[tuple[Any, Any]]:
    """pyarrow and pyarrow.parquet.

    Raises:
        FeatureError: They are not installed, or the block finds `path` damaged.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise FeatureError(f"{path}: {error.name} is not installed; pip install -e '.[features]'") from None
    try:
        yield pa, pq
    except FeatureError:
        raise
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        reason = printable(str(error), most=120)
        raise FeatureError(f"features: {path} cannot be read ({reason}); make it again") from None


def save_features(path: Path, features: Features) -> None:
    """Write one file or part atomically; equal features give equal bytes."""
    subset_of = {number: name for name, number in SUBSETS.items()}
    with parquet(path) as (pa, pq):
        columns = {}
        for name, column in COLUMNS.items():
            if name == "subsets":
                values = [[subset_of.get(number) for number in row] for row in features.subsets.tolist()]
                columns[column] = pa.array(values, pa.list_(pa.string(), features.subsets.shape[1]))
            else:
                columns[column] = pa.array(getattr(features, name))
            if name == "labels":
                columns["class"] = pa.array([features.classes[label] for label in features.labels], pa.string())
        for layer, rows in features.layers.items():
            columns[layer] = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        metadata = {"about": json.dumps(features.about), "unreadable": json.dumps(features.unreadable.tolist())}
        table, sink = pa.table(columns, metadata=metadata), pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", use_dictionary=REPEATED, write_page_checksum=True)
    write_atomically(path, sink.getvalue().to_pybytes())


def read_about(path: Path) -> tuple[dict[str, Any], list[Path]]:
    """How features were made (`about`), and their files.

    Args:
        path: A folder of parts, or one part.

    Raises:
        FeatureError: There are none, parts are missing or damaged, or another program wrote them.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not path.exists() or not files:
        raise FeatureError(f"features: {path} does not exist; make it with tools/extract_features.py")
    with parquet(path) as (_, pq):
        text = (pq.read_schema(files[0]).metadata or {}).get(b"about")
        if text is None:
            raise FeatureError(f"features: {path} has no metadata 'about'; make it with tools/extract_features.py")
        about = decode(text, dict[str, Any])
        if about.get("format") != FORMAT:
            raise FeatureError(f"features: {path} has format {about.get('format')!r:.20}, this version reads {FORMAT}")
        convert(about, About)
    if path.is_dir() and len(files) != about.get("num_parts", 1):
        raise FeatureError(
            f"features: {path} has {len(files)} of {about.get('num_parts')!r:.20} parts; run the same extraction again"
        )
    return about, files


def load_features(path: Path, layers: Sequence[str]) -> Features:
    """All rows of a folder of features, with the given layers.

    Raises:
        FeatureError: Parts are missing or damaged, a layer does not exist, or there are no rows.
    """
    about, files = read_about(path)
    if unknown := [layer for layer in layers if layer not in about["layers"]]:
        raise FeatureError(f"layer: {path} has no {unknown[0]}; choose {', '.join(about['layers'])}")
    names, unreadable = [*COLUMNS.values(), *layers], []
    with parquet(path) as (_, pq):
        for file in files:
            _check_size(pq.read_metadata(file), names, num_bytes=file.stat().st_size)
            metadata = pq.read_schema(file).metadata or {}
            unreadable += decode(metadata.get(b"unreadable", b"[]"), list[str])
        dataset = pq.ParquetDataset(files, partitioning=None, page_checksum_verification=True)
        table = dataset.read(names, use_threads=False).combine_chunks()
        if not len(table):
            raise FeatureError(
                f"features: {path} has no row, for none of {len(unreadable)} videos could be decoded; "
                "run tools/check_shards.py"
            )
        columns = {name: _to_numpy(table[column], name) for name, column in COLUMNS.items()}
        found = {layer: _to_numpy(table[layer], "layers") for layer in layers}
    data = about["data"]
    fits = columns["subsets"].shape[1] == len(data["split_names"])
    fits = fits and columns["labels"].min() >= 0 and columns["labels"].max() < len(data["classes"])
    if not fits or any(columns[name].min() < 0 or columns[name].max() > MOST for name in ("num_clips", "starts")):
        raise FeatureError(f"features: {path} has a label or split that its metadata lacks; make it again")
    return Features(about=about, unreadable=np.array(unreadable, np.str_), layers=found, **columns)


def _check_size(about: Any, names: Sequence[str], *, num_bytes: int) -> None:
    """Raise ValueError for columns that would take far more memory than the size of their file."""
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    schema = about.schema.to_arrow_schema()
    for name in names:
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] == name)
        width = getattr(schema.field(name).type, "list_size", 1)
        size = max(size, about.num_rows * width * 4)
        if about.num_rows > max(MAX_ROWS, num_bytes) or size > max(MAX_PACKED, MAX_RATIO * num_bytes):
            raise ValueError(f"{name}: {about.num_rows} rows of {size} bytes packed into {num_bytes}")


def _to_numpy(column: Any, field: str) -> np.ndarray:
    """A column as a field of Features; ValueError if its type or values are invalid."""
    import pyarrow.types as types

    kind, values = column.type, column.combine_chunks()
    if values.null_count:
        raise ValueError(f"{field}: {values.null_count} rows without a value")
    if field in ("keys", "sources", "groups") and types.is_string(kind):
        return np.array(values.to_pylist(), np.str_)
    if field in ("labels", "num_clips", "starts") and types.is_int64(kind):
        return values.to_numpy()
    if field == "subsets" and types.is_fixed_size_list(kind) and types.is_string(kind.value_type):
        return np.array([[SUBSETS.get(subset, 0) for subset in row] for row in values.to_pylist()], np.int8)
    if field == "layers" and types.is_fixed_size_list(kind) and types.is_floating(kind.value_type):
        rows = values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), kind.list_size)
        if not np.isfinite(rows).all():
            raise ValueError("values that are not finite")
        return rows
    raise ValueError(f"{field}: a column of {kind!s:.80}")


def l2_normalised(features: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length, float32 [R, D]; a row of zeros stays one."""
    rows = np.asarray(features, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)  # [R, 1]
    return rows / np.where(lengths > 0, lengths, 1)
