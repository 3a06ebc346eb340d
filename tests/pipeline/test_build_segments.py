"""Long videos are stored in segments: the right frames, whatever else is there, and a line about every video."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.convert.samples import FROM_START, random_segments, uniform_segments
from res3d_video.pipeline.datasets import Listing, list_sports1m
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.pipeline.verify import verify
from res3d_video.tools.numbered import number_of, read_bits, write_numbered_video
from tests.clips import take
from tests.pipeline.test_build import contents

SETTINGS = BuildSettings(size=64, samples_per_shard=3, segment_s=2.0)
LONG, TWO, PACKED, SHORT, BOTH, FAST, BROKEN, GONE = (
    f"{name:_<11}" for name in ("long", "two", "packed", "short", "both", "fast", "broken", "gone")
)
FRAMES = {LONG: 300, TWO: 200, PACKED: 160, SHORT: 20, BOTH: 400, FAST: 220}
SMALL = {"height": 64, "width": 96}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Sports-1M of six numbered videos of 25 frames/s, one of 50; one broken and one missing."""
    raw = tmp_path_factory.mktemp("sports1m")
    (raw / "videos").mkdir()
    (raw / "original").mkdir()
    (raw / "labels.txt").write_text("boomerang\nboxing\nbowling\n")
    lines = {LONG: "2", TWO: "1,0", PACKED: "0", SHORT: "1", BOTH: "2,1", BROKEN: "0", GONE: "1"}
    train = [f"https://www.youtube.com/watch?v={name} {labels}\n" for name, labels in lines.items()]
    (raw / "original/train_partition.txt").write_text("".join(train))
    (raw / "original/test_partition.txt").write_text(f"{FAST} 0\n{BOTH} 2,1\n")
    x264 = {"preset": "fast", "g": 100, "bf": 2, **SMALL}
    for name, suffix, options in (
        (LONG, "mp4", x264),
        (TWO, "mkv", x264),
        (PACKED, "avi", {"vcodec": "mpeg4", "bf": 2, **SMALL}),  # no times in it, so it is decoded from the start
        (SHORT, "mp4", SMALL),
        (BOTH, "mp4", x264),
        (FAST, "mp4", {"fps": 50, **SMALL}),
    ):
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


def shown(index: ShardIndex, sample: int) -> list[int]:
    left, top, width, height = index.content[sample]
    frames = decode_frames(index, sample)[:, top : top + height, left : left + width]
    return [number_of(read_bits(frame, scale=width / 171, grey=128)) for frame in frames]


def test_a_segment_holds_the_frames_that_its_start_says(cut: ShardIndex) -> None:
    for sample, meta in enumerate(metas(cut)):
        start = meta["segment_start"]
        length = {SHORT: 20, FAST: 100}.get(name_of(cut, sample), 50)
        assert shown(cut, sample) == list(range(start, start + length))
        assert (meta["num_frames"], meta["num_frames_source"]) == (length, FRAMES[name_of(cut, sample)])
        assert (FROM_START in meta["warnings"]) == (name_of(cut, sample) == PACKED), "only this one has no times"


def test_training_videos_give_five_random_segments_test_videos_ten_even_ones(cut: ShardIndex) -> None:
    starts: dict[str, list[int]] = {}
    for sample, meta in enumerate(metas(cut)):
        starts.setdefault(name_of(cut, sample), []).append(meta["segment_start"])
        assert cut.key(sample) == f"{cut.key(sample)[:8]}-{len(starts[name_of(cut, sample)]) - 1:02d}"
    random = {
        name: random_segments(name, count=5, length=50, video_frames=FRAMES[name], seed=0).tolist()
        for name in (LONG, TWO, PACKED)
    }
    assert starts == random | {
        SHORT: [0],
        BOTH: uniform_segments(count=10, length=50, video_frames=400).tolist(),
        FAST: uniform_segments(count=10, length=100, video_frames=220).tolist(),
    }
    test = {name_of(cut, sample) for sample in cut.samples_of("1", "test")}
    train = {name_of(cut, sample) for sample in cut.samples_of("1", "train")}
    assert (test, train) == ({BOTH, FAST}, {LONG, TWO, PACKED, SHORT})


def test_other_videos_change_nothing_about_one(cut: ShardIndex, raw: Path, tmp_path: Path) -> None:
    def pictures(index: ShardIndex) -> dict[tuple, bytes]:
        return {
            (index.source(s), m["segment_start"]): decode_frames(index, s).tobytes() for s, m in enumerate(metas(index))
        }

    listing = list_sports1m(raw)
    few = replace(listing, records=[r for r in listing.records if r.group in (LONG, FAST)])
    some, all_of_them = pictures(build(few, tmp_path)), pictures(cut)
    assert len(some) == 15
    assert some.items() <= all_of_them.items()


def test_the_manifest_says_what_became_of_every_listed_video(cut: ShardIndex) -> None:
    lines = [json.loads(line) for line in (cut.data_dir / "manifest.jsonl").read_text().splitlines()]
    found = {line["id"]: line for line in lines}
    assert len(found) == len(lines) == 8
    assert {name: line["state"] for name, line in found.items()} == {
        **dict.fromkeys((LONG, TWO, PACKED, BOTH, FAST), "present"),
        SHORT: "too short",
        BROKEN: "broken",
        GONE: "missing",
    }
    assert [name for name, line in found.items() if line.get("in_both_lists")] == [BOTH]
    assert {name for name, line in found.items() if line["subset"] == "test"} == {BOTH, FAST}
    assert found[FAST] == {
        "id": FAST,
        "state": "present",
        "subset": "test",
        "source": f"videos/{FAST}.mp4",
        "num_segments": 10,
        "num_frames": 220,
        "fps": 50.0,
    }
    assert found[GONE] == {"id": GONE, "state": "missing", "subset": "train"}
    assert BROKEN in found[BROKEN]["reason"]


def test_building_again_or_with_other_workers_gives_the_same_bytes(cut: ShardIndex, raw: Path, tmp_path: Path) -> None:
    build(list_sports1m(raw), tmp_path, workers=1)
    assert contents(tmp_path) == contents(cut.data_dir)
    result = build_shards(list_sports1m(raw), tmp_path, SETTINGS, workers=2)
    assert (result.num_shards_written, result.num_shards_kept) == (0, 3)
    assert result.videos == {"present": 5, "too short": 1, "broken": 1, "missing": 1}


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
    samples = cut.samples_of("1", "train")
    plan = TrainPlan(cut, samples, ClipSpec(4, 2, crop_size=32), global_batch_size=12, seed=0)
    drawn = []
    for rank in range(world_size):
        with ClipLoader(cut, plan, rank=rank, world_size=world_size) as loader:
            drawn.append([batch.labels.tolist() for batch in take(loader, 3)])
    with ClipLoader(cut, plan) as loader:
        whole = take(loader, 3)
    for step, batch in enumerate(whole):
        assert [label for rank in drawn for label in rank[step]] == batch.labels.tolist()
        for sample, label in zip(batch.samples.tolist(), batch.labels.tolist(), strict=True):
            assert label in cut.all_labels(np.array([sample]))[0]


def test_labels_that_do_not_fit_are_found_by_the_check(cut: ShardIndex, tmp_path: Path, raw: Path) -> None:
    assert verify(cut.data_dir, decode=True)[1] == []
    build(list_sports1m(raw), tmp_path)
    labels = np.load(tmp_path / "index/labels.npy")
    second = int(np.flatnonzero(np.diff(np.load(tmp_path / "index/first_label.npy")) == 2)[0])
    place = int(np.load(tmp_path / "index/first_label.npy")[second]) + 1
    labels[place] = 1 - labels[place] if labels[place] < 2 else 0
    np.save(tmp_path / "index/labels.npy", labels)
    assert any("json and the index tell different things" in fault for fault in verify(tmp_path)[1])
    labels[place - 1] = 1 - labels[place - 1] if labels[place - 1] < 2 else 0
    np.save(tmp_path / "index/labels.npy", labels)
    assert any("first labels are not those of label.npy" in fault for fault in verify(tmp_path)[1])
    labels[place - 1] = 9
    np.save(tmp_path / "index/labels.npy", labels)
    with pytest.raises(ValueError, match="labels.npy: has 0 … 9, possible is 0 … 2"):
        open_index(tmp_path)
    np.save(tmp_path / "index/labels.npy", labels[:-1])
    with pytest.raises(ValueError, match="labels.npy: cannot be read .* where dataset.json asks for int32"):
        open_index(tmp_path)


@pytest.mark.parametrize("drop_odd", [False, True])
def test_h264_and_every_second_frame_go_with_segments(raw: Path, tmp_path: Path, drop_odd: bool) -> None:
    listing = list_sports1m(raw)
    one = replace(listing, records=[r for r in listing.records if r.group == LONG])
    index = build(one, tmp_path, BuildSettings(size=64, segment_s=1.0, codec="h264", drop_odd=drop_odd))
    assert index.num_samples == 5
    for sample, meta in enumerate(metas(index)):
        start = meta["segment_start"]
        assert shown(index, sample) == list(range(start, start + 25, 2 if drop_odd else 1))


def test_a_file_that_ends_too_early_gives_segments_of_what_is_there(raw: Path, tmp_path: Path) -> None:
    """Its header still promises all frames; whichever way it is read, frames are those that their numbers say."""
    root = tmp_path / "raw"
    for folder in ("videos", "original"):
        (root / folder).mkdir(parents=True)
    for name in ("labels.txt", "original/train_partition.txt", "original/test_partition.txt"):
        (root / name).write_bytes((raw / name).read_bytes())
    path = root / f"videos/{LONG}.mp4"
    write_numbered_video(path, 300, movflags="faststart", preset="fast", g=50, bf=2, **SMALL)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    index = build(list_sports1m(root), tmp_path / "out")
    assert index.num_samples == 5
    for sample, meta in enumerate(metas(index)):
        numbers = list(range(meta["segment_start"], meta["segment_start"] + int(index.num_frames[sample])))
        assert shown(index, sample)[:-1] == numbers[:-1], "but for the very last frame, which is cut"
        assert 100 < meta["num_frames_source"] < 300


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"segment_s": 0.0}, "segment_s: 0.0 is not possible"),
        ({"segment_s": 2.0, "fps": 10.0}, "fps: 10.0 does not go with segments"),
        ({"segment_s": 2.0, "train_segments": 0}, "train_segments: 0 is not possible; choose 1 to 100"),
        ({"segment_s": 2.0, "test_segments": 101}, "test_segments: 101 is not possible"),
    ],
)
def test_impossible_segments_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BuildSettings(**wrong)
