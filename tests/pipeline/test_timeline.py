"""Pieces of a video: the frames that decoding the whole video gives, found from the keyframe before them."""

import itertools
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.errors import VideoFailure
from res3d_video.pipeline.ingest.probe import (
    Piece,
    Seek,
    Timeline,
    begins_anew,
    read_timeline,
    seek_options,
    timeline_of,
)
from res3d_video.pipeline.ingest.transcode import FrameReader, stretched
from res3d_video.tools.numbered import number_of, read_bits, write_numbered_video

TICK = Fraction(1, 25)
NUM_FRAMES = 130
X264 = {"vcodec": "libx264", "crf": 18, "preset": "fast"}
X265 = {"vcodec": "libx265", "crf": 18, "preset": "ultrafast", "g": 40}
VP9 = {"vcodec": "libvpx-vp9", "b:v": "1M", "g": 40, "deadline": "realtime", "cpu-used": 8, "lag-in-frames": 8}
LATER = "setpts='if(lt(N,60),N,60+(N-60)*4)/25/TB'"

# File, encoder, and the keyframes that may be begun at; None where nothing may be sought, so all is decoded.
VIDEOS: dict[str, tuple[dict, list[int] | None]] = {
    "b_frames.mp4": ({**X264, "g": 50, "x264-params": "scenecut=0:b-pyramid=normal:bframes=3"}, [0, 50, 100]),
    "one_gop.mp4": ({**X264, "g": 500, "x264-params": "scenecut=0:bframes=2"}, [0]),
    "open_gop.mp4": ({**X264, "g": 30, "x264-params": "scenecut=0:open-gop=1:bframes=3"}, [0]),
    "refreshed.mp4": ({**X264, "g": 30, "x264-params": "scenecut=0:intra-refresh=1"}, [0]),
    "fragmented.mp4": ({**X264, "g": 50, "sc_threshold": 0, "movflags": "frag_keyframe+empty_moov"}, [0, 50, 100]),
    "late.mp4": ({**X264, "g": 50, "sc_threshold": 0, "output_ts_offset": 8.3}, [0, 50, 100]),
    "negative.mp4": ({**X264, "g": 50, "sc_threshold": 0, "movflags": "negative_cts_offsets"}, [0, 50, 100]),
    "varying.mkv": ({**X264, "g": 50, "sc_threshold": 0, "vf": LATER, "fps_mode": "vfr"}, [0, 50, 100]),
    "hevc.mp4": ({**X265, "x265-params": "open-gop=0:scenecut=0:log-level=none"}, [0, 40, 80, 120]),
    "open_hevc.mp4": ({**X265, "x265-params": "open-gop=1:scenecut=0:bframes=3:log-level=none"}, [0]),
    "vp9.webm": (VP9, [0, 40, 80, 120]),
    "mpeg4.mp4": ({"vcodec": "mpeg4", "qscale": 3, "g": 50, "sc_threshold": 10**9}, [0, 50, 100]),
    "no_times.avi": ({"vcodec": "mpeg4", "qscale": 3, "bf": 2}, None),
    "no_index.ts": ({**X264, "g": 50}, None),
}


def lumas(path: Path, piece: Piece | None = None) -> list[np.ndarray]:
    return [block.y[0].copy() for block in FrameReader(path, stretched(64), block_frames=1, piece=piece)]


@pytest.mark.parametrize("name", VIDEOS)
def test_pieces_are_the_very_frames_of_the_whole_video(tmp_path: Path, name: str) -> None:
    options, keyframes = VIDEOS[name]
    path = tmp_path / name
    write_numbered_video(path, NUM_FRAMES, height=64, width=96, **options)
    whole, timeline = lumas(path), read_timeline(path)
    assert [number_of(read_bits(y, scale=86 / 171, grey=128)) for y in whole] == list(range(NUM_FRAMES))
    if keyframes is None:
        assert timeline is None
        pieces = [Piece(0, 9), Piece(47, 9), Piece(NUM_FRAMES - 9, 9)]
    else:
        assert timeline is not None
        assert (timeline.num_frames, timeline.keyframes.tolist()) == (NUM_FRAMES, keyframes)
        pieces = [timeline.piece(start, num_frames=9) for start in (0, 1, 45, 50, 99, 119, NUM_FRAMES - 9)]
        pieces.append(Piece(45, 9))
    for piece in pieces:
        found = lumas(path, piece)
        assert len(found) == 9
        assert all(map(np.array_equal, found, whole[piece.start : piece.start + 9])), f"from {piece.start}"


def test_a_seek_that_went_too_far_gives_no_frame_rather_than_a_wrong_one(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "a.mp4", 60, **X264, g=20, sc_threshold=0)
    timeline = read_timeline(tmp_path / "a.mp4")
    piece = timeline.piece(45, num_frames=5)
    assert len(lumas(tmp_path / "a.mp4", piece)) == 5
    before = Seek(int(timeline.times[0]) - 1, piece.seek.first, piece.seek.last, timeline.time_base)
    with pytest.raises(VideoFailure, match="a.mp4"):
        lumas(tmp_path / "a.mp4", Piece(45, 5, before))


def test_a_piece_at_the_end_has_the_frames_that_are_left() -> None:
    timeline = Timeline(np.arange(10) * 2, np.array([0, 4]), TICK)
    assert timeline.piece(8, num_frames=5) == Piece(8, 2, Seek(8, 16, 18, TICK))
    assert timeline.piece(3, num_frames=2) == Piece(3, 2, Seek(0, 6, 8, TICK))


def test_ffmpeg_seeks_to_the_keyframe_never_after_it() -> None:
    """A time rounded down to a microsecond could lie before the keyframe, and cost a group of pictures."""
    for ticks, denominator in itertools.product(range(1, 3000, 7), (24, 1000, 12800, 30000, 90000)):
        seek = Seek(ticks, ticks, ticks, Fraction(1, denominator))
        sought = Fraction(str(seek_options(Piece(0, 1, seek))[0]["ss"]))
        assert 0 <= sought - Fraction(ticks, denominator) < Fraction(1, 1_000_000)
    assert seek_options(Piece(0, 1, Seek(-5, 0, 0, TICK)))[0] == {}, "from the start"


@pytest.mark.parametrize(
    ("times", "keyframes", "begin"),
    [
        ([0, 1, 2, 3], [0], [0]),
        ([0, 1, 2, 3], [0, 2], [0, 2]),
        ([0, 3, 1, 2, 7, 5, 6], [0, 4], [0]),  # 5 and 6 come after the keyframe and are shown before it
        ([0, 3, 1, 2, 4, 6, 5], [0, 4], [0, 4]),
        ([0, 5, 3, 1, 4], [0, 2], [0]),  # 1 comes after it, 5 before: as many are shown before as come before
        ([2, 0, 1, 3], [0, 3], None),  # frames are shown before the first that decodes
        ([0, 1, 1, 2], [0], None),  # a time comes twice
        ([0, 1, 2], [], None),
        ([0, 1, 2], [1], None),
        ([], [], None),
    ],
)
def test_a_keyframe_parts_what_is_shown_before_from_what_is_shown_after(
    times: list[int], keyframes: list[int], begin: list[int] | None
) -> None:
    timeline = timeline_of(times, keyframes, time_base=TICK)
    assert (None if timeline is None else timeline.keyframes.tolist()) == begin


def test_only_pictures_that_reset_the_decoder_begin_anew() -> None:
    avcc, hvcc = bytes([1, 100, 0, 31, 0xFF]), bytes([1] + [0] * 20 + [0xFF])
    for kind in range(32):
        packet = bytes([0, 0, 0, 1, 6]) + bytes([0, 0, 0, 2, 0x60 | kind, 9])
        assert begins_anew(packet, "h264", avcc) == (kind == 5)
    for kind in range(64):
        assert begins_anew(bytes([0, 0, 0, 3, kind << 1, 1, 9]), "hevc", hvcc) == (kind in (19, 20))
    assert not begins_anew(bytes([0, 0, 0, 1, 0x65]), "h264", b""), "start codes: no lengths to go by"
    assert begins_anew(b"", "vp9", b"")


@pytest.mark.long
def test_real_videos_are_cut_exactly_or_not_sought_at_all(shared_data: Path) -> None:
    sought, wrong = 0, []
    for fact in json.loads((shared_data / "facts.json").read_text()):
        if not fact["path"].startswith(("edge/", "kinetics/", "hmdb51/")):
            continue
        path = shared_data / fact["path"]
        timeline = read_timeline(path)
        if timeline is None:
            continue
        sought, count = sought + 1, timeline.num_frames
        whole = lumas(path)
        if count != fact["decoded_frames"] or count != len(whole):
            wrong.append(f"{fact['path']}: {count} frames, not {fact['decoded_frames']}")
            continue
        for start in {0, count // 3, count // 2, max(count - 10, 0)}:
            found = lumas(path, timeline.piece(start, num_frames=20))
            if len(found) != min(20, count - start) or not all(map(np.array_equal, found, whole[start:])):
                wrong.append(f"{fact['path']}: from frame {start}")
    assert not wrong, "\n".join(wrong)
    assert sought == 48
