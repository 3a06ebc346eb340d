"""Decodes a source video with ffmpeg into planar frames of the stored size."""

import contextlib
import fcntl
import math
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

import ffmpeg
import imageio_ffmpeg
import numpy as np

from res3d_video.pipeline.codecs import Planes
from res3d_video.pipeline.codecs.filmstrip import MCU
from res3d_video.pipeline.errors import VideoFailure
from res3d_video.pipeline.ingest.limits import (
    MESSAGE_BYTES,
    PROTOCOL,
    Guard,
    confine,
    cpu_s_of,
    ended_by,
    input_options,
)
from res3d_video.pipeline.ingest.probe import Piece, seek_options

# Antialiased bilinear with exact rounding gives the same bytes on every CPU. The paper resized with OpenCV's bilinear,
# which does not antialias, so these frames are slightly cleaner.
SCALE_FLAGS = "bilinear+accurate_rnd+full_chroma_int+bitexact"
MAX_ASPECT = 8  # with kept aspect ratio; one video of 8:1 and one of 1:8 make tiles 46 times as large as 4:3
ASKED_TO_END = 255  # ffmpeg's exit code after a signal: CPU time exceeded, or Ctrl-C
DAMAGE = re.compile("damag|error|invalid|corrupt|missing|truncat|prematurely|conceal|could not|non-existing", re.I)
PIPE_BYTES = 1 << 20  # buffer for ffmpeg's frames; the kernel's default of 64 KiB holds two


@dataclass(frozen=True)
class Geometry:
    """Where a video's picture lies in its tile, pixels; left and top are even."""

    content_width: int
    content_height: int
    tile_width: int
    tile_height: int
    left: int = 0
    top: int = 0


def stretched(size: int) -> Geometry:
    """The paper's input: height `size`, width 4/3 of it, aspect ratio ignored (128 gives 171×128, section 3).

    >>> stretched(128)
    Geometry(content_width=171, content_height=128, tile_width=176, tile_height=128, left=0, top=0)
    """
    width = math.ceil(size * 4 / 3)
    return Geometry(width, size, _aligned(width), _aligned(size))


def fitted(display_width: int, display_height: int, size: int) -> tuple[int, int]:
    """Width and height of a picture whose short side becomes `size`, with its aspect ratio kept.

    Raises:
        VideoFailure: One side is more than 8 times the other, which would enlarge all tiles of the dataset.

    >>> fitted(320, 240, 128), fitted(240, 320, 128)
    ((171, 128), (128, 171))
    """
    if max(display_width, display_height) > MAX_ASPECT * min(display_width, display_height):
        shape = f"{display_width}×{display_height}"
        rule = f"at most {MAX_ASPECT} to 1 can be stored; --no-keep-aspect stretches it"
        raise VideoFailure("probe", f"its shape, {shape}, is too long to keep; {rule}")
    scale = size / min(display_width, display_height)
    return max(round(display_width * scale), size), max(round(display_height * scale), size)


def centred(content: tuple[int, int], canvas: tuple[int, int]) -> Geometry:
    """Content (width, height) centered in a tile that holds a canvas (width, height)."""
    tile_width, tile_height = _aligned(canvas[0]), _aligned(canvas[1])
    left, top = (tile_width - content[0]) // 4 * 2, (tile_height - content[1]) // 4 * 2
    return Geometry(*content, tile_width, tile_height, left, top)


def _aligned(pixels: int) -> int:
    return -(-pixels // MCU) * MCU


@cache
def ffmpeg_exe() -> str:
    """The system's ffmpeg if it can read a file descriptor (6.0 and later), else that of imageio-ffmpeg."""
    found = shutil.which("ffmpeg")
    if found:
        known = subprocess.run([found, "-hide_banner", "-protocols"], capture_output=True, text=True, check=False)
        if PROTOCOL in known.stdout.split():
            return found
    return imageio_ffmpeg.get_ffmpeg_exe()


def ffmpeg_version() -> str:
    """First line of `ffmpeg -version`, without the copyright."""
    text = subprocess.run([ffmpeg_exe(), "-version"], capture_output=True, text=True, check=True).stdout
    return text.partition("\n")[0].partition(" Copyright")[0]


@dataclass
class FrameReader:
    """Decodes and scales a video in blocks of frames, with an ffmpeg process.

    Frames are those of the decoder: none is dropped or duplicated to keep a rate, unless `fps` is given. Rotation is
    applied, alpha is dropped, every depth becomes 8 bits, every color matrix BT.601 with full range (JPEG) or limited
    range (video).

    Attributes:
        block_frames: Frames in each block; the last may have fewer.
        frame_step: Keep every frame_step-th frame.
        piece: Read only these frames; fewer if they do not decode, or cannot be reached by seeking.
        num_wanted: End after so many; with `fps`, a piece's last frame would be repeated to the video's end.
        guard: Opens the video and limits ffmpeg.
        num_frames: Frames read so far; at the end of iteration the decoded count.
        warnings: Lines of ffmpeg's log about damage that it concealed.
    """

    path: Path
    geometry: Geometry
    _: KW_ONLY
    block_frames: int
    frame_step: int = 1
    fps: float | None = None
    full_range: bool = True
    piece: Piece | None = None
    num_wanted: int | None = None
    guard: Guard = field(default_factory=Guard)
    num_frames: int = field(default=0, init=False)
    warnings: list[str] = field(default_factory=list, init=False)

    def command(self, descriptor: int) -> list[str]:
        """The ffmpeg command line that reads an open file."""
        seek, only = seek_options(self.piece)
        source = ffmpeg.input("fd:", **input_options(descriptor, self.guard.limits), **seek)
        film = source["V:0"]  # capital V excludes cover pictures
        if self.piece:
            film = film.filter("select", only)
        if self.fps:
            film = film.filter("fps", fps=self.fps)
        film = film.filter(
            "scale",
            self.geometry.content_width,
            self.geometry.content_height,
            flags=SCALE_FLAGS,
            out_range="full" if self.full_range else "limited",
            out_color_matrix="bt601",
        ).filter("format", "yuv420p")
        end = {"frames:v": self.num_wanted} if self.num_wanted else {}
        output = film.output("pipe:1", format="rawvideo", fps_mode="passthrough", threads=1, **end)
        times = ("-copyts",) if self.piece else ()
        return output.global_args("-nostdin", "-loglevel", "warning", "-filter_threads", "1", *times).compile(
            cmd=ffmpeg_exe()
        )

    def __iter__(self) -> Iterator[Planes]:
        """Yield blocks of frames.

        Raises:
            VideoFailure: It cannot be opened, not one frame came out, or a limit is exceeded.
        """
        luma = (self.geometry.content_height, self.geometry.content_width)
        chroma = (-(-luma[0] // 2), -(-luma[1] // 2))
        ends = np.cumsum([math.prod(luma), math.prod(chroma), math.prod(chroma)])  # of the planes in a frame
        frame_bytes = int(ends[-1])
        source_frames = self.block_frames * self.frame_step
        limits, timed_out, left_s = self.guard.limits, threading.Event(), self.guard.left_s(self.path)
        with tempfile.TemporaryFile() as messages:
            process = self._start(messages)

            def give_up() -> None:
                timed_out.set()
                process.kill()

            watchdog = threading.Timer(left_s, give_up)
            watchdog.daemon = True
            watchdog.start()
            assert process.stdout
            try:
                confine(process.pid, limits)
                with contextlib.suppress(OSError):  # the kernel limits a user's pipes; this is only for speed
                    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
                while raw := process.stdout.read(source_frames * frame_bytes):
                    num_whole = len(raw) // frame_bytes  # a killed ffmpeg may leave part of a frame
                    frames = np.frombuffer(raw, np.uint8, num_whole * frame_bytes).reshape(num_whole, frame_bytes)
                    self.num_frames += num_whole
                    if self.num_frames > limits.max_frames:
                        raise self.guard.exceeded("max_frames", self.path, f"has more than {limits.max_frames} frames")
                    frames = frames[:: self.frame_step]
                    if len(frames):
                        y, u, v = np.split(frames, ends[:2], axis=1)
                        yield Planes(y.reshape(-1, *luma), u.reshape(-1, *chroma), v.reshape(-1, *chroma))
                cpu_s, code = cpu_s_of(process.pid), process.wait()
            finally:
                watchdog.cancel()
                process.kill()
                process.wait()
                process.stdout.close()
            messages.seek(0)
            log = messages.read(MESSAGE_BYTES).decode(errors="replace")
        lines = [line for line in log.splitlines() if line.strip()]
        if timed_out.is_set():
            raise self.guard.exceeded("max_wall_s", self.path, "took too long")
        if cpu_s >= limits.max_cpu_s:
            raise self.guard.exceeded("max_cpu_s", self.path, "took too long to decode")
        if "Cannot allocate memory" in log:
            raise self.guard.exceeded("max_memory_mb", self.path, "needs more memory to decode")
        ended = f"ffmpeg {ended_by(code)} after frame {self.num_frames}"
        if code < 0 or code == ASKED_TO_END:  # it crashed or was ended
            raise VideoFailure("decode", f"{self.path.name}: {ended}")
        if not self.num_frames:
            raise VideoFailure("decode", f"{self.path.name}: {without_address(lines[-1]) if lines else ended}")
        self.warnings = damage(lines)
        if code:
            self.warnings.append(ended)

    def _start(self, messages: IO[bytes]) -> subprocess.Popen[bytes]:
        descriptor = self.guard.open(self.path)
        try:
            return subprocess.Popen(
                self.command(descriptor),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=messages,
                pass_fds=(descriptor,),
                restore_signals=False,  # SIGXFSZ stays ignored: a long log does not kill ffmpeg
            )
        finally:
            os.close(descriptor)


def damage(lines: list[str]) -> list[str]:
    """The first five different lines of ffmpeg's log about damage, without memory addresses."""
    return list(dict.fromkeys(without_address(line) for line in lines if DAMAGE.search(line)))[:5]


def without_address(line: str) -> str:
    """A line of ffmpeg's log without memory addresses, so that it is the same in every run.

    >>> without_address("[mov,mp4 @ 0x55] moov atom not found"), without_address("No such filter: 'a'")
    ('mov,mp4: moov atom not found', "No such filter: 'a'")
    """
    source, _, text = line.rpartition("] ")
    name = source.strip("[").split(" @")[0]
    return f"{name}: {text}" if name else text
