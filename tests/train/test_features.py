"""Feature files: written in parts, read as one; files that are damaged or of others."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from res3d_video.train.evaluation.features import FeatureError, Features, load_features, save_features
from tests.features import ABOUT, made_features


def features_of(*videos: str, first: float = 0.0, **changes: object) -> Features:
    res5b, pool5 = (np.arange(d * len(videos), dtype=np.float64).reshape(-1, d) for d in (3, 2))
    return made_features(videos, {"res5b": first + res5b, "pool5": first - pool5}, **changes)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_written_is_read(tmp_path: Path, dtype: type) -> None:
    subsets = np.array([[1, 2], [2, 0], [0, 0], [0, 1]], np.int8)
    written = features_of("a", "bé", "c", "d", unreadable=np.array(["ü", "x y"]), subsets=subsets)
    layers = {layer: (values / 3).astype(dtype) for layer, values in written.layers.items()}
    written = dataclasses.replace(written, layers=layers)
    path = tmp_path / "f.parquet"
    save_features(path, written)
    found = load_features(path, ["res5b", "pool5"])
    assert found.about == written.about
    for field in dataclasses.fields(found):
        if field.name not in ("about", "layers"):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(written, field.name))
    for name, values in found.layers.items():
        np.testing.assert_array_equal(values, layers[name])
        assert values.dtype == dtype
    assert list(tmp_path.iterdir()) == [path]


def test_pyarrow_alone_reads_a_file_or_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_features(tmp_path / "f.parquet", features_of("a", "b"))
    table = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "f.parquet")
    assert table.to_pylist()[1] == {
        "key": "b", "source": "b", "group": "g1", "label": 1, "class": "right", "subset": ["test", "train"],
        "num_clips": 1, "start": 10, "res5b": [3.0, 4.0, 5.0], "pool5": [-2.0, -3.0],
    }  # fmt: skip
    assert json.loads(table.schema.metadata[b"about"]) == ABOUT | {"layers": ["res5b", "pool5"]}

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FeatureError, match=r"f.parquet: pyarrow is not installed; pip install -e '.\[features\]'"):
        save_features(tmp_path / "f.parquet", features_of("a"))


def write_parts(folder: Path, *parts: Features) -> Path:
    for number, part in enumerate(parts):
        about = part.about | {"num_parts": len(parts)}
        save_features(folder / f"{number:06}.parquet", dataclasses.replace(part, about=about))
    return folder


def test_parts_are_read_as_one(tmp_path: Path) -> None:
    empty = features_of(unreadable=np.array(["x"]))
    folder = write_parts(tmp_path / "f.parquet", features_of("a", "b"), empty, features_of("a longer name", first=5))
    whole = load_features(folder, ["res5b", "pool5"])
    assert whole.sources.tolist() == ["a", "b", "a longer name"]
    assert whole.layers["res5b"].tolist() == [[0, 1, 2], [3, 4, 5], [5, 6, 7]]
    assert whole.layers["pool5"].tolist() == [[0, -1], [-2, -3], [5, 4]]
    assert whole.unreadable.tolist() == ["x"]
    assert pytest.importorskip("pyarrow.parquet").read_table(folder)["source"].to_pylist() == whole.sources.tolist()
    (folder / "000001.parquet").unlink()
    with pytest.raises(FeatureError, match=r"f.parquet has 2 of 3 parts; run the same extraction again"):
        load_features(folder, ["pool5"])


def test_clips_are_averaged_over_their_video_in_the_order_of_first_clips(tmp_path: Path) -> None:
    save_features(tmp_path / "f.parquet", features_of("z", "z", "a", "z", about={"per_clip": True}))
    clips = load_features(tmp_path / "f.parquet", ["res5b"])
    videos = clips.of_videos()
    assert (videos.sources.tolist(), videos.num_clips.tolist()) == (["z", "a"], [3, 1])
    assert videos.labels.tolist() == clips.labels[[0, 2]].tolist()
    assert videos.layers["res5b"].tolist() == [[4, 5, 6], [6, 7, 8]]  # rows of z: (0, 1, 2), (3, 4, 5), (9, 10, 11)


def test_errors_of_a_file_name_it_and_the_way_out(tmp_path: Path) -> None:
    path, pq = tmp_path / "f.parquet", pytest.importorskip("pyarrow.parquet")

    def refused(message: str, *layers: str) -> None:
        with pytest.raises(FeatureError, match=f"{path.name} {message}"):
            load_features(path, layers)

    refused("does not exist; make it with tools/extract_features.py")
    save_features(path, features_of("a"))
    refused("has no fc6; choose res5b, pool5", "fc6")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no zip at all", whole[:200] + b"\0\0\0\0" + whole[204:]):
        path.write_bytes(damaged)
        refused("cannot be read", "pool5")
    save_features(path, features_of("a", about={"format": 2}))
    refused("has format 2, this version reads 1")
    save_features(path, features_of(unreadable=np.array(["a", "b"])))
    refused("has no row, for none of 2 videos could be decoded; run tools/", "pool5")
    for row in ([np.nan, 1.0], [np.inf, 1.0]):
        save_features(path, made_features(["a"], {"pool5": np.array([row])}))
        refused(r"cannot be read \(values that are not finite\); make it again", "pool5")
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    refused("has no metadata 'about'; make it with tools/extract_features.py")


def test_test_videos_that_the_network_was_trained_on_are_counted() -> None:
    of_ucf = ABOUT["checkpoint"] | {"data": {"name": "ucf"}}
    features = features_of("a", "b", "c", "d", about={"checkpoint": of_ucf})
    # trained on split 1's even rows, which are the test side of split 2
    assert (features.num_test_seen("1"), features.num_test_seen("2")) == (0, 2)
    assert features_of("a", "b", "c", "d").num_test_seen("2") == 0  # from another dataset
