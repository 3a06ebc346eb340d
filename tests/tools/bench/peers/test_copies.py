"""tools/bench/peers/copies.py: H.264 files, encoded or taken out of shards, and a tar that WebDataset and DALI read."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import webdataset

from pipeline.shard import ShardIndex, open_index
from pipeline.shard_writer import tar_components
from tests.numbered import read_numbers
from tools.bench.measure import BenchError
from tools.bench.peers.copies import (
    FRAMES_PART,
    GOP,
    copies_folder,
    copies_note,
    copy_path,
    make_copies,
    make_tar,
    tar_path,
)


@pytest.fixture(scope="module")
def copies(numbered: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H.264 copies of all numbered segments."""
    folder = tmp_path_factory.mktemp("copies")
    make_copies(numbered, range(numbered.num_samples), folder, workers=2)
    return folder


def test_a_copy_shows_every_stored_frame_once_in_closed_gops(numbered: ShardIndex, copies: Path) -> None:
    for sample in range(numbered.num_samples):
        with av.open(str(copy_path(copies, numbered, sample))) as container:
            frames = list(container.decode(video=0))
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
        assert read_numbers(pictures.transpose(3, 0, 1, 2).astype(np.float32) - 128) == list(range(len(frames)))
        assert len(frames) == numbered.num_frames[sample]
        assert [i for i, frame in enumerate(frames) if frame.key_frame] == list(range(0, len(frames), GOP))


def test_a_copy_that_exists_is_not_made_again(numbered: ShardIndex, copies: Path) -> None:
    paths = [copy_path(copies, numbered, sample) for sample in range(numbered.num_samples)]
    before = [path.stat().st_mtime_ns for path in paths]
    make_copies(numbered, range(numbered.num_samples), copies, workers=1)
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_the_tar_holds_the_very_files_and_what_a_peer_must_know_of_them(numbered: ShardIndex, copies: Path) -> None:
    samples = np.array([0, 2, 7])
    tar = make_tar(numbered, samples, copies)
    found = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [numbered.key(int(sample)) for sample in samples]
    for sample, parts in zip(samples.tolist(), found, strict=True):
        assert parts["mp4"] == copy_path(copies, numbered, sample).read_bytes()
        assert json.loads(parts["json"]) == {
            "num_frames": numbered.num_frames[sample],
            "label": numbered.labels[sample],
            "content": numbered.content[sample].tolist(),
        }
        assert np.frombuffer(parts[FRAMES_PART], "<i4").tolist() == [numbered.num_frames[sample]]


def test_the_tars_index_names_the_place_of_every_part(numbered: ShardIndex, copies: Path) -> None:
    tar = make_tar(numbered, np.array([1, 3]), copies)
    first, *lines = tar.with_suffix(".idx").read_text().splitlines()
    assert first == "v1.2 2"
    places = {name: (offset, size) for name, offset, size in tar_components(tar)}
    for line in lines:
        words = line.split()
        assert {words[i] for i in range(0, len(words), 4)} == {"mp4", "json", FRAMES_PART}
        for i in range(0, len(words), 4):
            assert places[words[i + 3]] == (int(words[i + 1]), int(words[i + 2]))


def test_a_finished_tar_stays_and_other_samples_get_another(numbered: ShardIndex, copies: Path) -> None:
    some, others = np.array([4, 5]), np.array([4, 6])
    tar = make_tar(numbered, some, copies)
    before = tar.stat().st_mtime_ns
    assert make_tar(numbered, some, copies) == tar == tar_path(copies, some)
    assert tar.stat().st_mtime_ns == before
    assert make_tar(numbered, others, copies) != tar


def test_a_tar_that_cannot_be_finished_is_not_there(numbered: ShardIndex, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_tar(numbered, np.array([0]), tmp_path)  # no copies yet
    assert list(tmp_path.glob("*.tar")) == []
    assert list(tmp_path.glob(".*")) == []


def test_out_of_h264_shards_the_very_files_are_taken(numbered_h264: ShardIndex, tmp_path: Path) -> None:
    samples = np.array([1, 4, 5, 10])  # of three tars
    make_copies(numbered_h264, samples.tolist(), tmp_path, workers=2)
    tars = [str(path) for path in sorted(numbered_h264.data_dir.glob("*.tar"))]
    stored = {s["__key__"]: s["mp4"] for s in webdataset.WebDataset(tars, shardshuffle=False)}
    wanted = [numbered_h264.key(sample) for sample in samples.tolist()]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {f"{k}.mp4": stored[k] for k in wanted}
    found = webdataset.WebDataset(str(make_tar(numbered_h264, samples, tmp_path)), shardshuffle=False)
    assert [(sample["__key__"], sample["mp4"]) for sample in found] == [(key, stored[key]) for key in wanted]


def test_what_peers_read_is_said(numbered: ShardIndex, numbered_h264: ShardIndex, tmp_path: Path) -> None:
    assert copies_note(numbered) == "peers read H.264 copies (GOP 8, CRF 20, no B-frames); files are in the page cache"
    assert copies_note(numbered_h264).startswith(
        "peers read the bytes that ours reads, the mp4 files in the tars (GOP 8"
    )
    folders = [copies_folder(tmp_path, index).name for index in (numbered, numbered_h264)]
    assert [folder.split("-", 2)[2] for folder in folders] == ["gop8-crf20", "as-stored"]


def test_a_tar_that_is_gone_or_no_tar_is_one_line(numbered_h264: ShardIndex, tmp_path: Path) -> None:
    data = tmp_path / "shards"
    shutil.copytree(numbered_h264.data_dir, data)
    index, tar = open_index(data), data / numbered_h264.tars[0]
    tar.write_bytes(b"no tar")
    with pytest.raises(BenchError, match=r"numbered-000000\.tar: .*; run tools/check_shards\.py"):
        make_copies(index, [0], tmp_path / "copies", workers=1)
    tar.unlink()
    with pytest.raises(BenchError, match=r"numbered-000000\.tar: .*No such file.*; run tools/check_shards\.py"):
        make_copies(index, [0], tmp_path / "copies", workers=1)
    assert list((tmp_path / "copies").iterdir()) == []
