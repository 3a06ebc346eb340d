"""Which sample is meant, what its key.json says, and its frames as they are stored."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardError, ShardIndex, open_index
from res3d_video.pipeline.remote import RemoteSettings, open_remote
from res3d_video.tools.numbered import write_numbered_video
from res3d_video.tools.playing.samples import (
    find_sample,
    nearest_names,
    nth_sample,
    random_sample,
    sample_meta,
    stored_frames,
)
from tests.clips import sample_of_length


def test_a_sample_is_found_by_its_key_its_video_and_a_part_that_no_other_has(numbered: ShardIndex) -> None:
    for row in range(numbered.num_samples):
        path = Path(numbered.source(row))
        for name in (numbered.key(row), path.stem, str(path), path.stem[:4]):
            assert find_sample(numbered, name) == row


def renamed(index: ShardIndex, sources: list[str]) -> ShardIndex:
    return dataclasses.replace(index, sources=np.array([name.encode() for name in sources]))


def test_a_whole_name_goes_before_names_that_begin_with_it(numbered: ShardIndex) -> None:
    others = [f"b/x{n}.avi" for n in range(8)]
    index = renamed(numbered, ["a/walk.avi", "a/walk2.avi", "a/moonwalk.avi", *others])
    assert find_sample(index, "walk") == 0
    index = renamed(numbered, ["walk.avi", "walk2.avi", "a/moonwalk.avi", *others])
    assert find_sample(index, "walk") == 0


def test_several_samples_of_a_name_are_listed(numbered: ShardIndex) -> None:
    with pytest.raises(ValueError, match=r"^even: 6 samples .*: 0000.* \(even/.*\), .*, .*, …; give one's key$"):
        find_sample(numbered, "even")


def test_the_nearest_names_of_a_large_dataset_share_a_beginning(numbered: ShardIndex) -> None:
    names = [f"c{n % 50}/v_Class{n % 50}_g{n:05d}.avi" for n in range(50_000)]
    keys = np.array([f"{n:08d}".encode() for n in range(50_000)])
    index = dataclasses.replace(renamed(numbered, names), keys=keys)
    found = nearest_names(index, "v_Class7_g00O57")
    assert len(found) == 3
    assert all(name.startswith("v_Class7_g00") and name.endswith("57") for name in found)
    assert nearest_names(index, "something else") == []


def test_numbers_and_sides_that_do_not_exist_are_refused(numbered: ShardIndex) -> None:
    random = np.random.default_rng(0)
    assert nth_sample(numbered, 10) == 10
    for wrong in (
        lambda: nth_sample(numbered, 11),
        lambda: random_sample(numbered, split="2", side=None, random=random),
        lambda: random_sample(numbered, split="2", side="train", random=random),
    ):
        with pytest.raises(ValueError, match=r"choose"):
            wrong()


def test_a_random_sample_is_of_the_side_asked_for(numbered: ShardIndex) -> None:
    random = np.random.default_rng(0)
    draws = {
        side: {random_sample(numbered, split="1", side=side, random=random) for _ in range(200)}
        for side in ("train", "test", None)
    }
    test = sample_of_length(numbered, 1)
    assert draws == {"train": set(range(11)) - {test}, "test": {test}, None: set(range(11))}


def test_every_sample_has_its_own_facts(shards: ShardIndex) -> None:
    for row in range(shards.num_samples):
        meta = sample_meta(shards, row)
        assert (meta["source"], meta["num_frames"]) == (shards.source(row), shards.num_frames[row])
        assert (meta["fps"], meta["segment_start"]) == (25.0, 0)


@pytest.mark.parametrize("frames", [[0], [0, 1, 2], [5, 7, 9, 9, 9], [31, 32], list(range(33))])
def test_stored_frames_are_those_of_the_whole_sample(shards: ShardIndex, frames: list[int]) -> None:
    sample = sample_of_length(shards, 33)
    left, top, width, height = shards.content[sample]
    whole = decode_frames(shards, sample)[:, top : top + height, left : left + width]
    inside = slice(1, -1)  # at the edges a decoder mixes colors with the frame beside it
    np.testing.assert_array_equal(stored_frames(shards, sample, np.array(frames))[:, inside], whole[frames][:, inside])


def test_a_tar_that_is_gone_or_says_nothing_is_named_as_damage(numbered: ShardIndex, tmp_path: Path) -> None:
    info = json.loads(json.dumps(numbered.info))
    for content in (None, b"", b"no tar" * 1000):
        if content is not None:
            (tmp_path / info["shards"][0]["tar"]).write_bytes(content)
        index = dataclasses.replace(numbered, data_dir=tmp_path)
        with pytest.raises(ShardError, match=r"^00000000: its key.json cannot be read, in|cannot be had"):
            sample_meta(index, 0)


def test_shards_behind_a_url_are_read_the_same_way(numbered: ShardIndex, tmp_path: Path) -> None:
    index = open_remote(f"file://{numbered.data_dir}", RemoteSettings(tmp_path / "cache"), say=lambda line: None)
    sample = sample_of_length(numbered, 40)
    assert sample_meta(index, sample) == sample_meta(numbered, sample)
    frames = np.array([3, 5])
    np.testing.assert_array_equal(stored_frames(index, sample, frames), stored_frames(numbered, sample, frames))


def test_padding_is_cut_off_and_dropped_frames_are_counted(tmp_path: Path) -> None:
    """Kept aspect: a picture lies inside its tile. Every other frame: stored frame 3 is the source's frame 6."""
    (tmp_path / "raw/a").mkdir(parents=True)
    write_numbered_video(tmp_path / "raw/a/tall.mp4", 12, height=320, width=240)
    listing = list_folder(tmp_path / "raw", name="tall")
    build_shards(listing, tmp_path / "shards", BuildSettings(keep_aspect=True, drop_odd=True), workers=1)
    index = open_index(tmp_path / "shards")
    frames = stored_frames(index, 0, np.array([3]))
    assert frames.shape == (1, index.content[0, 3], index.content[0, 2], 3)
    assert index.frame_step == 2
    assert sample_meta(index, 0)["num_frames"] == 12
