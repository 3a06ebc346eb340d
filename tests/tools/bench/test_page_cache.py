"""tools/bench/machine.py: what is in the page cache, and out of it again."""

import mmap
import os
from pathlib import Path

import pytest

from res3d_video.tools.bench import machine
from res3d_video.tools.bench.machine import bytes_from_disk, drop, resident_share


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shard.tar"
    path.write_bytes(os.urandom(100 * mmap.PAGESIZE - 7))
    return path


def test_a_file_just_written_is_in_the_page_cache(file: Path) -> None:
    assert resident_share([file]) == 1.0
    assert resident_share([file, file]) == 1.0


def test_a_dropped_file_is_not_and_reading_some_of_it_brings_some_back(file: Path) -> None:
    drop([file])
    if resident_share([file]) == 1.0:
        pytest.skip(f"{file.parent}: its file system keeps files in memory")
    assert resident_share([file]) == 0.0
    before = bytes_from_disk()
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
        os.pread(opened.fileno(), 10, 50 * mmap.PAGESIZE)
    share = resident_share([file])
    assert share is not None
    assert 0.0 < share < 1.0
    after = bytes_from_disk()
    if before is not None and after is not None:
        assert after - before >= mmap.PAGESIZE


def test_what_cannot_be_known_is_none(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resident_share([]) is None
    assert resident_share([file, tmp_path / "absent.tar"]) is None
    (tmp_path / "empty.tar").touch()
    assert resident_share([tmp_path / "empty.tar"]) is None
    monkeypatch.setattr(machine.os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    assert resident_share([file]) is None  # Linux calls the files of others resident
    monkeypatch.setattr(machine, "PROCESS_IO", tmp_path / "absent")
    assert bytes_from_disk() is None
