"""Every kind of source becomes its own frames, all of them, in order."""

import itertools
import json
import os
import re
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.codecs.filmstrip import Planes
from res3d_video.pipeline.errors import VideoFailure
from res3d_video.pipeline.ingest.probe import Piece, Seek, probe, read_timeline, timeline_of
from res3d_video.pipeline.ingest.transcode import FrameReader, Geometry, centred, ffmpeg_exe, fitted, stretched
from res3d_video.tools.numbered import number_of, numbered_frame, read_bits, write_numbered_video, write_video


def read(path: Path, geometry: Geometry | None = None, **options: object) -> tuple[FrameReader, Planes]:
    """All frames of a video, joined."""
    reader = FrameReader(path, geometry or stretched(128), block_frames=16, **options)
    blocks = list(reader)
    return reader, Planes(*(np.concatenate([getattr(b, p) for b in blocks]) for p in ("y", "u", "v")))


def numbers(planes: Planes) -> list[int]:
    return [number_of(read_bits(frame, grey=128)) for frame in planes.y]


X264 = {"vcodec": "libx264", "crf": 12, "preset": "ultrafast", "pix_fmt": "yuv420p"}
SOURCES: dict[str, dict[str, object]] = {
    "ten_bit.mp4": X264 | {"pix_fmt": "yuv420p10le"}, "no_subsampling.mp4": X264 | {"pix_fmt": "yuv444p"},
    "full_range.mp4": X264 | {"color_range": "pc"}, "mpeg4_b_frames.avi": {"vcodec": "mpeg4", "qscale": 2, "bf": 2},
    "mpeg2.mpg": {"vcodec": "mpeg2video", "qscale": 2}, "alpha.mov": {"vcodec": "qtrle", "pix_fmt": "argb"},
    "mjpeg.avi": {"vcodec": "mjpeg", "qscale": 2, "pix_fmt": "yuvj420p"},
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_every_codec_gives_the_same_frames_and_none_is_dropped_or_doubled(tmp_path: Path, name: str) -> None:
    frames = np.stack([numbered_frame(i) for i in range(40)])
    if name == "alpha.mov":  # it is dropped
        frames = np.concatenate([frames, np.full_like(frames[..., :1], 90)], axis=3)
    write_video(tmp_path / name, frames, **SOURCES[name])
    reader, planes = read(tmp_path / name)
    assert numbers(planes) == list(range(40)) == list(range(reader.num_frames))
    assert (planes.y.shape[1:], planes.u.shape, planes.v.shape) == ((128, 171), *[(40, 64, 86)] * 2)
    assert not reader.warnings


@pytest.mark.parametrize(("width", "height"), [(321, 241), (320, 241), (321, 240), (121, 81), (64, 48), (1280, 272)])
def test_odd_and_extreme_sizes_become_the_stored_size(tmp_path: Path, width: int, height: int) -> None:
    write_numbered_video(tmp_path / "a.mp4", 5, width=width, height=height, pix_fmt="yuv444p")
    _, planes = read(tmp_path / "a.mp4")
    assert planes.y.shape[1:] == (128, 171)
    if width > 100:
        assert numbers(planes) == list(range(5))


def test_a_rotated_video_stands_upright(tmp_path: Path) -> None:
    upright = np.stack([numbered_frame(i) for i in range(6)])
    lying = np.ascontiguousarray(np.rot90(upright, axes=(1, 2)))  # stored turned, with a note to turn it back
    write_video(tmp_path / "plain.mp4", lying, vcodec="libx264", crf=10, pix_fmt="yuv420p")
    turn_on_display(tmp_path / "plain.mp4", tmp_path / "rotated.mp4")
    assert numbers(read(tmp_path / "rotated.mp4")[1]) == list(range(6))


@pytest.mark.parametrize("angle", [-180, -90, -45, 0, 1, 30, 90, 270])
def test_a_video_turned_by_any_angle_has_the_shape_that_ffmpeg_gives_it(tmp_path: Path, angle: int) -> None:
    write_numbered_video(tmp_path / "a.mp4", 1, width=96, height=64)
    turn_on_display(tmp_path / "a.mp4", tmp_path / "turned.mp4", degrees=angle)
    command = [ffmpeg_exe(), "-i", tmp_path / "turned.mp4", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    facts = probe(tmp_path / "turned.mp4")
    shown = re.findall(r"Video: wrapped_avframe, .*? (\d+x\d+)", said)[-1]
    assert shown == f"{facts.display_width}x{facts.display_height}"


def turn_on_display(source: Path, target: Path, *, degrees: float = -90) -> None:
    words = f"-v error -y -display_rotation:v:0 {degrees} -i {source} -c copy {target}"
    subprocess.run([ffmpeg_exe(), *words.split()], check=True)


def test_a_wanted_rate_resamples_in_time_and_every_second_frame_can_be_read_alone(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "a.mp4", 41, fps=25)
    _, planes = read(tmp_path / "a.mp4", fps=12.5)
    assert numbers(planes)[:4] in ([0, 2, 4, 6], [1, 3, 5, 7])
    assert 20 <= len(planes) <= 21
    reader, planes = read(tmp_path / "a.mp4", frame_step=2)
    assert numbers(planes) == list(range(0, 41, 2))
    assert reader.num_frames == 41, "source frames are counted, not the stored ones"


def test_limited_range_holds_black_and_white_between_16_and_235(tmp_path: Path) -> None:
    frames = np.stack([np.full((96, 128, 3), grey, np.uint8) for grey in (0, 128, 255)])
    write_video(tmp_path / "a.mp4", frames, vcodec="libx264rgb", crf=0)
    for full_range, expected in ((True, [0, 128, 255]), (False, [16, 126, 235])):
        _, planes = read(tmp_path / "a.mp4", full_range=full_range)
        assert np.abs(planes.y.reshape(3, -1).mean(axis=1) - expected).max() <= 1
        assert np.abs(planes.u.astype(int) - 128).max() <= 1


CUT = {"a.avi": {"vcodec": "mpeg4"}, "a.mkv": {}, "a.mp4": {"vcodec": "mpeg4", "g": 1, "movflags": "+faststart"}}


@pytest.mark.parametrize("name", CUT)
def test_a_cut_off_file_gives_the_frames_before_the_damage_and_a_warning(tmp_path: Path, name: str) -> None:
    write_numbered_video(tmp_path / name, 60, **CUT[name])
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size // 2)
    reader, planes = read(tmp_path / name)
    assert reader.warnings
    assert 10 < len(planes) == reader.num_frames < 60
    assert numbers(planes)[:-1] == list(range(len(planes) - 1)), "only the last, half-read frame may be wrong"


def test_with_kept_aspect_the_short_side_is_the_size_and_the_picture_is_centred() -> None:
    for width, height in itertools.product((64, 100, 320, 433, 512), repeat=2):
        fit = fitted(width, height, 128)
        assert min(fit) == 128
        assert abs(fit[0] / fit[1] - width / height) < 0.02 * width / height
        geometry = centred(fit, (max(fit[0], 400), max(fit[1], 300)))
        assert geometry.left % 2 == geometry.top % 2 == geometry.tile_width % 16 == geometry.tile_height % 16 == 0
        assert 0 <= geometry.tile_width - geometry.content_width - 2 * geometry.left <= 3
        assert 0 <= geometry.tile_height - geometry.content_height - 2 * geometry.top <= 3


def test_a_title_that_is_not_utf8_does_not_matter(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "a.avi", 9, vcodec="mpeg4", metadata="title=TITLE_OF_THE_FILM")
    content = (tmp_path / "a.avi").read_bytes()
    assert content.count(b"TITLE_OF_THE_FILM") == 1
    (tmp_path / "b.avi").write_bytes(content.replace(b"TITLE_OF_THE_FILM", b"TITLE_OF_THE_FIL\xd3"))
    assert probe(tmp_path / "b.avi").num_frames_header == 9


NUM_FRAMES = 130
H264 = {"vcodec": "libx264", "crf": 18, "preset": "fast"}
X265 = {"vcodec": "libx265", "crf": 18, "preset": "ultrafast", "g": 40}
VP9 = {"vcodec": "libvpx-vp9", "b:v": "1M", "g": 40, "deadline": "realtime", "cpu-used": 8, "lag-in-frames": 8}
LATER = "setpts='if(lt(N,60),N,60+(N-60)*4)/25/TB'"

# File, encoder, and the keyframes that may be begun at; None where nothing may be sought, so all is decoded.
VIDEOS: dict[str, tuple[dict, list[int] | None]] = {
    "b_frames.mp4": ({**H264, "g": 50, "x264-params": "scenecut=0:b-pyramid=normal:bframes=3"}, [0, 50, 100]),
    "one_gop.mp4": ({**H264, "g": 500, "x264-params": "scenecut=0:bframes=2"}, [0]),
    "open_gop.mp4": ({**H264, "g": 30, "x264-params": "scenecut=0:open-gop=1:bframes=3"}, [0]),
    "refreshed.mp4": ({**H264, "g": 30, "x264-params": "scenecut=0:intra-refresh=1"}, [0]),
    "fragmented.mp4": ({**H264, "g": 50, "sc_threshold": 0, "movflags": "frag_keyframe+empty_moov"}, [0, 50, 100]),
    "late.mp4": ({**H264, "g": 50, "sc_threshold": 0, "output_ts_offset": 8.3}, [0, 50, 100]),
    "negative.mp4": ({**H264, "g": 50, "sc_threshold": 0, "movflags": "negative_cts_offsets"}, [0, 50, 100]),
    "varying.mkv": ({**H264, "g": 50, "sc_threshold": 0, "vf": LATER, "fps_mode": "vfr"}, [0, 50, 100]),
    "hevc.mp4": ({**X265, "x265-params": "open-gop=0:scenecut=0:log-level=none"}, [0, 40, 80, 120]),
    "open_hevc.mp4": ({**X265, "x265-params": "open-gop=1:scenecut=0:bframes=3:log-level=none"}, [0]),
    "vp9.webm": (VP9, [0, 40, 80, 120]),
    "mpeg4.mp4": ({"vcodec": "mpeg4", "qscale": 3, "g": 50, "sc_threshold": 10**9}, [0, 50, 100]),
    "no_times.avi": ({"vcodec": "mpeg4", "qscale": 3, "bf": 2}, None),
    "no_index.ts": ({**H264, "g": 50}, None),
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
    pieces = [Piece(0, 9), Piece(47, 9), Piece(NUM_FRAMES - 9, 9)]
    assert (timeline is None) == (keyframes is None)
    if timeline is not None:
        assert (timeline.num_frames, timeline.keyframes.tolist()) == (NUM_FRAMES, keyframes)
        pieces += [timeline.piece(start, num_frames=9) for start in (0, 1, 45, 50, 99, 119, NUM_FRAMES - 9)]
        assert timeline.piece(NUM_FRAMES - 2, num_frames=9).num_frames == 2, "those that are left"
    for piece in pieces:
        found = lumas(path, piece)
        assert len(found) == 9
        assert all(map(np.array_equal, found, whole[piece.start : piece.start + 9])), f"from {piece.start}"


def test_a_seek_that_went_too_far_gives_no_frame_rather_than_a_wrong_one(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "a.mp4", 60, **H264, g=20, sc_threshold=0)
    timeline = read_timeline(tmp_path / "a.mp4")
    piece = timeline.piece(45, num_frames=5)
    assert len(lumas(tmp_path / "a.mp4", piece)) == 5
    before = Seek(int(timeline.times[0]) - 1, piece.seek.first, piece.seek.last, timeline.time_base)
    with pytest.raises(VideoFailure, match="a.mp4"):
        lumas(tmp_path / "a.mp4", Piece(45, 5, before))


def test_a_keyframe_parts_what_is_shown_before_from_what_is_shown_after() -> None:
    for times, keyframes, begin in (
        ([0, 1, 2, 3], [0], [0]), ([0, 1, 2, 3], [0, 2], [0, 2]), ([0, 3, 1, 2, 4, 6, 5], [0, 4], [0, 4]),
        ([0, 3, 1, 2, 7, 5, 6], [0, 4], [0]),  # 5 and 6 come after the keyframe and are shown before it
        ([0, 5, 3, 1, 4], [0, 2], [0]),  # 1 comes after it, 5 before: as many are shown before as come before
        ([2, 0, 1, 3], [0, 3], None),  # frames are shown before the first that decodes
        ([0, 1, 1, 2], [0], None),  # a time comes twice
        ([0, 1, 2], [], None), ([0, 1, 2], [1], None), ([], [], None),
    ):  # fmt: skip
        timeline = timeline_of(times, keyframes, time_base=Fraction(1, 25))
        assert (None if timeline is None else timeline.keyframes.tolist()) == begin, times


@pytest.mark.long
def test_real_videos_are_cut_exactly_or_not_sought_at_all(shared_data: Path) -> None:
    sought = 0
    for fact in json.loads((shared_data / "facts.json").read_text()):
        path = shared_data / fact["path"]
        timeline = read_timeline(path) if fact["path"].startswith(("edge/", "kinetics/", "hmdb51/")) else None
        if timeline is None:
            continue
        sought, count, whole = sought + 1, timeline.num_frames, lumas(path)
        assert (fact["decoded_frames"], len(whole)) == (count, count), path
        for start in {0, count // 3, count // 2, max(count - 10, 0)}:
            found = lumas(path, timeline.piece(start, num_frames=20))
            assert len(found) == min(20, count - start), path
            assert all(map(np.array_equal, found, whole[start:])), path
    assert sought == 48
