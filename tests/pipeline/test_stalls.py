"""Disks that hang, and files that change while they are read: an error or a replacement, never a hang or a crash."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import res3d_video.pipeline.reader
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader, LoaderError, LoaderSettings
from res3d_video.pipeline.reader import StepReader
from tests.chaos.ledger import wait_until
from tests.clips import take, train_plan


@pytest.fixture
def copied(shards: ShardIndex, tmp_path: Path) -> ShardIndex:
    shutil.copytree(shards.data_dir, tmp_path / "shards")
    return open_index(tmp_path / "shards")


def test_a_disk_that_hangs_ends_the_loader_and_the_message_says_where(
    numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(res3d_video.pipeline.reader, "read_into", lambda *place, size: goes_on.wait() and False)
    loader = ClipLoader(numbered, train_plan(numbered), settings=LoaderSettings(stall_timeout_s=3))
    with pytest.raises(LoaderError) as caught:
        next(iter(loader))
    goes_on.set()
    message = str(caught.value)
    first = int(train_plan(numbered).batch(0).sample[0])
    tar = numbered.tars[numbered.tar_of(np.array([first]))[0]]
    assert message.startswith(f"no batch for 3 s: reading {tar} for step 0, row {first} of the index; look at")
    for thread in threading.enumerate():
        if thread.name == "clip-loader":  # it was left behind
            thread.join(timeout=30)
            assert not thread.is_alive()


def test_a_loader_whose_disk_hangs_can_be_closed(numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, is_reading = threading.Event(), threading.Event()

    def hang(*place: object, size: int) -> bool:
        is_reading.set()
        goes_on.wait()
        return False

    settings = LoaderSettings(prefetch=1, queue_depth=1, read_ahead=0, stall_timeout_s=3)
    with ClipLoader(numbered, train_plan(numbered), settings=settings) as loader:
        next(iter(loader))
        wait_until(loader._prefetcher._ready.full, "a batch that waits")  # type: ignore[union-attr]
        monkeypatch.setattr(res3d_video.pipeline.reader, "read_into", hang)
        next(iter(loader))  # is there, and makes room for those that hang
        assert is_reading.wait(timeout=30)
    goes_on.set()


def test_without_a_limit_a_loader_waits(shards: ShardIndex) -> None:
    with ClipLoader(shards, train_plan(shards), settings=LoaderSettings(stall_timeout_s=0)) as loader:
        assert len(take(loader, 2)) == 2


def test_a_tar_that_is_cut_between_two_steps_costs_its_samples_and_not_the_process(copied: ShardIndex) -> None:
    reader = StepReader(copied, train_plan(copied), rows=slice(0, 12))
    reader.read(0)
    cut = copied.data_dir / copied.tars[0]
    os.truncate(cut, cut.stat().st_size // 4)
    assert sum(reader.read(step).num_replaced for step in range(1, 9)) > 0
    assert set(copied.tar_of(np.array(sorted(reader.bad))).tolist()) == {0}


def test_a_tar_that_cannot_be_opened_costs_its_samples_and_they_are_named(copied: ShardIndex) -> None:
    (copied.data_dir / copied.tars[0]).unlink()
    (copied.data_dir / copied.tars[0]).mkdir()  # nobody can read this, not even root
    with ClipLoader(copied, train_plan(copied)) as loader:
        take(loader, 4)
        assert loader.num_replaced > 0
        assert loader.bad_samples
