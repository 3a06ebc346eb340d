"""Feature files: written in parts, read as one; files that do not belong together."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from res3d_video.train.evaluation.features import (
    FeatureError,
    FeatureFile,
    Features,
    average_videos,
    load_features,
    read_rows,
    save_features,
)
from tests.parquet import write_parquet

DATA = {
    "name": "ucf",
    "fingerprint": "1f3a9c55",
    "classes": ["left", "right"],
    "split_names": ["1", "2"],
    "num_videos": {"1": {"train": 2, "test": 2}, "2": {"train": 2, "test": 2}},
}
ABOUT: dict[str, Any] = {
    "format": 1,
    "checkpoint": {"fingerprint": "0a1b2c3d", "step": 2, "data": {"name": "sports1m"}, "split": "1"},
    "data": DATA,
    "clip": {"num_frames": 8},
    "mean": 128.0,
    "std": 1.0,
    "compute": "float32",
    "per_clip": False,
    "layers": ["res5b", "pool5"],
}


def features_of(*videos: str, first: float = 0.0, **about: Any) -> Features:
    """A row a name; split 1 trains on the even rows and tests on the odd ones, split 2 the other way around."""
    rows = np.arange(len(videos))
    return Features(
        about=ABOUT | about,
        keys=np.array([f"{video}.0" for video in videos]),
        sources=np.array(videos),
        groups=np.array(["g1"] * len(videos)),
        labels=rows % 2,
        subsets=np.stack([1 + rows % 2, 2 - rows % 2], axis=1).astype(np.int8),
        num_clips=np.ones(len(videos), np.int64),
        starts=10 * rows,
        unreadable=np.array([], np.str_),
        layers={
            "res5b": first + np.arange(3.0 * len(videos), dtype=np.float32).reshape(-1, 3),
            "pool5": first - np.arange(2.0 * len(videos), dtype=np.float32).reshape(-1, 2),
        },
    )


def same(a: Features, b: Features) -> None:
    assert a.about == b.about
    for field in dataclasses.fields(a):
        if field.name not in ("about", "layers"):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))
    for name in a.layers:
        np.testing.assert_array_equal(a.layers[name], b.layers[name])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_written_is_read(tmp_path: Path, dtype: type) -> None:
    written = features_of("a", "bé", "c", "d")
    layers = {layer: (values / 3).astype(dtype) for layer, values in written.layers.items()}
    subsets = np.array([[1, 2], [2, 0], [0, 0], [0, 1]], np.int8)
    written = dataclasses.replace(written, layers=layers, subsets=subsets, unreadable=np.array(["ü", "x y"]))
    path = tmp_path / "f.parquet"
    save_features(path, written)
    found = load_features([path], ["res5b", "pool5"])
    same(found, written)
    assert (found.labels.dtype, found.subsets.dtype, found.keys.dtype.kind) == (np.int64, np.int8, "U")
    assert {values.dtype for values in found.layers.values()} == {np.dtype(dtype)}
    assert (FeatureFile(path).num_dims("res5b"), FeatureFile(path).num_dims("pool5")) == (3, 2)
    assert list(tmp_path.iterdir()) == [path]


def test_pyarrow_alone_reads_a_parquet_file(tmp_path: Path) -> None:
    save_features(tmp_path / "f.parquet", features_of("a", "b"))
    table = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "f.parquet")
    assert table.to_pylist()[1] == {
        "key": "b.0", "source": "b", "group": "g1", "label": 1, "class": "right", "subset": ["test", "train"],
        "num_clips": 1, "start": 10, "res5b": [3.0, 4.0, 5.0], "pool5": [-2.0, -3.0],
    }  # fmt: skip
    assert json.loads(table.schema.metadata[b"about"]) == ABOUT


def test_names_and_features_of_rows_alone_are_read(tmp_path: Path) -> None:
    save_features(tmp_path / "f.parquet", features_of("a", "b"))
    keys, values = read_rows(tmp_path / "f.parquet", layers=["pool5"], names=("source", "key"))
    assert (keys, values["pool5"].tolist()) == (["a", "b"], [[0.0, -1.0], [-2.0, -3.0]])


def test_rows_that_another_program_wrote_as_lists_of_any_length_are_read_too(tmp_path: Path) -> None:
    write_parquet(tmp_path / "f.parquet", key=["a", "b"], pool5=[[1.0, 2.0], [3.0, 4.0]])
    keys, values = read_rows(tmp_path / "f.parquet", layers=["pool5"], names=("source", "key"))
    assert (keys, values["pool5"].tolist()) == (["a", "b"], [[1.0, 2.0], [3.0, 4.0]])


def test_a_file_that_wants_pyarrow_says_so_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FeatureError, match=r"f.parquet: pyarrow is not installed; pip install -e '.\[features\]'"):
        save_features(tmp_path / "f.parquet", features_of("a"))


def write_parts(folder: Path, *parts: Features) -> Path:
    for number, part in enumerate(parts):
        about = part.about | {"num_parts": len(parts)}
        save_features(folder / f"{number:06}.parquet", dataclasses.replace(part, about=about))
    return folder


def test_parts_are_read_as_one(tmp_path: Path) -> None:
    empty = dataclasses.replace(features_of(), unreadable=np.array(["x"]))
    folder = write_parts(tmp_path / "f.parquet", features_of("a", "b"), empty, features_of("a longer name", first=5))
    whole = load_features([folder], ["res5b", "pool5"])
    assert whole.sources.tolist() == ["a", "b", "a longer name"]
    assert whole.layers["res5b"].tolist() == [[0, 1, 2], [3, 4, 5], [5, 6, 7]]
    assert whole.layers["pool5"].tolist() == [[0, -1], [-2, -3], [5, 4]]
    assert whole.unreadable.tolist() == ["x"]
    assert pytest.importorskip("pyarrow.parquet").read_table(folder)["source"].to_pylist() == whole.sources.tolist()
    (folder / "000001.parquet").unlink()
    with pytest.raises(FeatureError, match=r"f.parquet has 2 of 3 parts; run the same extraction again"):
        read_rows(folder, layers=["pool5"])


def test_a_dataset_of_which_nothing_decodes_is_an_error(tmp_path: Path) -> None:
    empty = dataclasses.replace(features_of(), unreadable=np.array(["a", "b"]))
    folder = write_parts(tmp_path / "f.parquet", empty)
    with pytest.raises(FeatureError, match="f.parquet has no row, for none of 2 videos could be decoded; run tools/"):
        load_features([folder], ["pool5"])


def test_an_npz_of_an_earlier_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", x=np.zeros(3))
    with pytest.raises(FeatureError, match="f.npz is no longer read; extract the features again, to a .parquet"):
        load_features([tmp_path / "f.npz"], ["pool5"])


def test_clips_are_averaged_over_their_video_in_the_order_of_first_clips(tmp_path: Path) -> None:
    clips = features_of("z", "z", "a", "z", per_clip=True)
    videos = average_videos(clips)
    assert videos.sources.tolist() == ["z", "a"]
    assert videos.num_clips.tolist() == [3, 1]
    assert videos.labels.tolist() == clips.labels[[0, 2]].tolist()
    # rows of z: (0, 1, 2), (3, 4, 5), (9, 10, 11)
    assert videos.layers["res5b"].tolist() == [[4, 5, 6], [6, 7, 8]]
    save_features(tmp_path / "clips.parquet", clips)
    assert load_features([tmp_path / "clips.parquet"], ["res5b"]).layers["res5b"].tolist() == [[4, 5, 6], [6, 7, 8]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"checkpoint": ABOUT["checkpoint"] | {"fingerprint": "ffff"}},
            "one.parquet and .*two.parquet differ in checkpoint; extract both",
        ),
        ({"clip": {"num_frames": 16}, "compute": "bfloat16"}, "differ in clip, compute"),
        ({}, "b is twice in .*one.parquet, .*two.parquet; give each video once"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, other: dict, message: str) -> None:
    save_features(tmp_path / "one.parquet", features_of("a", "b"))
    save_features(tmp_path / "two.parquet", features_of("b", "c", **other))
    with pytest.raises(FeatureError, match=message):
        load_features([tmp_path / "one.parquet", tmp_path / "two.parquet"], ["pool5"])


def test_errors_of_a_file_name_it_and_the_way_out(tmp_path: Path) -> None:
    path, name = tmp_path / "f.parquet", "f.parquet"
    with pytest.raises(FeatureError, match=f"{name} does not exist; make it with tools/extract_features.py"):
        FeatureFile(path)
    save_features(path, features_of("a"))
    with pytest.raises(FeatureError, match=f"{name} has no fc6; choose res5b, pool5"):
        load_features([path], ["fc6"])
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no zip at all", whole[:200] + b"\0\0\0\0" + whole[204:]):
        path.write_bytes(damaged)
        with pytest.raises(FeatureError, match=f"{name} cannot be read"):
            load_features([path], ["pool5"])
    save_features(path, features_of("a", format=2))
    with pytest.raises(FeatureError, match="has format 2, this version reads 1"):
        FeatureFile(path).about()


def test_a_file_that_is_not_one_of_features_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "f.parquet", x=[1])
    with pytest.raises(FeatureError, match="f.parquet has no metadata 'about'; make it with tools/extract_features.py"):
        load_features([tmp_path / "f.parquet"], [])
    with pytest.raises(FeatureError, match="f.parquet has no column 'key'; make it with tools/extract_features.py"):
        read_rows(tmp_path / "f.parquet", layers=["pool5"])


def test_missing_videos_of_a_split_are_counted() -> None:
    features = features_of("a", "b", "c", "d")
    assert [features.num_missing(split) for split in ("1", "2")] == [0, 0]
    assert features.select(np.array([0, 1, 2])).num_missing("1") == 1


def test_test_videos_that_the_network_was_trained_on_are_counted() -> None:
    of_ucf = ABOUT["checkpoint"] | {"data": {"name": "ucf"}}
    features = features_of("a", "b", "c", "d", checkpoint=of_ucf)
    # trained on split 1's even rows, which are the test side of split 2
    assert (features.num_test_seen("1"), features.num_test_seen("2")) == (0, 2)
    assert features_of("a", "b", "c", "d").num_test_seen("2") == 0  # from another dataset
