"""What the gallery shows: which segments are drawn, and in what pictures."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.codecs.filmstrip import EOI
from res3d_video.pipeline.frames import read_frames
from res3d_video.pipeline.index import ShardError, ShardIndex
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.pipeline.remote import RemoteSettings
from res3d_video.tools.numbered import number_of, read_bits
from res3d_video.tools.pages.clips import Strips, strips_of
from res3d_video.tools.pages.data import found as data_found
from res3d_video.tools.pages.data.found import Wanted
from res3d_video.tools.pages.data.gallery import draw, fitting
from res3d_video.tools.pages.data.page import data_page
from res3d_video.train.data_options import Data
from tests.clips import damaged_copy, sample_of_length


def numbers_in(strips: Strips) -> list[int]:
    """The frame numbers that are seen, in the order of playing."""
    decoded = [simplejpeg.decode_jpeg(sprite.content) for sprite in strips.sprites]
    heights = [len(d) // sprite.num_tiles for d, sprite in zip(decoded, strips.sprites, strict=True)]
    found = []
    for sprite, tile in strips.frames:
        frame = decoded[sprite][tile * heights[sprite] : (tile + 1) * heights[sprite]]
        scale = frame.shape[1] / (176 if strips.as_stored else 171)
        found.append(number_of(read_bits(frame, scale=scale, grey=128)))
    return found


@pytest.mark.parametrize("max_bytes", [10_000_000, 120_000, 40_000, 12_000, 3_000])
def test_whatever_the_room_the_frames_seen_are_those_named(shards: ShardIndex, max_bytes: int) -> None:
    files = FrameFiles(shards)
    for num_frames in (1, 33, 120):
        sample = sample_of_length(shards, num_frames)
        strips = strips_of(shards, sample, files=files, max_bytes=max_bytes)
        assert numbers_in(strips) == strips.shown.tolist()
        assert strips.num_bytes <= max_bytes
        step = strips.shown[1] if len(strips.shown) > 1 else 1
        assert strips.shown.tolist() == list(range(0, num_frames, step))
        assert step == 1 or max_bytes <= 40_000


def test_with_room_filmstrips_are_shown_as_they_are_and_only_those_that_are_needed(numbered: ShardIndex) -> None:
    sample, files = sample_of_length(numbered, 505), FrameFiles(numbered)
    strips = strips_of(numbered, sample, files=files, max_bytes=10**7, frames=np.array([20, 22, 24, 24]))
    stored = [read_frames(numbered, sample, np.array([frame]), files=files)[0][0] for frame in (20, 22, 24)]
    tiles = [jpeg.tobytes()[numbered.stored_as.lead : -len(EOI)] for jpeg in stored]
    assert strips.as_stored
    assert [sprite.content for sprite in strips.sprites] == [numbered.stored_as.join(tiles)]
    assert numbers_in(strips) == [20, 22, 24]


def test_one_frame_is_shown_however_little_room_there_is(shards: ShardIndex) -> None:
    strips = strips_of(shards, sample_of_length(shards, 120), files=FrameFiles(shards), max_bytes=1)
    assert numbers_in(strips) == [0]


def test_damaged_frames_are_one_line_that_names_the_sample(shards: ShardIndex, tmp_path: Path) -> None:
    sample = sample_of_length(shards, 33)
    index = damaged_copy(shards, tmp_path / "copy", sample, fix_checksum=False)
    with pytest.raises(ShardError, match=f"^{index.key(sample)}: a (tile|packet) is missing or fails its crc32, in "):
        strips_of(index, sample, files=FrameFiles(index), max_bytes=1000)


def test_as_many_segments_as_fit_are_kept_and_classes_go_last() -> None:
    for *sizes, most in itertools.product((1, 2, 3), (1, 2, 3), (1, 2, 3), range(1, 10)):
        drawn = {label: [10 * label + i for i in range(size)] for label, size in enumerate(sizes)}
        kept = fitting(drawn, most)
        assert sum(map(len, kept.values())) <= most
        assert all(own == drawn[label][: len(own)] for label, own in kept.items())
        assert len(kept) == min(3, most)  # each with one at least
        if sum(sizes) <= most:
            assert kept == drawn


def test_each_class_shows_both_sides_in_turn_and_the_same_again_with_the_same_seed() -> None:
    labels = np.repeat(np.arange(30), 20)
    sides = np.tile(np.repeat([1, 2, 0], [10, 5, 5]), 30).astype(np.int8)
    rows = np.arange(600)
    drawn = draw(labels, sides, rows, num_classes=7, per_class=4, seed=1)
    assert len(drawn) == 7
    for label, own in drawn.items():
        assert set(labels[own]) == {label}
        assert sides[own].tolist() == [1, 2, 1, 2]
        assert len(set(own)) == 4
    assert draw(labels, sides, rows, num_classes=7, per_class=4, seed=1) == drawn
    assert draw(labels, sides, rows, num_classes=7, per_class=4, seed=2) != drawn
    assert [len(own) for own in draw(labels, sides, rows, num_classes=1, per_class=99, seed=1).values()] == [20]


def test_of_a_dataset_behind_a_url_only_a_few_tars_are_fetched(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_found, "REMOTE_TARS", 1)
    index = Data(numbered.data_dir.as_uri(), RemoteSettings(tmp_path / "cache")).open()
    told: list[tuple[int, int]] = []
    made = data_page(index, Wanted(ClipSpec()), report=lambda done, total, *_: told.append((done, total)))
    assert len(list(index.data_dir.glob("*.tar"))) == 1
    assert made.facts["num_looked_at"] <= 4
    assert all(one["fault"] is None for one in made.facts["gallery"])
    assert "Only a few tars were fetched" in made.html
    assert told[-1][0] == told[-1][1]
    assert sorted(told) == told
