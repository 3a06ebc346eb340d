"""Disks that hang, and files that change while they are read: an error or a replacement, never a hang or a crash."""

import threading

import numpy as np
import pytest

import res3d_video.pipeline.reader
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import ClipLoader, LoaderError, LoaderSettings
from tests.chaos.ledger import wait_until
from tests.clips import train_plan


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
