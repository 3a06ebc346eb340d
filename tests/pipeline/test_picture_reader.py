"""Strips come from the tars as they were written, or not at all."""

import errno
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pipeline.picture_reader
from pipeline.picture_reader import PictureReader
from pipeline.shard import ShardError, ShardIndex, open_index
from pipeline.source.plain_file import open_plain


@pytest.fixture
def copy(numbered: ShardIndex, tmp_path: Path) -> ShardIndex:
    shutil.copytree(numbered.data_dir, tmp_path / "data")
    return open_index(tmp_path / "data")


def test_strips_are_the_tars_own_bytes_in_the_order_asked_for(numbered: ShardIndex) -> None:
    strips = np.random.default_rng(0).permutation(len(numbered.pictures.tar)).repeat(2)
    for strip, data in zip(strips, PictureReader(numbered).read(strips), strict=True):
        content = (numbered.data_dir / numbered.tars[numbered.pictures.tar[strip]]).read_bytes()
        offset = int(numbered.pictures.offset[strip])
        assert data is not None
        assert data.tobytes() == content[offset : offset + int(numbered.pictures.size[strip])]
        assert data[:2].tobytes() == b"\xff\xd8"


def test_a_changed_byte_fails_that_strip_alone(copy: ShardIndex) -> None:
    tar, offset = copy.data_dir / copy.tars[copy.pictures.tar[5]], int(copy.pictures.offset[5])
    content = bytearray(tar.read_bytes())
    content[offset + 100] ^= 1
    tar.write_bytes(content)
    found = PictureReader(copy).read(np.arange(4, 7))
    assert [data is None for data in found] == [False, True, False]


def test_bytes_past_the_end_of_a_cut_tar_are_none_and_so_is_a_missing_tar(copy: ShardIndex) -> None:
    tar, offset = copy.data_dir / copy.tars[copy.pictures.tar[5]], int(copy.pictures.offset[5])
    tar.write_bytes(tar.read_bytes()[:offset])
    assert PictureReader(copy).read_one(5) is None
    assert PictureReader(copy).read_one(4) is not None
    tar.unlink()
    assert PictureReader(copy).read_one(5) is None


def test_bytes_stay_when_their_tar_gave_way_to_another(numbered: ShardIndex) -> None:
    reader, last = PictureReader(numbered, max_open_tars=1), len(numbered.pictures.tar) - 1
    assert numbered.pictures.tar[0] != numbered.pictures.tar[last]
    held = reader.read_one(0)
    assert held is not None
    before = held.tobytes()
    for strip in (last, 0, last):
        assert reader.read_one(strip) is not None
        assert len(reader._tars) == 1
    assert held.tobytes() == before


def test_a_size_that_a_damaged_index_claims_takes_no_memory(copy: ShardIndex) -> None:
    sizes = np.array(copy.pictures.size)
    sizes[5] = 2**31 - 1
    reader = PictureReader(replace(copy, pictures=replace(copy.pictures, size=sizes)))
    tracemalloc.start()
    assert reader.read_one(5) is None
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_reading_goes_on_where_the_system_gave_less_than_asked_for(
    numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = PictureReader(numbered).read_one(0)
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, into, offset: whole(file, [into[0][:100]], offset))
    assert np.array_equal(PictureReader(numbered).read_one(0), expected)  # type: ignore[arg-type]


def test_a_disk_that_cannot_read_costs_the_picture(numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int, into: list[np.ndarray], offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    assert PictureReader(numbered).read_one(0) is None


def test_a_tar_that_is_cut_after_reading_takes_nothing_back(copy: ShardIndex) -> None:
    held = PictureReader(copy).read_one(5)
    assert held is not None
    before = held.tobytes()
    os.truncate(copy.data_dir / copy.tars[copy.pictures.tar[5]], 0)
    assert held.tobytes() == before


def test_fetching_changes_nothing_that_is_read_and_forgives_missing_tars(copy: ShardIndex) -> None:
    strips = np.arange(len(copy.pictures.tar))
    reader = PictureReader(copy)
    reader.fetch(strips)
    expected = PictureReader(copy).read(strips)
    assert all(np.array_equal(a, b) for a, b in zip(reader.read(strips), expected, strict=True))
    (copy.data_dir / copy.tars[0]).unlink()
    PictureReader(copy).fetch(strips)


def test_too_many_open_files_close_tars_and_damage_no_sample(
    numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars = numbered.pictures.tar
    one_of_each = np.array([int(np.flatnonzero(tars == tar)[0]) for tar in range(len(numbered.tars))])
    assert len(one_of_each) > 2
    reader, allowed = PictureReader(numbered), 2

    def open_if_allowed(path: Path) -> int:
        if len(reader._tars) >= allowed:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_plain(path)

    monkeypatch.setattr(pipeline.picture_reader, "open_plain", open_if_allowed)
    assert all(data is not None for data in reader.read(one_of_each.repeat(2)))
    assert len(reader._tars) <= allowed
    allowed = 0
    reader._tars.clear()
    with pytest.raises(ShardError, match=r"Too many open files, .*; raise the limit \(ulimit -n\)"):
        reader.read(one_of_each)
