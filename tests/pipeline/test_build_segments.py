"""Long videos are stored in segments: the right frames, whatever else is there, and a line about every video."""

import hashlib
import itertools
import json
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.convert.samples import FROM_START, random_segments, uniform_segments
from res3d_video.pipeline.datasets import Listing, list_sports1m
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.tools.numbered import write_numbered_video
from tests.clips import stored_numbers, take
from tests.pipeline.datasets.test_sports1m import write_lists

SETTINGS = BuildSettings(size=64, samples_per_shard=3, segment_s=2.0)
NAMES = ("long", "two", "packed", "short", "both", "fast", "broken", "gone")
LONG, TWO, PACKED, SHORT, BOTH, FAST, BROKEN, GONE = (f"{name:_<11}" for name in NAMES)
FRAMES = {LONG: 300, TWO: 200, PACKED: 160, SHORT: 20, BOTH: 400, FAST: 220}
SMALL = {"height": 64, "width": 96}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Sports-1M of six numbered videos of 25 frames/s, one of 50; one broken and one missing."""
    raw = tmp_path_factory.mktemp("sports1m")
    (raw / "videos").mkdir()
    lines = {LONG: "2", TWO: "1,0", PACKED: "0", SHORT: "1", BOTH: "2,1", BROKEN: "0", GONE: "1"}
    train = [f"https://www.youtube.com/watch?v={name} {labels}\n" for name, labels in lines.items()]
    write_lists(raw, train="".join(train), test=f"{FAST} 0\n{BOTH} 2,1\n")
    x264 = {"preset": "fast", "g": 100, "bf": 2, **SMALL}
    for name, suffix, options in (
        (LONG, "mp4", x264), (TWO, "mkv", x264), (SHORT, "mp4", SMALL), (BOTH, "mp4", x264),
        (FAST, "mp4", {"fps": 50, **SMALL}),
        (PACKED, "avi", {"vcodec": "mpeg4", "bf": 2, **SMALL}),  # no times in it, so it is decoded from the start
    ):  # fmt: skip
        write_numbered_video(raw / f"videos/{name}.{suffix}", FRAMES[name], **options)
    (raw / f"videos/{BROKEN}.mp4").write_text("not a video")
    return raw


@pytest.fixture(scope="module")
def cut(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return build(list_sports1m(raw), tmp_path_factory.mktemp("cut"))


def build(listing: Listing, out: Path, settings: BuildSettings = SETTINGS, *, workers: int = 2) -> ShardIndex:
    build_shards(listing, out, settings, workers=workers)
    return open_index(out)


def name_of(index: ShardIndex, sample: int) -> str:
    return Path(index.source(sample)).stem


def metas(index: ShardIndex) -> list[dict]:
    """Every sample's key.json."""
    found = {}
    for name in index.tars:
        with tarfile.open(index.data_dir / name) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    found[member.name[:-5]] = json.load(tar.extractfile(member))
    return [found[index.key(sample)] for sample in range(index.num_samples)]


def test_a_segment_holds_the_frames_that_its_start_says(cut: ShardIndex) -> None:
    for sample, meta in enumerate(metas(cut)):
        start = meta["segment_start"]
        length = {SHORT: 20, FAST: 100}.get(name_of(cut, sample), 50)
        assert stored_numbers(cut, sample) == list(range(start, start + length))
        assert (meta["num_frames"], meta["num_frames_source"]) == (length, FRAMES[name_of(cut, sample)])
        assert (FROM_START in meta["warnings"]) == (name_of(cut, sample) == PACKED), "only this one has no times"


def test_training_videos_give_five_random_segments_test_videos_ten_even_ones(cut: ShardIndex) -> None:
    starts: dict[str, list[int]] = {}
    for sample, meta in enumerate(metas(cut)):
        starts.setdefault(name_of(cut, sample), []).append(meta["segment_start"])
        assert cut.key(sample) == f"{cut.key(sample)[:8]}-{len(starts[name_of(cut, sample)]) - 1:02d}"
    expected = {SHORT: [0]}
    for name in (LONG, TWO, PACKED):
        expected[name] = random_segments(name, count=5, length=50, video_frames=FRAMES[name], seed=0).tolist()
    for name, length in ((BOTH, 50), (FAST, 100)):
        expected[name] = uniform_segments(count=10, length=length, video_frames=FRAMES[name]).tolist()
    assert starts == expected
    for subset, names in {"test": {BOTH, FAST}, "train": {LONG, TWO, PACKED, SHORT}}.items():
        assert {name_of(cut, sample) for sample in cut.samples_of("1", subset)} == names


def test_the_manifest_says_what_became_of_every_listed_video(cut: ShardIndex) -> None:
    lines = [json.loads(line) for line in (cut.data_dir / "manifest.jsonl").read_text().splitlines()]
    found = {line["id"]: line for line in lines}
    assert len(found) == len(lines) == 8
    states = dict.fromkeys((LONG, TWO, PACKED, BOTH, FAST), "present")
    states |= {SHORT: "too short", BROKEN: "broken", GONE: "missing"}
    assert {name: line["state"] for name, line in found.items()} == states
    assert [name for name, line in found.items() if line.get("in_both_lists")] == [BOTH]
    assert {name for name, line in found.items() if line["subset"] == "test"} == {BOTH, FAST}
    counted = {"num_segments": 10, "num_frames": 220, "fps": 50.0}
    assert found[FAST] == {"id": FAST, "state": "present", "subset": "test", "source": f"videos/{FAST}.mp4"} | counted
    assert found[GONE] == {"id": GONE, "state": "missing", "subset": "train"}
    assert BROKEN in found[BROKEN]["reason"]


def test_all_labels_are_in_the_index(cut: ShardIndex, numbered: ShardIndex) -> None:
    expected = {LONG: [2], TWO: [1, 0], PACKED: [0], SHORT: [1], BOTH: [2, 1], FAST: [0]}
    rows = np.arange(cut.num_samples)
    for sample, labels in zip(rows, cut.all_labels(rows).tolist(), strict=True):
        assert [label for label in labels if label >= 0] == expected[name_of(cut, sample)]
        assert cut.labels[sample] == expected[name_of(cut, sample)][0]
    assert numbered.label_lists is None
    assert numbered.all_labels(np.array([3, 0])).tolist() == [[numbered.labels[3]], [numbered.labels[0]]]
    assert not list((numbered.data_dir / "index").glob("*labels*")), "one label a video: no file more"


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_batches_have_the_labels_that_the_plan_draws(cut: ShardIndex, world_size: int) -> None:
    plan = TrainPlan(cut, cut.samples_of("1", "train"), ClipSpec(4, 2, crop_size=32), global_batch_size=12, seed=0)
    ranks = []
    for rank in range(world_size):
        with ClipLoader(cut, plan, rank=rank, world_size=world_size) as loader:
            ranks.append(take(loader, 3))
    with ClipLoader(cut, plan) as loader:
        whole = take(loader, 3)
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert [label for part in parts for label in part.labels.tolist()] == batch.labels.tolist()
        for sample, label in zip(batch.samples.tolist(), batch.labels.tolist(), strict=True):
            assert label in cut.all_labels(np.array([sample]))[0]


@pytest.mark.parametrize("drop_odd", [False, True])
def test_h264_and_every_second_frame_go_with_segments(raw: Path, tmp_path: Path, drop_odd: bool) -> None:
    listing = list_sports1m(raw)
    one = replace(listing, records=[r for r in listing.records if r.group == LONG])
    index = build(one, tmp_path, BuildSettings(size=64, segment_s=1.0, codec="h264", drop_odd=drop_odd))
    starts = [meta["segment_start"] for meta in metas(index)]
    assert len(starts) == 5
    for sample, start in enumerate(starts):
        assert stored_numbers(index, sample) == list(range(start, start + 25, 2 if drop_odd else 1))


def test_a_file_that_ends_too_early_gives_segments_of_what_is_there(raw: Path, tmp_path: Path) -> None:
    """Its header still promises all frames; whichever way it is read, frames are those that their numbers say."""
    root = shutil.copytree(raw, tmp_path / "raw", ignore=shutil.ignore_patterns("*.mp4", "*.mkv", "*.avi"))
    path = root / f"videos/{LONG}.mp4"
    write_numbered_video(path, 300, movflags="faststart", preset="fast", g=50, bf=2, **SMALL)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    index = build(list_sports1m(root), tmp_path / "out")
    assert index.num_samples == 5
    for sample, meta in enumerate(metas(index)):
        numbers = list(range(meta["segment_start"], meta["segment_start"] + int(index.num_frames[sample])))
        assert stored_numbers(index, sample)[:-1] == numbers[:-1], "but for the very last frame, which is cut"
        assert 100 < meta["num_frames_source"] < 300


def test_segments_are_different_and_every_choice_of_places_comes_equally_often() -> None:
    """Two of four places: six choices, 4,000 draws."""
    names = [f"{i}" for i in range(4000)]
    drawn = Counter(tuple(random_segments(n, count=2, length=50, video_frames=53, seed=0).tolist()) for n in names)
    assert set(drawn) == set(itertools.combinations(range(4), 2))
    assert max(abs(count - 4000 / 6) for count in drawn.values()) < 100, "four standard deviations of 24"
    for video_frames in (1, 20, *range(50, 58)):
        starts = random_segments("x", count=5, length=50, video_frames=video_frames, seed=0).tolist()
        assert len(set(starts)) == len(starts) == min(5, max(video_frames - 49, 1))


def test_a_draw_is_the_one_that_the_hash_says() -> None:
    """By hand: a 128-bit Philox key from SHA-256; upper 32 bits of each word times the places that are left."""
    key = np.frombuffer(hashlib.sha256(b"3:UDqivjS-lpI").digest()[:16], "<u8")
    left, expected = list(range(8951)), []
    for word in np.random.Philox(key=key).random_raw(5):
        expected.append(left.pop((int(word) >> 32) * len(left) >> 32))
    starts = random_segments("UDqivjS-lpI", count=5, length=50, video_frames=9000, seed=3)
    assert starts.tolist() == sorted(expected)


def test_uniform_segments_reach_from_the_first_frame_to_the_last() -> None:
    for video_frames in range(50, 700):
        starts = uniform_segments(count=10, length=50, video_frames=video_frames)
        assert (starts[0], starts[-1]) == (0, video_frames - 50)
        assert len(starts) == min(10, video_frames - 49)
        assert np.diff(starts).max(initial=0) - np.diff(starts).min(initial=10**9) <= 1
    assert uniform_segments(count=10, length=50, video_frames=950).tolist() == list(range(0, 1000, 100))
    assert uniform_segments(count=3, length=9000, video_frames=27_000).tolist() == [0, 9000, 18_000]  # of minutes
