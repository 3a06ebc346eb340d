"""Two hundred damaged and hostile videos in one build: each gives its frames or a line that says why not."""

import gc
import json
import os
import socket
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import Listing, VideoRecord
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.ingest.limits import Limits
from tests.clips import stored_numbers
from tests.hostile.videos import (
    ALL,
    FIRST,
    MOST,
    NONE,
    NUM_FRAMES,
    Hostile,
    add_cut,
    add_flipped,
    add_huge,
    add_no_videos,
    add_playlists,
    add_turned,
    add_whole,
    originals,
)

LIMITS = Limits(max_frames=300, max_duration_s=3600, max_wall_s=20, max_cpu_s=20, max_memory_mb=1000)
MB = 10**6


@dataclass
class Built:
    """What a build made of hostile files."""

    hostile: Hostile
    index: ShardIndex
    quarantine: dict[str, dict]
    requests: int

    def frames(self) -> dict[str, list[int]]:
        """The numbers that the stored frames show, of each file that was accepted."""
        return {
            self.index.source(sample).removeprefix("one/"): stored_numbers(self.index, sample)
            for sample in range(self.index.num_samples)
        }


def listing_of(hostile: Hostile) -> Listing:
    """All files as videos of one class, whatever an adapter would think of them."""
    records = [
        VideoRecord(hostile.folder.parent, f"one/{name}", "one", 0, name, ("train",))
        for name in sorted(hostile.expected)
    ]
    return Listing("hostile", ["one"], ["1"], records, [], [])


def build(tmp_path: Path, *, some: bool, keep_aspect: bool) -> Built:
    """Make the files and build them, while a server listens whose address is in many of them."""
    (tmp_path / "raw/one").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "originals").mkdir()
    hostile, settings = Hostile(tmp_path / "raw/one"), BuildSettings(keep_aspect=keep_aspect)
    videos = originals(tmp_path / "originals")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/whole.ts"
        targets = [address, "/etc/passwd", str(tmp_path / "originals/original.ts"), "whole.ts"]
        add_whole(hostile, videos, some=some)
        add_cut(hostile, videos, some=some)
        add_flipped(hostile, videos, count=0 if some else 10)
        add_playlists(hostile, targets, some=some)
        add_no_videos(hostile, videos, tmp_path / "outside")
        add_turned(hostile, videos, count=4 if some else 20)
        if not some:
            add_huge(hostile, videos)
        build_shards(listing_of(hostile), tmp_path / "out", settings, workers=2, limits=LIMITS)
        requests = 0
        with pytest.raises(BlockingIOError):
            while server.accept():
                requests += 1
    lines = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    quarantine = {line["source"].removeprefix("one/"): line for line in lines}
    return Built(hostile, open_index(tmp_path / "out"), quarantine, requests)


def check(built: Built) -> None:
    """Every file gave frames or a line, and those that must give frames gave the right ones."""
    frames = built.frames()
    assert sorted([*frames, *built.quarantine]) == sorted(built.hostile.expected), "each is accounted for, once"
    assert built.requests == 0, "nothing was asked of the server"
    wrong = {}
    for name, expected in built.hostile.expected.items():
        got = frames.get(name)
        if (
            (expected == ALL and got != list(range(NUM_FRAMES)))
            or (expected == NONE and got is not None)
            or (expected == FIRST and got is not None and got[:-1] != list(range(len(got) - 1)))
            or (expected == MOST and got is not None and len(set(got) & set(range(NUM_FRAMES))) < NUM_FRAMES - 4)
            or (got is not None and not 1 <= len(got) <= 2 * NUM_FRAMES)
        ):
            wrong[name] = (expected, got, built.quarantine.get(name, {}).get("reason"))
    assert not wrong
    for line in built.quarantine.values():
        assert line["stage"] in ("open", "probe", "decode", "encode", "limit")
        assert line["reason"]
        assert "\n" not in line["reason"].replace("two\nlines", "")


@dataclass(frozen=True)
class Held:
    """What this process holds of the machine."""

    descriptors: frozenset[str]
    children: frozenset[int]
    threads: int
    temporary: frozenset[str]

    @classmethod
    def now(cls) -> "Held":
        gc.collect()
        return cls(
            frozenset(os.listdir("/proc/self/fd")),
            frozenset(child.pid for child in psutil.Process().children(recursive=True)),
            threading.active_count(),
            frozenset(os.listdir(tempfile.gettempdir())),
        )


@pytest.mark.parametrize(("some", "keep_aspect"), [(True, True), pytest.param(False, False, marks=pytest.mark.slow)])
def test_every_hostile_video_gives_its_frames_or_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, some: bool, keep_aspect: bool
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    before, memory = Held.now(), psutil.Process().memory_info().rss
    built = build(tmp_path, some=some, keep_aspect=keep_aspect)
    check(built)
    assert len(built.hostile.expected) >= (40 if some else 200)
    del built
    after = Held.now()
    assert len(after.descriptors - before.descriptors) <= 1, "but for the folder that is being listed"
    assert (after.children, after.threads, after.temporary) == (before.children, before.threads, before.temporary)
    assert (
        psutil.Process().memory_info().rss - memory < (400 if keep_aspect else 200) * MB
    )  # tiles of 8:1 and 1:8 together
