"""The shard format: other people's readers open it, and damage is said in one line."""

import contextlib
import json
import os
import shutil
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from nvidia.dali import Pipeline, fn
from wds2idx import IndexCreator

import res3d_video.pipeline.index
from res3d_video.pipeline.codecs import EncodedSegment, FrameRecord
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardError, ShardIndex, load_array, open_index
from res3d_video.pipeline.schema import ArraySpec
from res3d_video.pipeline.shard_writer import EncodedSample, TarShard, write_index
from res3d_video.pipeline.typed_json import SchemaError
from tests.hostile.damage import npy_bytes


def first_strip(index: ShardIndex, sample: int) -> np.ndarray:
    """The frames of a sample's first strip: even ones below 16."""
    return np.arange(0, min(int(index.num_frames[sample]), 16), 2)


def test_dali_s_own_webdataset_reader_reads_the_tars_with_our_idx(numbered: ShardIndex) -> None:
    tars = [str(numbered.data_dir / tar) for tar in numbered.tars]
    pipe = Pipeline(1, 1, None)
    with pipe:
        jpeg, meta = fn.readers.webdataset(
            paths=tars, index_paths=[tar.replace(".tar", ".idx") for tar in tars], ext=["000.jpg", "json"]
        )
        pipe.set_outputs(fn.decoders.image(jpeg), meta)
    pipe.build()
    for sample in range(numbered.num_samples):
        picture, meta = (np.array(output[0]) for output in pipe.run())
        expected = decode_frames(numbered, sample, first_strip(numbered, sample))
        assert np.array_equal(picture.reshape(-1, 128, 176, 3), expected)
        assert json.loads(meta.tobytes())["source"] == numbered.source(sample)


def test_the_idx_is_the_one_that_dali_s_tool_makes(numbered: ShardIndex, tmp_path: Path) -> None:
    for tar in numbered.tars:
        path = numbered.data_dir / tar
        with IndexCreator(str(path), str(tmp_path / "made.idx"), verbose=False) as creator:
            creator.create_index()
        assert path.with_suffix(".idx").read_bytes() == (tmp_path / "made.idx").read_bytes()


@pytest.mark.parametrize("large_bytes", [0, 2**23])
def test_rows_of_small_and_of_large_arrays_are_those_asked_for(
    numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch, large_bytes: int
) -> None:
    monkeypatch.setattr(res3d_video.pipeline.index, "LARGE_BYTES", large_bytes)
    index = open_index(numbered.data_dir)
    samples = np.array([3, 0, 0, 10])
    for name in ("tar", "offset", "first_frame", "frames"):
        assert np.array_equal(index.rows[name].take(samples), getattr(numbered, name)[samples])
    counts = index.num_frames[samples].astype(np.int64)
    expected = [numbered.frames[f : f + n] for f, n in zip(numbered.first_frame[samples], counts, strict=True)]
    assert np.array_equal(index.rows["frames"].take(numbered.first_frame[samples], counts), np.concatenate(expected))


def test_a_split_or_subset_that_does_not_exist_is_named(numbered: ShardIndex) -> None:
    with pytest.raises(ValueError, match="numbered: split 4 does not exist; choose 1"):
        numbered.samples_of("4", "train")
    with pytest.raises(ValueError, match="subset dev does not exist; choose train, test or val"):
        numbered.samples_of("1", "dev")
    with pytest.raises(ValueError, match="split 1 has no val sample"):
        numbered.samples_of("1", "val")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: shutil.rmtree(d), "no dataset.json, so no finished shards; make it with"),
        (lambda d: (d / "dataset.json").unlink(), "run the same tools/make_shards.py command again"),
        (lambda d: edit(d, format_version=1), "format version 1, this program reads 2; build the shards again"),
        (lambda d: (d / "index/label.npy").write_bytes(b"\x93NUMPY"), "label.npy: cannot be read"),
        (lambda d: np.save(d / "index/label.npy", np.zeros(3, np.int32)), r"\[3\] where dataset.json asks for int32"),
        (lambda d: np.save(d / "index/label.npy", np.array([{}], object)), "cannot be read"),
        (lambda d: save_version_2(d / "index/label.npy"), "no .npy file of version 1.0"),
        (lambda d: np.save(d / "index/key.npy", np.array([b"x" * 5000] * 11)), "cannot be read"),
        (lambda d: (d / "dataset.json").write_bytes(b'{"a":[' + b"[]," * 2**20 + b"0]}"), "too large; it may have"),
        (lambda d: os.truncate(d / "dataset.json", 2**26), "dataset.json: is longer than"),
        (lambda d: (d / "dataset.json").write_bytes(b'{"a":' * 10**5), "not JSON"),
    ],
)
def test_a_folder_that_is_not_a_whole_dataset_is_refused_in_one_line(
    numbered: ShardIndex, tmp_path: Path, damage: object, said: str
) -> None:
    shutil.copytree(numbered.data_dir, tmp_path / "data")
    damage(tmp_path / "data")
    with pytest.raises(ShardError, match=said) as error:
        open_index(tmp_path / "data")
    assert "\n" not in str(error.value)


def save_version_2(path: Path) -> None:
    """An array that is right but for its header's form, which would let it be four gigabytes long."""
    labels = np.load(path)
    with open(path, "wb") as file:
        np.lib.format.write_array(file, labels, version=(2, 0))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_tar_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    segment = EncodedSegment({"000.jpg": b"x"}, [FrameRecord("000.jpg", 0, 1, 0)])
    with pytest.raises(KeyError), TarShard(tmp_path / "a.tar") as tar:
        tar.add(EncodedSample("00000000", segment, {"label": 0}))
        raise KeyError("the disk is full")
    assert not list(tmp_path.iterdir())


PARTS = [*"(){}[]',#\n\\e=", "9" * 30, "-1", "1e9", "b'", "|O", "<i8", "lambda:0"]


def test_a_header_of_an_array_that_was_tampered_with_is_refused_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        content = bytearray(npy_bytes(np.arange(5, dtype=np.int32)))
        begin = int(rng.integers(10, 110))
        text = "".join(rng.choice(PARTS, int(rng.integers(1, 6)))).encode()[: 127 - begin]  # only the header changes
        content[begin : begin + len(text)] = text
        (tmp_path / "a.npy").write_bytes(content)
        with warnings.catch_warnings(), contextlib.suppress(SchemaError):
            warnings.simplefilter("error")
            assert load_array(tmp_path / "a.npy", ArraySpec(np.int32, (5,))).tolist() == [0, 1, 2, 3, 4]


def test_no_part_is_kept_when_the_next_is_read(numbered: ShardIndex, tmp_path: Path) -> None:
    texts = [path.read_text() for path in sorted((numbered.data_dir / "parts").glob("*.json"))] * 2
    head = {name: numbered.info[name] for name in ("name", "classes", "split_names", "codec", "settings")}

    class KeptPart(dict):
        """A part that can be watched."""

    class Watched:
        def __iter__(self) -> Iterator[dict]:
            earlier: list[weakref.ref] = []
            for number, text in enumerate(texts):
                assert not any(ref() for ref in earlier[:-1]), f"of {number} some are still there"
                kept = KeptPart(json.loads(text))
                earlier.append(weakref.ref(kept))
                yield kept
                del kept

    assert write_index(tmp_path, Watched(), head=head, missing=[])[0]["num_samples"] == 2 * numbered.num_samples
