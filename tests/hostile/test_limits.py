"""Each limit ends what exceeds it, with a line that names the limit and its value."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import res3d_video.pipeline.ingest.inspector
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import BuildResult, build_shards
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.errors import VideoFailure
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.ingest.inspector import Inspector, Worker
from res3d_video.pipeline.ingest.limits import Guard, Limits, ended_by
from res3d_video.pipeline.ingest.probe import probe
from res3d_video.pipeline.ingest.transcode import FrameReader, fitted, stretched
from res3d_video.tools.numbered import write_numbered_video, write_video

SIZE = {"width": 172, "height": 96}


@pytest.fixture
def video(tmp_path: Path) -> Path:
    write_numbered_video(tmp_path / "a.mp4", 20, **SIZE)
    return tmp_path / "a.mp4"


def read_all(path: Path, limits: Limits) -> int:
    return sum(len(block) for block in FrameReader(path, stretched(64), block_frames=4, guard=Guard(limits)))


def failure_of(work: Callable[[], object]) -> VideoFailure:
    with pytest.raises(VideoFailure) as raised:
        work()
    return raised.value


@contextlib.contextmanager
def growing(path: Path) -> Iterator[None]:
    """A file that somebody writes to faster than it is read."""
    packets, done = path.read_bytes(), threading.Event()

    def grow() -> None:
        with path.open("ab") as file:
            while not done.is_set() and file.tell() < 300e6:
                file.write(packets)
                file.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(max_pixels=1000), "frames of 172×96 pixels; max_pixels is 1000"),
        (Limits(max_duration_s=0.5), "claims to last 1 s; max_duration_s is 0.5"),
    ],
)
def test_what_a_video_claims_is_refused_before_it_is_decoded(video: Path, limits: Limits, said: str) -> None:
    with Inspector(limits) as inspector:
        for ask in (inspector.probe, inspector.timeline):
            failure = failure_of(lambda ask=ask: ask(video, Guard(limits)))
            assert (failure.stage, failure.reason) == ("limit", f"a.mp4: {said}")


def test_more_frames_than_allowed_are_refused_wherever_they_are_counted(video: Path) -> None:
    limits = Limits(max_frames=19)
    with Inspector(limits) as inspector:
        for work in (
            lambda: read_all(video, limits),
            lambda: inspector.timeline(video, Guard(limits)),
        ):
            assert failure_of(work).reason.endswith("; max_frames is 19")
    assert read_all(video, Limits(max_frames=20)) == 20


def test_frames_that_become_too_large_later_are_left_out(tmp_path: Path) -> None:
    for name, width in (("small.ts", 160), ("large.ts", 640)):
        write_numbered_video(tmp_path / name, 5, width=width, height=96, vcodec="mpeg2video", g=1)
    path = tmp_path / "both.ts"
    path.write_bytes((tmp_path / "small.ts").read_bytes() + (tmp_path / "large.ts").read_bytes())
    assert read_all(path, Limits()) >= 9
    assert 4 <= read_all(path, Limits(max_pixels=30_000)) <= 5


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(max_wall_s=0.7), "took too long; max_wall_s is 0.7"),
        (Limits(max_frames=2000), "has more than 2000 frames; max_frames is 2000"),
    ],
)
def test_a_video_without_an_end_is_ended_by_a_limit(tmp_path: Path, limits: Limits, said: str) -> None:
    path = tmp_path / "a.ts"
    write_numbered_video(path, 50, vcodec="mpeg2video", g=5)
    with growing(path):
        failure = failure_of(lambda: read_all(path, limits))
    assert (failure.stage, failure.reason) == ("limit", f"a.ts: {said}")


def test_a_video_that_takes_too_much_work_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ts"
    write_numbered_video(path, 50, vcodec="mpeg2video", g=5)
    path.write_bytes(path.read_bytes() * 1000)
    assert failure_of(lambda: read_all(path, Limits(max_cpu_s=1))).reason.endswith("; max_cpu_s is 1")
    code = "import res3d_video.pipeline.ingest.inspector as i; i.probe = lambda *of: sum(iter(int, 1)); i.serve()"
    monkeypatch.setattr(res3d_video.pipeline.ingest.inspector, "START", code)
    with Inspector() as inspector:
        failure = failure_of(lambda: inspector.probe(path, Guard(Limits(max_cpu_s=1))))
    assert failure.reason == "a.ts: took too long to read; max_cpu_s is 1"


def test_memory_that_a_header_asks_for_is_not_given(tmp_path: Path, video: Path) -> None:
    mp4, limits = video.read_bytes(), Limits(max_pixels=10**9, max_memory_mb=1000)
    place = mp4.index(b"stts") + 8
    video.write_bytes(mp4[:place] + b"\x7f\xff\xff\xff" + mp4[place + 4 :])  # so many times of frames
    with Inspector(limits) as inspector:
        failure = failure_of(lambda: inspector.probe(video, Guard(limits)))
    assert failure.reason == "a.mp4: needs more memory to read; max_memory_mb is 1000"
    side = (14_000).to_bytes(2, "little")
    gif = b"GIF89a" + side + side + b"\xf0\0\0" + bytes(6) + b"," + bytes(4) + side + side + b"\0\2\2L\1\0;"
    (tmp_path / "a.gif").write_bytes(gif)
    assert "max_memory_mb is 1000" in failure_of(lambda: read_all(tmp_path / "a.gif", limits)).reason


def build(folder: Path, limits: Limits) -> BuildResult:
    listing = list_folder(folder / "raw", test_fraction=0.0)
    return build_shards(listing, folder / "out", BuildSettings(size=64), workers=1, limits=limits)


def test_what_is_stored_of_a_video_is_limited_and_another_limit_is_tried_anew(tmp_path: Path) -> None:
    (tmp_path / "raw/one").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (260, 64, 86, 3), np.uint8)
    write_video(tmp_path / "raw/one/noise.mp4", noise, vcodec="libx264", crf=10, preset="ultrafast")
    write_numbered_video(tmp_path / "raw/one/short.mp4", 5, **SIZE)
    first = build(tmp_path, Limits(max_output_mb=1))
    assert (first.num_samples, first.num_quarantined) == (1, 1)
    line = (tmp_path / "out/quarantine.jsonl").read_text()
    assert "noise.mp4: gives more than 1000000 bytes; max_output_mb is 1" in line
    assert build(tmp_path, Limits(max_output_mb=1)).num_shards_kept == 1
    second = build(tmp_path, Limits(max_output_mb=100))
    assert (second.num_samples, second.num_quarantined, second.num_shards_kept) == (2, 0, 0)
    assert build(tmp_path, Limits(max_output_mb=1)).num_shards_kept == 1, "nothing was refused, so limits do not matter"


def test_links_out_of_the_raw_folder_are_read_only_where_that_is_allowed(tmp_path: Path, video: Path) -> None:
    (tmp_path / "raw/one").mkdir(parents=True)
    (tmp_path / "raw/one/link.mp4").symlink_to(video)
    assert build(tmp_path, Limits()).num_samples == 0
    assert "--follow-links allows it" in (tmp_path / "out/quarantine.jsonl").read_text()
    assert build(tmp_path, Limits(follow_links=True)).num_samples == 1


def test_a_raw_folder_that_is_a_link_itself_is_the_raw_folder(tmp_path: Path, video: Path) -> None:
    (tmp_path / "there/one").mkdir(parents=True)
    video.rename(tmp_path / "there/one/a.mp4")
    (tmp_path / "raw").symlink_to("there")
    assert build(tmp_path, Limits()).num_samples == 1


def test_a_video_that_crashes_its_reader_costs_that_reader_only(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "import os, signal, sys; sys.stdin.readline(); os.kill(os.getpid(), signal.SIGSEGV)"
    with Inspector() as inspector:
        with monkeypatch.context() as patched:
            patched.setattr(res3d_video.pipeline.ingest.inspector, "START", crash)
            failure = failure_of(lambda: inspector.probe(video, Guard()))
        assert failure.reason == "a.mp4: the process that read it was ended by SIGSEGV"
        assert inspector.probe(video, Guard()).display_width == 172, "another one reads on"


def test_a_reader_that_stalls_or_answers_nonsense_is_ended(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Worker] = []
    monkeypatch.setattr(Worker, "__init__", lambda self, old=Worker.__init__: (old(self), started.append(self))[0])
    for program, said in (
        ("import time; time.sleep(60)", "took too long; max_wall_s is 0.5"),
        ("import sys, time; sys.stdout.write('{'); sys.stdout.flush(); time.sleep(60)", "took too long; max_wall_s"),
        ("print('{', flush=True)", "a.mp4: the process that read it"),
        ("print('[1]', flush=True)", "a.mp4: the process that read it"),
    ):
        with Inspector() as inspector, monkeypatch.context() as patched:
            patched.setattr(res3d_video.pipeline.ingest.inspector, "START", program)
            failure = failure_of(lambda inspector=inspector: inspector.probe(video, Guard(Limits(max_wall_s=0.5))))
        assert said in failure.reason
    assert len(started) == 4
    assert all(worker._process.poll() is not None for worker in started)


def test_an_ffmpeg_that_crashes_gives_no_sample(video: Path) -> None:
    reader = FrameReader(video, stretched(64), block_frames=4)
    blocks = iter(reader)
    next(blocks)
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGSEGV)
    failure = failure_of(lambda: list(blocks))
    assert "ffmpeg was ended by SIGSEGV after frame" in failure.reason


def test_a_shape_that_would_make_every_tile_long_is_refused() -> None:
    assert fitted(800, 100, 128) == (1024, 128)
    assert "801×100, is too long to keep" in failure_of(lambda: fitted(801, 100, 128)).reason


def test_limits_that_make_no_sense_are_refused() -> None:
    for name in ("max_pixels", "max_frames", "max_duration_s", "max_wall_s", "max_cpu_s", "max_output_mb"):
        with pytest.raises(ValueError, match=f"{name} must be .* to 1,000,000,000, got 0"):
            replace(Limits(), **{name: 0})
    with pytest.raises(ValueError, match="max_memory_mb must be 1,000 to 1,000,000,000, got 999"):
        Limits(max_memory_mb=999)


def test_how_a_process_ended_is_said_in_words() -> None:
    assert ended_by(-signal.SIGKILL) == "was ended by SIGKILL"
    assert ended_by(-200) == "was ended by signal 200"


def test_the_lock_of_a_build_does_not_follow_a_link(tmp_path: Path, video: Path) -> None:
    (tmp_path / "raw/one").mkdir(parents=True)
    video.rename(tmp_path / "raw/one/a.mp4")
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.dataset.json.tmp").symlink_to(tmp_path / "mine")
    build(tmp_path, Limits())
    (tmp_path / "out/.lock").unlink()
    (tmp_path / "out/.lock").symlink_to(tmp_path / "mine")
    with pytest.raises((OSError, ShardError)):
        build(tmp_path, Limits())
    assert (tmp_path / "mine").read_text() == "precious"


def test_nobody_else_may_write_what_is_built_whatever_the_umask(tmp_path: Path, video: Path) -> None:
    (tmp_path / "raw/one").mkdir(parents=True)
    video.rename(tmp_path / "raw/one/a.mp4")
    before = os.umask(0)
    try:
        build(tmp_path, Limits())
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if path.stat().st_mode & 0o022]


def test_probing_without_a_guard_has_the_limits_of_every_video(video: Path) -> None:
    assert probe(video).display_width == 172
