"""Every kind of source becomes its own frames, all of them, in order."""

import itertools
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.codecs.filmstrip import Planes
from res3d_video.pipeline.errors import VideoFailure
from res3d_video.pipeline.ingest.probe import probe
from res3d_video.pipeline.ingest.transcode import FrameReader, Geometry, centred, ffmpeg_exe, fitted, stretched
from res3d_video.tools.numbered import number_of, numbered_frame, read_bits, write_numbered_video, write_video


def read(path: Path, geometry: Geometry | None = None, **options: object) -> tuple[FrameReader, Planes]:
    """All frames of a video, joined."""
    reader = FrameReader(path, geometry or stretched(128), block_frames=16, **options)
    blocks = list(reader)
    return reader, Planes(*(np.concatenate([getattr(b, p) for b in blocks]) for p in ("y", "u", "v")))


def numbers(planes: Planes) -> list[int]:
    return [number_of(read_bits(frame, grey=128)) for frame in planes.y]


@pytest.mark.parametrize("num_frames", [1, 2, 15, 16, 17, 50])
def test_frames_come_in_order_and_none_is_lost(tmp_path: Path, num_frames: int) -> None:
    write_numbered_video(tmp_path / "a.mp4", num_frames)
    reader, planes = read(tmp_path / "a.mp4")
    assert numbers(planes) == list(range(num_frames))
    assert reader.num_frames == num_frames
    assert planes.y.shape == (num_frames, 128, 171)
    assert planes.u.shape == planes.v.shape == (num_frames, 64, 86)


X264 = {"vcodec": "libx264", "crf": 12, "preset": "ultrafast", "pix_fmt": "yuv420p"}
SOURCES: dict[str, dict[str, object]] = {
    "b_frames.mp4": X264 | {"bf": 3, "preset": "medium"},
    "ten_bit.mp4": X264 | {"pix_fmt": "yuv420p10le"},
    "no_subsampling.mp4": X264 | {"pix_fmt": "yuv444p"},
    "full_range.mp4": X264 | {"color_range": "pc"},
    "mpeg4_b_frames.avi": {"vcodec": "mpeg4", "qscale": 2, "bf": 2},
    "mpeg2.mpg": {"vcodec": "mpeg2video", "qscale": 2},
    "mjpeg.avi": {"vcodec": "mjpeg", "qscale": 2, "pix_fmt": "yuvj420p"},
    "vp9.webm": {"vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 8, "b:v": "2M", "pix_fmt": "yuv420p"},
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_codec_gives_the_same_frames(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / name, np.stack([numbered_frame(i) for i in range(40)]), **SOURCES[name])
    reader, planes = read(tmp_path / name)
    assert numbers(planes) == list(range(40))
    assert not reader.warnings


@pytest.mark.parametrize(("width", "height"), [(321, 241), (320, 241), (321, 240), (121, 81), (64, 48), (1280, 272)])
def test_odd_and_extreme_sizes_become_the_stored_size(tmp_path: Path, width: int, height: int) -> None:
    write_numbered_video(tmp_path / "a.mp4", 5, width=width, height=height, pix_fmt="yuv444p")
    _, planes = read(tmp_path / "a.mp4")
    assert planes.y.shape[1:] == (128, 171)
    if width > 100:
        assert numbers(planes) == list(range(5))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    frames = np.stack([np.dstack([numbered_frame(i), np.full((240, 320), 90, np.uint8)]) for i in range(6)])
    write_video(tmp_path / "a.mov", frames, vcodec="qtrle", pix_fmt="argb")
    assert numbers(read(tmp_path / "a.mov")[1]) == list(range(6))


def test_a_rotated_video_stands_upright(tmp_path: Path) -> None:
    upright = np.stack([numbered_frame(i) for i in range(6)])
    lying = np.ascontiguousarray(np.rot90(upright, axes=(1, 2)))  # stored turned, with a note to turn it back
    write_video(tmp_path / "plain.mp4", lying, vcodec="libx264", crf=10, pix_fmt="yuv420p")
    turn_on_display(tmp_path / "plain.mp4", tmp_path / "rotated.mp4")
    assert numbers(read(tmp_path / "rotated.mp4")[1]) == list(range(6))
    facts = probe(tmp_path / "rotated.mp4")
    assert (facts.display_width, facts.display_height) == (320, 240)


ANGLES = (-180, -90, -45, 0, 1, 30, 90, 180, 270)


def test_a_video_turned_by_any_angle_has_the_shape_that_ffmpeg_gives_it(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "a.mp4", 1, width=96, height=64)
    wrong = {}
    for angle in ANGLES:
        turn_on_display(tmp_path / "a.mp4", tmp_path / "turned.mp4", degrees=angle)
        command = [ffmpeg_exe(), "-i", tmp_path / "turned.mp4", "-f", "null", "-"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        shown = re.findall(r"Video: wrapped_avframe, .*? (\d+)x(\d+)", said)[-1]
        facts = probe(tmp_path / "turned.mp4")
        if (str(facts.display_width), str(facts.display_height)) != shown:
            wrong[angle] = (facts.display_width, facts.display_height, shown)
    assert not wrong


def turn_on_display(source: Path, target: Path, *, degrees: float = -90) -> None:
    words = f"-v error -y -display_rotation:v:0 {degrees} -i {source} -c copy {target}"
    subprocess.run([ffmpeg_exe(), *words.split()], check=True)


def test_a_varying_frame_rate_neither_drops_nor_doubles_frames(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "a.mkv", 30, vf="setpts='if(lt(N,10),N,10+(N-10)*4)/25/TB'", fps_mode="vfr")
    reader, planes = read(tmp_path / "a.mkv")
    assert numbers(planes) == list(range(30))
    assert reader.num_frames == 30


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


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.avi", {"vcodec": "mpeg4"}), ("a.mkv", {}), ("a.mp4", {"vcodec": "mpeg4", "g": 1, "movflags": "+faststart"})],
)
def test_a_cut_off_file_gives_the_frames_before_the_damage_and_a_warning(
    tmp_path: Path, name: str, options: dict
) -> None:
    write_numbered_video(tmp_path / name, 60, **options)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / f"cut_{name}").write_bytes(whole[: len(whole) // 2])
    reader, planes = read(tmp_path / f"cut_{name}")
    assert reader.warnings
    assert 10 < len(planes) < 60
    assert numbers(planes)[:-1] == list(range(len(planes) - 1)), "only the last, half-read frame may be wrong"
    assert reader.num_frames == len(planes)


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.mp4", b""), ("text.avi", b"this is not a video\n" * 50), ("noise.mkv", bytes(range(256)) * 40)],
)
def test_what_is_no_video_fails_with_its_name_and_a_reason(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoFailure, match=name) as failure:
        probe(tmp_path / name)
    assert failure.value.stage == ("probe" if content else "open")
    assert "\n" not in failure.value.reason
    with pytest.raises(VideoFailure, match=name):
        read(tmp_path / name)


def test_a_playlist_cannot_read_another_file(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "a.ts", 5)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile 'http://127.0.0.1:9/{'a.ts'}'\n")
    with pytest.raises(VideoFailure):
        probe(tmp_path / "list.mp4")
    with pytest.raises(VideoFailure):
        read(tmp_path / "list.mp4")


def test_the_paper_s_sizes() -> None:
    expected = [Geometry(86, 64, 96, 64), Geometry(171, 128, 176, 128), Geometry(342, 256, 352, 256)]
    assert [stretched(size) for size in (64, 128, 256)] == expected


def test_with_kept_aspect_the_short_side_is_the_size_and_the_picture_is_centred() -> None:
    for width, height in itertools.product((64, 100, 320, 433, 512), repeat=2):
        fit = fitted(width, height, 128)
        assert min(fit) == 128
        assert abs(fit[0] / fit[1] - width / height) < 0.02 * width / height
        geometry = centred(fit, (max(fit[0], 400), max(fit[1], 300)))
        right = geometry.tile_width - geometry.left - geometry.content_width
        below = geometry.tile_height - geometry.top - geometry.content_height
        assert geometry.left % 2 == geometry.top % 2 == geometry.tile_width % 16 == geometry.tile_height % 16 == 0
        assert 0 <= right - geometry.left <= 3
        assert 0 <= below - geometry.top <= 3


def test_a_title_that_is_not_utf8_does_not_matter(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "a.avi", 9, vcodec="mpeg4", metadata="title=TITLE_OF_THE_FILM")
    content = (tmp_path / "a.avi").read_bytes()
    assert content.count(b"TITLE_OF_THE_FILM") == 1
    (tmp_path / "b.avi").write_bytes(content.replace(b"TITLE_OF_THE_FILM", b"TITLE_OF_THE_FIL\xd3"))
    assert probe(tmp_path / "b.avi").num_frames_header == 9
