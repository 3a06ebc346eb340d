"""Feature files: a row a video or clip, an array a layer, and what they were made with, in one .npz or .parquet.

about               JSON: checkpoint, network, clips, dataset, layers, and whether a row is a video or a clip
keys, sources, groups   str [R]: of the video's first sample (of the clip's sample); raw video; recording or person
labels              int64 [R], position in about["data"]["classes"]
subsets             int8 [R, splits], 1 train, 2 test, 0 not used; splits as in about["data"]["split_names"]
num_clips, starts   int64 [R]: clips averaged in the row; first source frame of its first clip
unreadable          str [U]: raw videos left out because no clip of theirs could be decoded
layer/NAME          float16 or float32 [R, D], one for each layer

These are the arrays of an .npz; parquet.py says what becomes of them there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypedDict

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import SUBSETS
from res3d_video.pipeline.typed_json import MOST, Count, Real, SchemaError, Text, convert, decode
from res3d_video.train.evaluation.features import npz

FORMAT = 1
ROW_ARRAYS = ("keys", "sources", "groups", "labels", "subsets", "num_clips", "starts")
KINDS = {"keys": "U", "sources": "U", "groups": "U", "unreadable": "U"}  # of arrays; all others hold integers
SAME_IN_ALL = ("checkpoint", "data", "clip", "mean", "std", "compute")  # or rows of two files cannot be compared


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
    """What every feature file says of itself."""

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
    """R rows; the arrays are described at the top of this file.

    Attributes:
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
        columns = {name: getattr(self, name)[rows] for name in ROW_ARRAYS}
        return replace(self, **columns, layers={name: values[rows] for name, values in self.layers.items()})


def save_features(path: Path, features: Features) -> None:
    """Write a feature file; `path` always holds a whole one."""
    columns = {name: getattr(features, name) for name in ROW_ARRAYS}
    layers = {name: iter([values]) for name, values in features.layers.items()}
    _write(path, features.about, columns | {"unreadable": features.unreadable}, layers)


def merge_features(paths: Sequence[Path], path: Path) -> int:
    """Write the rows of several feature files, in that order, as one; holds one file's layer in memory at a time.

    Returns:
        Rows written.

    Raises:
        FeatureError: There is not one row in them.
    """
    about = read_about(paths[0])
    parts = [read_columns(part, about) for part in paths]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    num_rows = len(columns["labels"])
    if not num_rows:
        what = "windows" if "windows" in about else "videos"
        raise FeatureError(
            f"{about['data']['name']}: none of its {len(columns['unreadable'])} {what} could be decoded; "
            "run tools/check_shards.py"
        )
    _write(path, about, columns, {layer: _pieces(paths, layer) for layer in about["layers"]})
    return num_rows


def _pieces(paths: Sequence[Path], layer: str) -> Iterator[np.ndarray]:
    """One layer of each file, read when it is asked for."""
    for path in paths:
        yield read_array(path, f"layer/{layer}")


def _write(
    path: Path, about: dict[str, Any], columns: dict[str, np.ndarray], layers: dict[str, Iterator[np.ndarray]]
) -> None:
    """A whole file or none, of which no layer need fit in memory: each comes as arrays [r, D], one after another."""
    kind = file_kind(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    kind.write(temporary, about, columns, layers)
    temporary.replace(path)


def file_kind(path: Path) -> ModuleType:
    """The module that reads and writes such a file: npz, or parquet for what ends so.

    Raises:
        FeatureError: It wants a package that is not installed.
    """
    if path.suffix != ".parquet":
        return npz
    try:
        from res3d_video.train.evaluation.features import parquet
    except ModuleNotFoundError as error:
        raise FeatureError(f"{path}: {error.name} is not installed; pip install -e '.[features]'") from None
    return parquet


def read_array(path: Path, name: str) -> np.ndarray:
    """One array of a feature file.

    Raises:
        FeatureError: The file is missing or damaged, or has no such array.
    """
    if not path.is_file():
        raise FeatureError(f"features: {path} does not exist; make it with tools/extract_features.py")
    kind = file_kind(path)
    try:
        values = kind.read(path, name)
        found = [] if values is not None else [n.removeprefix("layer/") for n in kind.names(path) if n[:6] == "layer/"]
    except kind.DAMAGED as error:
        raise FeatureError(f"features: {path} cannot be read ({str(error)[:120]}); make it again") from None
    if values is not None:
        return values
    if name.startswith("layer/") and found:
        raise FeatureError(f"layer: {path} has no {name.removeprefix('layer/')}; choose {', '.join(found)}")
    raise FeatureError(f"features: {path} has no array {name!r}; make it with tools/extract_features.py")


def read_names(path: Path, name: str) -> list[str]:
    """An array of names.

    Raises:
        FeatureError: As `read_array`, or it is an array of something else.
    """
    values = read_array(path, name)
    if values.ndim != 1 or values.dtype.kind not in "Uiu":
        raise FeatureError(f"features: {name} of {path} is {described(values)}, not names; make it again")
    return [str(value) for value in values.tolist()]


def read_layer(path: Path, layer: str, *, num_rows: int) -> np.ndarray:
    """A layer's features: float [R, D].

    Raises:
        FeatureError: As `read_array`, or it is of another shape or type.
    """
    values = read_array(path, f"layer/{layer}")
    if values.ndim != 2 or len(values) != num_rows or values.dtype.kind not in "fiu":
        raise FeatureError(f"features: {path} has {num_rows} keys and layer {layer} of {described(values)}")
    return values


def read_columns(path: Path, about: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every array of a feature file but its layers.

    Raises:
        FeatureError: One is missing, of another shape or type, or has impossible values.
    """
    columns = {name: read_array(path, name) for name in (*ROW_ARRAYS, "unreadable")}
    num_rows, num_splits = len(columns["keys"]) if columns["keys"].ndim else -1, len(about["data"]["split_names"])
    shapes = dict.fromkeys(ROW_ARRAYS, (num_rows,)) | {"subsets": (num_rows, num_splits)}
    most = {"labels": len(about["data"]["classes"]) - 1, "subsets": max(SUBSETS.values())}
    for name, values in columns.items():
        fits = values.shape == shapes.get(name, (values.size,))
        if fits and values.size:
            fits = values.dtype.kind in KINDS.get(name, "iu")
            fits = fits and (name in KINDS or 0 <= values.min() <= values.max() <= most.get(name, MOST))
        if not fits:
            raise FeatureError(f"features: {name} of {path} is {described(values)}, which no file has; make it again")
    return columns


def described(values: np.ndarray) -> str:
    """Type and shape of an array.

    >>> described(np.zeros((2, 3)))
    'float64 [2, 3]'
    """
    return f"{values.dtype.name} {list(values.shape)}"


def read_dims(path: Path, layer: str) -> int:
    """D of a layer, without reading it."""
    return file_kind(path).num_dims(path, layer)


def read_about(path: Path) -> dict[str, Any]:
    """What a feature file was made with.

    Raises:
        FeatureError: It is missing or damaged, not a feature file, or of another format.
    """
    try:
        about = decode(str(read_array(path, "about")), dict[str, Any])
        if about.get("format") != FORMAT:
            format_ = repr(about.get("format"))
            raise FeatureError(f"features: {path} has format {format_:.20}, this version reads {FORMAT}")
        data = convert(about, About)["data"]
        if set(data["num_videos"]) != set(data["split_names"]):
            raise SchemaError("data.num_videos: not of each split")
    except SchemaError as error:
        raise FeatureError(f"features: {path} cannot be read (about: {error}); make it again") from None
    return about


def load_features(paths: Sequence[Path], layers: Sequence[str]) -> Features:
    """The rows of several feature files, one a video: rows of clips are averaged over each video.

    Raises:
        FeatureError: A file cannot be read or lacks a layer, was made by another network or from other clips than the
            first, or has a video twice.
    """
    parts = []
    for path in paths:
        about = read_about(path)
        columns = read_columns(path, about)
        values = {layer: read_layer(path, layer, num_rows=len(columns["labels"])) for layer in layers}
        part = Features(about=about, **columns, layers=values)
        parts.append(average_videos(part) if about["per_clip"] else part)
        differing = [name for name in SAME_IN_ALL if about[name] != parts[0].about[name]]
        if differing:
            raise FeatureError(
                f"features: {paths[0]} and {path} differ in {', '.join(differing)}; extract both in the same way"
            )
    names = (*ROW_ARRAYS, "unreadable")
    whole = Features(
        about=parts[0].about,
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
        layers={layer: np.concatenate([part.layers[layer] for part in parts]) for layer in layers},
    )
    sources, counts = np.unique(whole.sources, return_counts=True)
    if counts.max(initial=1) > 1:
        raise FeatureError(f"features: {sources[counts.argmax()]} is in two of the files; give each video once")
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
