"""Strips come from the mapped tars as they were written, or not at all."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.mapped_tars import StripReader
from pipeline.shard import ShardIndex, open_index


@pytest.fixture
def copy(numbered: ShardIndex, tmp_path: Path) -> ShardIndex:
    shutil.copytree(numbered.data_dir, tmp_path / "data")
    return open_index(tmp_path / "data")


def test_strips_are_the_tars_own_bytes_in_the_order_asked_for(numbered: ShardIndex) -> None:
    strips = np.random.default_rng(0).permutation(len(numbered.strip_tar)).repeat(2)
    for strip, data in zip(strips, StripReader(numbered).read(strips), strict=True):
        content = (numbered.data_dir / numbered.tars[numbered.strip_tar[strip]]).read_bytes()
        offset = int(numbered.strip_offset[strip])
        assert data is not None
        assert data.tobytes() == content[offset : offset + int(numbered.strip_size[strip])]
        assert data[:2].tobytes() == b"\xff\xd8"


def test_nothing_is_copied(numbered: ShardIndex) -> None:
    reader = StripReader(numbered)
    first, again = reader.read(np.array([3, 3]))
    assert first is not None
    assert again is not None
    assert np.shares_memory(first, again)
    assert not first.flags.writeable


def test_a_changed_byte_fails_that_strip_alone(copy: ShardIndex) -> None:
    tar, offset = copy.data_dir / copy.tars[copy.strip_tar[5]], int(copy.strip_offset[5])
    content = bytearray(tar.read_bytes())
    content[offset + 100] ^= 1
    tar.write_bytes(content)
    found = StripReader(copy).read(np.arange(4, 7))
    assert [data is None for data in found] == [False, True, False]


def test_bytes_past_the_end_of_a_cut_tar_are_none_and_so_is_a_missing_tar(copy: ShardIndex) -> None:
    tar, offset = copy.data_dir / copy.tars[copy.strip_tar[5]], int(copy.strip_offset[5])
    tar.write_bytes(tar.read_bytes()[:offset])
    assert StripReader(copy).read_one(5) is None
    assert StripReader(copy).read_one(4) is not None
    tar.unlink()
    assert StripReader(copy).read_one(5) is None


def test_bytes_outlive_the_mapping_of_a_tar_that_gave_way_to_another(numbered: ShardIndex) -> None:
    reader, last = StripReader(numbered, max_mapped_tars=1), len(numbered.strip_tar) - 1
    assert numbered.strip_tar[0] != numbered.strip_tar[last]
    held = reader.read_one(0)
    assert held is not None
    before = held.tobytes()
    for strip in (last, 0, last):
        assert reader.read_one(strip) is not None
        assert len(reader._tars) == 1
    assert held.tobytes() == before


def test_fetching_changes_nothing_that_is_read_and_forgives_missing_tars(copy: ShardIndex) -> None:
    strips = np.arange(len(copy.strip_tar))
    reader = StripReader(copy)
    reader.fetch(strips)
    expected = StripReader(copy).read(strips)
    assert all(np.array_equal(a, b) for a, b in zip(reader.read(strips), expected, strict=True))
    (copy.data_dir / copy.tars[0]).unlink()
    StripReader(copy).fetch(strips)
