"""What the gallery shows: which samples are drawn, and which of their frames are seen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from res3d_video.pipeline.codecs.filmstrip import EOI
from res3d_video.pipeline.frames import read_frames
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.pipeline.remote import RemoteSettings
from res3d_video.tools.numbered import number_of, read_bits
from res3d_video.tools.pages import data_page
from res3d_video.tools.pages.clips import Clip, read_clip
from res3d_video.train.data_options import Data
from tests.clips import damaged_copy, sample_of_length
from tests.tools.pages.made_shards import Row, make_shards


def clip_of(index: ShardIndex, sample: int, *, max_bytes: int, **options: Any) -> Clip:
    return read_clip(index, sample, files=FrameFiles(index), max_bytes=max_bytes, name="", caption="", **options)


def numbers_in(clip: Clip) -> list[int]:
    """The frame numbers that are seen, in the order of playing."""
    found = []
    for content, num_tiles in clip.strips or []:
        for frame in np.split(simplejpeg.decode_jpeg(content), num_tiles):
            scale = frame.shape[1] / (176 if clip.is_stored else 171)
            found.append(number_of(read_bits(frame, scale=scale, grey=128)))
    return found


@pytest.mark.parametrize("max_bytes", [10_000_000, 120_000, 40_000, 12_000, 3_000])
def test_whatever_the_room_the_frames_seen_are_those_named(shards: ShardIndex, max_bytes: int) -> None:
    for num_frames in (1, 33, 120):
        clip = clip_of(shards, sample_of_length(shards, num_frames), max_bytes=max_bytes)
        assert numbers_in(clip) == clip.shown
        assert clip.num_bytes <= max_bytes
        step = clip.shown[1] if len(clip.shown) > 1 else 1
        assert clip.shown == list(range(0, num_frames, step))
        assert step == 1 or max_bytes <= 40_000


def test_with_room_filmstrips_are_shown_as_they_are_and_only_those_that_are_needed(numbered: ShardIndex) -> None:
    sample, files = sample_of_length(numbered, 505), FrameFiles(numbered)
    clip = clip_of(numbered, sample, max_bytes=10**7, frames=np.array([20, 22, 24, 24]))
    stored = [read_frames(numbered, sample, np.array([frame]), files=files)[0][0] for frame in (20, 22, 24)]
    tiles = [jpeg.tobytes()[numbered.stored_as.lead : -len(EOI)] for jpeg in stored]
    assert clip.is_stored
    assert clip.strips == [(numbered.stored_as.join(tiles), 3)]
    assert numbers_in(clip) == clip.shown == [20, 22, 24]


def test_one_frame_is_shown_however_little_room_there_is(shards: ShardIndex) -> None:
    assert numbers_in(clip_of(shards, sample_of_length(shards, 120), max_bytes=1)) == [0]


def test_damaged_frames_are_one_line_that_names_the_sample(shards: ShardIndex, tmp_path: Path) -> None:
    sample = sample_of_length(shards, 33)
    index = damaged_copy(shards, tmp_path / "copy", sample, fix_checksum=False)
    clip = clip_of(index, sample, max_bytes=1000)
    assert clip.strips is None
    assert clip.fault.startswith(f"{index.key(sample)}: a ")
    assert " is missing or fails its crc32, in " in clip.fault


def test_each_class_shows_both_sides_in_turn_and_the_same_again_with_the_same_seed(tmp_path: Path) -> None:
    rows = [Row(label, side) for label in range(9) for side in "tttttteeee--"]
    index = make_shards(tmp_path / "made", rows, classes=[f"c{k}" for k in range(9)])

    def draw(seed: int, num_classes: int = 7, per_class: int = 4) -> list[int]:
        return data_page.draw(index, np.arange(108), split=0, seed=seed, num_classes=num_classes, per_class=per_class)

    drawn = np.array(draw(1)).reshape(7, 4)
    assert (np.diff(index.labels[drawn], axis=1) == 0).all()
    assert len(np.unique(index.labels[drawn])) == 7
    assert (index.subsets[drawn, 0] == [1, 2, 1, 2]).all()
    assert len(np.unique(drawn)) == 28
    assert draw(1) == drawn.ravel().tolist() != draw(2)
    assert len(draw(1, 1, 99)) == 12


def test_of_a_dataset_behind_a_url_only_a_few_tars_are_fetched(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_page, "REMOTE_TARS", 1)
    index = Data(numbered.data_dir.as_uri(), RemoteSettings(tmp_path / "cache")).open()
    told: list[tuple[int, int]] = []
    html, facts = data_page.data_page(index, report=lambda done, total, *_: told.append((done, total)))
    assert len(list(index.data_dir.glob("*.tar"))) == 1
    assert facts["num_looked_at"] <= 4
    assert all(one["fault"] is None for one in facts["gallery"])
    assert "only a few tars were fetched" in html
    assert told[-1][0] == told[-1][1]
    assert sorted(told) == told
