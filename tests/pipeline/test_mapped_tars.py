"""Strips come from the mapped tars as they were written, or not at all."""

import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.mapped_tars import PictureReader
from pipeline.shard import ShardError, ShardIndex, open_index


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


def test_nothing_is_copied(numbered: ShardIndex) -> None:
    reader = PictureReader(numbered)
    first, again = reader.read(np.array([3, 3]))
    assert first is not None
    assert again is not None
    assert np.shares_memory(first, again)
    assert not first.flags.writeable


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


def test_bytes_outlive_the_mapping_of_a_tar_that_gave_way_to_another(numbered: ShardIndex) -> None:
    reader, last = PictureReader(numbered, max_mapped_tars=1), len(numbered.pictures.tar) - 1
    assert numbered.pictures.tar[0] != numbered.pictures.tar[last]
    held = reader.read_one(0)
    assert held is not None
    before = held.tobytes()
    for strip in (last, 0, last):
        assert reader.read_one(strip) is not None
        assert len(reader._tars) == 1
    assert held.tobytes() == before


def test_fetching_changes_nothing_that_is_read_and_forgives_missing_tars(copy: ShardIndex) -> None:
    strips = np.arange(len(copy.pictures.tar))
    reader = PictureReader(copy)
    reader.fetch(strips)
    expected = PictureReader(copy).read(strips)
    assert all(np.array_equal(a, b) for a, b in zip(reader.read(strips), expected, strict=True))
    (copy.data_dir / copy.tars[0]).unlink()
    PictureReader(copy).fetch(strips)


def test_too_many_open_files_close_tars_and_damage_no_sample(numbered: ShardIndex) -> None:
    tars = numbered.pictures.tar
    one_of_each = np.array([int(np.flatnonzero(tars == tar)[0]) for tar in range(len(numbered.tars))])
    reader = PictureReader(numbered)
    assert reader.read_one(0) is not None
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [number for number in range(before[0]) if not os.path.exists(f"/proc/self/fd/{number}")]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[1] + 1, before[1]))  # two numbers: a tar more, and no third one
    try:
        found = [reader.read_one(strip) is not None for strip in one_of_each]
        num_open = len(reader._tars)
        with pytest.raises(ShardError, match=r"Too many open files, .*; raise the limit \(ulimit -n\)"):
            reader.read(one_of_each)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert all(found)
    assert num_open < len(numbered.tars), "or there was room for all"
