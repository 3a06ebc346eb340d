"""Frames come from the tars as they were written, joined to what a decoder takes, or not at all."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import res3d_video.pipeline.reader
from res3d_video.pipeline.clip import ClipSpec, frame_indices, num_starts
from res3d_video.pipeline.codecs import ClipFrames
from res3d_video.pipeline.index import ShardError, ShardIndex, open_index
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.pipeline.schema import OFFSET, SIZE


@pytest.fixture
def copy(numbered: ShardIndex, tmp_path: Path) -> ShardIndex:
    shutil.copytree(numbered.data_dir, tmp_path / "data")
    return open_index(tmp_path / "data")


def longest(index: ShardIndex) -> int:
    return int(np.argmax(index.num_frames))


def located(index: ShardIndex, *clips: list[int]) -> ClipFrames:
    return index.stored_as.locate(np.array(clips), blank=np.zeros(len(clips), bool))


def stored(index: ShardIndex, sample: int, frame: int) -> tuple[int, bytes]:
    """A frame's place in its tar, and its bytes."""
    row = index.frames[index.first_frame[sample] + frame].astype(int)
    tar = (index.data_dir / index.tars[index.tar[sample]]).read_bytes()
    offset = int(index.offset[sample]) + row[OFFSET]
    return offset, tar[offset : offset + row[SIZE]]


@pytest.mark.parametrize("num_frames", [1, 2, 7, 8, 9, 16, 33, 64])
def test_a_clip_is_the_join_of_its_own_tiles_from_every_start_at_every_stride(
    numbered: ShardIndex, num_frames: int
) -> None:
    codec, files = numbered.stored_as, FrameFiles(numbered)
    for sample in np.flatnonzero(np.isin(numbered.num_frames, [1, 17, 40])).tolist():
        length = int(numbered.num_frames[sample])
        tiles = [stored(numbered, sample, frame)[1] for frame in range(length)]
        for stride in range(1, 33):
            spec = ClipSpec(num_frames, stride)
            starts = np.arange(int(num_starts(spec, video_frames=length)))
            clips = frame_indices(starts, spec, video_frames=length)
            data, faults = files.read(np.full(len(clips), sample), located(numbered, *clips.tolist()))
            assert faults == {}
            for clip, (jpeg,) in zip(clips.tolist(), data, strict=True):
                assert jpeg.tobytes() == codec.join([tiles[frame] for frame in clip])


def test_packets_are_the_tars_own_bytes(numbered_h264: ShardIndex) -> None:
    sample = longest(numbered_h264)
    (packets,), faults = FrameFiles(numbered_h264).read(np.array([sample]), located(numbered_h264, [5, 30]))
    assert faults == {}
    frames = [*range(6), *range(24, 31)]  # from each keyframe on
    assert [packet.tobytes() for packet in packets] == [stored(numbered_h264, sample, frame)[1] for frame in frames]


def test_a_clip_at_stride_2_is_read_in_two_pieces_at_most(
    numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, whole = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *arguments: calls.append(arguments) or whole(*arguments))
    for start in range(40):
        calls.clear()
        FrameFiles(numbered).read(np.array([longest(numbered)]), located(numbered, [start + 2 * i for i in range(8)]))
        assert len(calls) <= 2


def test_bytes_past_the_end_of_a_cut_tar_are_missing_and_so_is_a_missing_tar(copy: ShardIndex) -> None:
    sample = longest(copy)
    tar, (offset, _) = copy.data_dir / copy.tars[copy.tar[sample]], stored(copy, sample, 6)
    tar.write_bytes(tar.read_bytes()[: offset + 5])
    both = located(copy, [0, 2], [4, 6])
    assert list(FrameFiles(copy).read(np.full(2, sample), both)[1]) == [1]
    tar.unlink()
    assert list(FrameFiles(copy).read(np.full(2, sample), both)[1]) == [0, 1]


def test_bytes_stay_when_their_tar_gave_way_to_another(numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(res3d_video.pipeline.reader, "MAX_OPEN_TARS", 1)
    files, last = FrameFiles(numbered), numbered.num_samples - 1
    assert numbered.tar[0] != numbered.tar[last]
    ((held,),), _ = files.read(np.array([0]), located(numbered, [0]))
    before = held.tobytes()
    for sample in (last, 0, last):
        assert files.read(np.array([sample]), located(numbered, [0]))[1] == {}
        assert len(files._tars) == 1
    assert held.tobytes() == before


@pytest.mark.parametrize("most", [1, 100, 10_000])
def test_reading_goes_on_where_the_system_gave_less_than_asked_for(
    numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    clip = np.array([longest(numbered)]), located(numbered, [0, 1, 2, 3, 40])
    expected, whole = FrameFiles(numbered).read(*clip), os.preadv

    def some(file: int, into: list[memoryview], offset: int) -> int:
        return whole(file, [into[0][:most]], offset)

    monkeypatch.setattr(os, "preadv", some)
    assert FrameFiles(numbered).read(*clip)[0][0][0].tobytes() == expected[0][0][0].tobytes()


def test_too_many_open_files_damage_no_sample(numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(res3d_video.pipeline.reader, "open_plain", refuse)
    with pytest.raises(ShardError, match=r"Too many open files; raise the limit of open files \(ulimit -n\)"):
        FrameFiles(numbered).read(np.array([0]), located(numbered, [0]))
