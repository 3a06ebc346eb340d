"""Feature files: a folder of Parquet parts, a row a video or clip, a list of numbers a layer; for pandas or DuckDB.

key, source, group   string: of the video's first sample (of the clip's sample); raw video; recording or person
label, class         int64, position in about["data"]["classes"], and the name there
subset               list of strings, one for each split of the dataset: train, test, or null
num_clips, start     int64: clips averaged in the row; first source frame of its first clip
a layer's name       list of D float or halffloat

The schema's metadata has `about`, JSON of what the features were made with, the same in every part; and `unreadable`,
a JSON list of the part's raw videos of which no clip could be decoded. Where a folder is read, one file will do too.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from res3d_video.pipeline.errors import UserError, printable
from res3d_video.pipeline.index import SUBSETS
from res3d_video.pipeline.shard_writer import write_atomically
from res3d_video.pipeline.typed_json import MOST, Count, Real, Text, convert, decode

FORMAT = 1
DTYPES = ("float16", "float32")
COLUMNS = {  # field of Features -> column
    "keys": "key", "sources": "source", "groups": "group", "labels": "label", "subsets": "subset",
    "num_clips": "num_clips", "starts": "start",
}  # fmt: skip
KINDS = {"key": "U", "source": "U", "group": "U", "label": "i", "subset": "i", "num_clips": "i", "start": "i"}
REPEATED = ["source", "class", "group", "subset.list.element"]  # columns that a dictionary makes smaller
SAME_IN_ALL = ("checkpoint", "data", "clip", "mean", "std", "compute")  # or rows of two files cannot be compared
MAX_PACKED, MAX_RATIO = 2**28, 100  # a column of more bytes than the first must not shrink more than the second
MAX_ROWS = 2**20  # of a file with fewer bytes


class FeatureError(UserError):
    """Features that are missing, damaged or made another way; the message is one line."""


class AboutDataset(TypedDict):
    """Which dataset."""

    name: Text


class AboutCheckpoint(TypedDict):
    """Which network."""

    fingerprint: Text
    data: AboutDataset
    split: Text


class AboutData(AboutDataset):
    """Which videos."""

    fingerprint: Text
    classes: list[Text]
    split_names: list[Text]
    num_videos: dict[Text, dict[Text, Count]]


class About(TypedDict):
    """What is read of `about`."""

    format: Literal[1]
    checkpoint: AboutCheckpoint
    data: AboutData
    clip: dict[Text, Any]
    mean: Real | list[Real]
    std: Real | list[Real]
    compute: Text
    layers: list[Text]
    per_clip: bool


@dataclass(frozen=True)
class Features:
    """R rows of features.

    Attributes:
        keys, sources, groups: str [R].
        labels, num_clips, starts: int64 [R].
        subsets: int8 [R, splits], 1 train, 2 test, 3 validation, 0 not used; splits as in about["data"]["split_names"].
        unreadable: str [U].
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

    def num_missing(self, split: str) -> int:
        """Videos of a split, both sides, that the dataset has and these features lack; of rows that are videos."""
        expected = sum(self.about["data"]["num_videos"][split].values())
        return expected - sum(len(self.rows_of(split, subset)) for subset in SUBSETS)

    def num_test_seen(self, split: str) -> int:
        """Test videos of a split that the network was trained on, because it was trained on another split.

        Features of UCF101's split 2 from a network trained on its split 1 are such; those from Sports-1M are not.
        """
        checkpoint = self.about["checkpoint"]
        if checkpoint["data"]["name"] != self.about["data"]["name"] or checkpoint["split"] not in self.split_names:
            return 0
        return len(np.intersect1d(self.rows_of(checkpoint["split"], "train"), self.rows_of(split, "test")))

    def select(self, rows: np.ndarray) -> "Features":
        """These rows alone."""
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        return replace(self, **columns, layers={name: values[rows] for name, values in self.layers.items()})


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
    """Write one file or part in one step; the same features give the same bytes."""
    subset_of = {number: name for name, number in SUBSETS.items()}
    with parquet(path) as (pa, pq):
        columns = {}
        for name, column in COLUMNS.items():
            values = getattr(features, name).tolist()
            if name == "subsets":
                kind = pa.list_(pa.string(), features.subsets.shape[1])
                values = [[subset_of.get(number) for number in row] for row in values]
            else:
                kind = pa.string() if KINDS[column] == "U" else pa.int64()
            columns[column] = pa.array(values, kind)
            if name == "labels":
                columns["class"] = pa.array([features.classes[label] for label in values], pa.string())
        for layer, rows in features.layers.items():
            columns[layer] = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        metadata = {"about": json.dumps(features.about), "unreadable": json.dumps(features.unreadable.tolist())}
        table, sink = pa.table(columns, metadata=metadata), pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", use_dictionary=REPEATED, write_page_checksum=True)
    write_atomically(path, sink.getvalue().to_pybytes())


class FeatureFile:
    """Features to read, in a folder of parts or one file; also those of other programs, which lack some columns.

    Raises:
        FeatureError: There are none, or parts are missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._files = path, sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if path.suffix == ".npz":
            raise FeatureError(f"features: {path} is no longer read; extract the features again, to a .parquet")
        if not path.exists() or not self._files:
            raise FeatureError(f"features: {path} does not exist; make it with tools/extract_features.py")
        with parquet(path) as (_, pq):
            self._schema = pq.read_schema(self._files[0])
            about = (self._schema.metadata or {}).get(b"about")
            self._about = None if about is None else decode(about, dict[str, Any])
            num_parts = (self._about or {}).get("num_parts", 1)
        if path.is_dir() and len(self._files) != num_parts:
            raise FeatureError(
                f"features: {path} has {len(self._files)} of {num_parts!r:.20} parts; run the same extraction again"
            )

    @property
    def columns(self) -> list[str]:
        """Names of its columns."""
        return self._schema.names

    @property
    def layers(self) -> list[str]:
        """Names of its columns of lists of numbers."""
        return [field.name for field in self._schema if field.name != "subset" and _is_list(field.type)]

    def num_dims(self, layer: str) -> int:
        """D of a layer."""
        return self._schema.field(layer).type.list_size

    def about(self) -> dict[str, Any]:
        """What it was made with.

        Raises:
            FeatureError: It is another program's file, or of another format.
        """
        if self._about is None:
            raise FeatureError(f"features: {self.path} has no metadata 'about'; make it with tools/extract_features.py")
        if self._about.get("format") != FORMAT:
            format_ = repr(self._about.get("format"))
            raise FeatureError(f"features: {self.path} has format {format_:.20}, this version reads {FORMAT}")
        with parquet(self.path):
            data = convert(self._about, About)["data"]
            if set(data["num_videos"]) != set(data["split_names"]):
                raise ValueError("about: data.num_videos: not of each split")
        return self._about

    def unreadable(self) -> np.ndarray:
        """Raw videos, or keys of windows, that have no row: str [U]."""
        names: list[str] = []
        with parquet(self.path) as (_, pq):
            for file in self._files:
                names += decode((pq.read_schema(file).metadata or {}).get(b"unreadable", b"[]"), list[str])
        return np.array(names, np.str_)

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns: str or int64 [R] as KINDS has them; `subset` as in Features; others float [R] or, of layers, [R, D].

        Raises:
            FeatureError: One is missing, damaged or of another type, or there are no rows.
        """
        for name in names:
            if name not in self.columns and name not in KINDS and self.layers:
                raise FeatureError(f"layer: {self.path} has no {name}; choose {', '.join(self.layers)}")
            if name not in self.columns:
                raise FeatureError(
                    f"features: {self.path} has no column {name!r}; make it with tools/extract_features.py"
                )
        with parquet(self.path) as (_, pq):
            for file in self._files:
                _check_size(pq.read_metadata(file), names, num_bytes=file.stat().st_size)
            dataset = pq.ParquetDataset(self._files, partitioning=None, page_checksum_verification=True)
            table = dataset.read(list(names), use_threads=False)
            found = {name: _to_numpy(table[name].combine_chunks()) for name in names}
        if not len(table):
            what = "windows" if self._about and "windows" in self._about else "videos"
            raise FeatureError(
                f"features: {self.path} has no row, for none of {len(self.unreadable())} {what} could be decoded; "
                "run tools/check_shards.py"
            )
        for name, values in found.items():
            if values.dtype.kind != KINDS.get(name, "f"):
                kind = self._schema.field(name).type
                raise FeatureError(f"features: {name} of {self.path} is {kind!s:.80}; make it again")
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise FeatureError(f"features: {name} of {self.path} holds values that are not finite; make it again")
        return found


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_fixed_size_list(kind) or types.is_list(kind)


def _check_size(about: Any, names: Sequence[str], *, num_bytes: int) -> None:
    """Refuse columns that would take far more memory than their file has bytes, with a ValueError."""
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    schema = about.schema.to_arrow_schema()
    for name in names:
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] == name)
        width = getattr(schema.field(name).type, "list_size", 1) if name in schema.names else 1
        size = max(size, about.num_rows * width * 4)
        if about.num_rows > max(MAX_ROWS, num_bytes) or size > max(MAX_PACKED, MAX_RATIO * num_bytes):
            raise ValueError(f"{name}: {about.num_rows} rows of {size} bytes packed into {num_bytes}")


def _to_numpy(column: Any) -> np.ndarray:
    """A column by its type; ValueError for one that no file has."""
    import pyarrow.types as types

    kind = column.type
    if column.null_count:
        raise ValueError(f"{column.null_count} rows without a value")
    if types.is_integer(kind):
        return column.cast("int64").to_numpy(zero_copy_only=False)
    if types.is_string(kind) or types.is_large_string(kind):
        return np.array(column.to_pylist(), np.str_)
    if types.is_floating(kind):
        return column.to_numpy(zero_copy_only=False)
    if _is_list(kind) and types.is_string(kind.value_type):
        rows = [[SUBSETS.get(subset, 0) for subset in row] for row in column.to_pylist()]
        return np.array(rows, np.int8).reshape(len(rows), -1 if rows else 0)
    if _is_list(kind) and types.is_floating(kind.value_type):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1 if len(column) else 0)
    raise ValueError(f"a column of {kind!s:.80}")


def read_rows(
    path: Path, *, layers: Sequence[str], names: Sequence[str] = ("key",)
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names and features of a feature file, or of any Parquet file with these columns.

    Args:
        layers: Columns of lists of D numbers.
        names: The columns that may name the rows; the first that is there does.

    Returns:
        R different names, and a float array [R, D] by layer.

    Raises:
        FeatureError: The file is missing or damaged, lacks a column, or has a name twice.
    """
    file = FeatureFile(path)
    name = next((name for name in names if name in file.columns), names[-1])
    found = file.read([name, *layers])
    keys = found.pop(name).tolist()
    if any(values.ndim != 2 for values in found.values()):
        raise FeatureError(f"layer: {path} has lists of numbers in {', '.join(file.layers)} alone; choose among them")
    if len(set(keys)) < len(keys):
        twice = next(first for first, second in pairwise(sorted(keys)) if first == second)
        raise FeatureError(f"features: {path} has {printable(twice)} twice; extract one row a video, not one a clip")
    return keys, found


def load_features(paths: Sequence[Path], layers: Sequence[str]) -> Features:
    """The rows of several feature files, one a video: rows of clips are averaged over each video.

    Raises:
        FeatureError: A file cannot be read or lacks a layer, was made by another network or from other clips than the
            first, or has a video twice.
    """
    parts = []
    for path in paths:
        file = FeatureFile(path)
        about, found = file.about(), file.read([*COLUMNS.values(), *layers])
        data, splits = about["data"], found["subset"]
        fits = splits.ndim == 2 and splits.shape[1] == len(data["split_names"])
        fits = fits and found["label"].min() >= 0 and found["label"].max() < len(data["classes"])
        fits = fits and all(found[name].min() >= 0 and found[name].max() <= MOST for name in ("num_clips", "start"))
        if not fits or any(found[layer].ndim != 2 for layer in layers):
            raise FeatureError(f"features: {path} has a label, split or layer that its metadata lacks; make it again")
        part = Features(
            about=about,
            unreadable=file.unreadable(),
            layers={layer: found[layer] for layer in layers},
            **{name: found[column] for name, column in COLUMNS.items()},
        )
        parts.append(average_videos(part) if about["per_clip"] else part)
        differing = [name for name in SAME_IN_ALL if about[name] != parts[0].about[name]]
        if differing:
            raise FeatureError(
                f"features: {paths[0]} and {path} differ in {', '.join(differing)}; extract both in the same way"
            )
    whole = Features(
        about=parts[0].about,
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in (*COLUMNS, "unreadable")},
        layers={layer: np.concatenate([part.layers[layer] for part in parts]) for layer in layers},
    )
    sources, counts = np.unique(whole.sources, return_counts=True)
    if counts.max() > 1:
        name, files = printable(str(sources[counts.argmax()])), ", ".join(map(str, paths))
        raise FeatureError(f"features: {name} is twice in {files}; give each video once")
    return whole


def average_videos(features: Features) -> Features:
    """Rows of clips as rows of videos, in the order of their first clips; features are float32 means."""
    sources, first, video_of = np.unique(features.sources, return_index=True, return_inverse=True)
    order = np.argsort(first)
    video_of = np.argsort(order)[video_of]  # [R], counted in the order of first clips
    num_clips = np.bincount(video_of, minlength=len(sources))  # [V]
    layers = {}
    for name, values in features.layers.items():
        sums = np.zeros((len(sources), values.shape[1]), np.float64)
        np.add.at(sums, video_of, values)
        layers[name] = (sums / num_clips[:, None]).astype(np.float32)
    videos = replace(features, layers={}).select(first[order])
    return replace(videos, num_clips=num_clips.astype(np.int64), layers=layers)


def l2_normalised(features: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length, float32 [R, D]; a row of zeros stays one.

    >>> l2_normalised(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    rows = np.asarray(features, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)  # [R, 1]
    return rows / np.where(lengths > 0, lengths, 1)
