"""ffmpeg graphs: a source video becomes planar frames of one stored size."""

import contextlib
import fcntl
import math
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np

from pipeline.failure import VideoFailure
from pipeline.filmstrip import MCU, Planes

# Antialiased bilinear, exact rounding: the same bytes on every CPU. The paper resized with OpenCV's bilinear, which
# does not antialias; a network trained on these frames sees slightly cleaner ones.
SCALE_FLAGS = "bilinear+accurate_rnd+full_chroma_int+bitexact"
DECODE_TIMEOUT_S = 3600.0
PIPE_BYTES = 1 << 20  # of frames under way from ffmpeg; the kernel's 64 KiB are two frames


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
    """Width and height of a picture whose short side becomes `size`, aspect ratio kept.

    >>> fitted(320, 240, 128), fitted(240, 320, 128)
    ((171, 128), (128, 171))
    """
    scale = size / min(display_width, display_height)
    return max(round(display_width * scale), size), max(round(display_height * scale), size)


def centred(content: tuple[int, int], canvas: tuple[int, int]) -> Geometry:
    """Content (width, height) in the middle of a tile that holds a canvas (width, height)."""
    tile_width, tile_height = _aligned(canvas[0]), _aligned(canvas[1])
    left, top = (tile_width - content[0]) // 4 * 2, (tile_height - content[1]) // 4 * 2
    return Geometry(*content, tile_width, tile_height, left, top)


def _aligned(pixels: int) -> int:
    return -(-pixels // MCU) * MCU


def ffmpeg_exe() -> str:
    """The system's ffmpeg, or the one that comes with the imageio-ffmpeg package."""
    return shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()


def ffmpeg_version() -> str:
    """First line of `ffmpeg -version`, without the copyright."""
    first = subprocess.run([ffmpeg_exe(), "-version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return first.split(" Copyright")[0]


class FrameReader:
    """Decode a video and scale it, in blocks of frames; ffmpeg does both, in a process of its own.

    Frames come as the decoder gives them: none is dropped or doubled to keep a rate, unless `fps` asks for one.
    Rotation is applied, alpha is dropped, every depth becomes 8 bits, every colour matrix BT.601: of full
    range as in JPEG, or of limited range as in video.

    Attributes:
        num_frames: Frames read so far; the decoded count once iteration is over.
        warnings: Lines of ffmpeg's about damage it got over.
    """

    def __init__(
        self,
        path: Path,
        geometry: Geometry,
        *,
        block_frames: int,
        frame_step: int = 1,
        fps: float | None = None,
        full_range: bool = True,
    ) -> None:
        self.path, self.geometry, self.block_frames = path, geometry, block_frames
        self.frame_step, self.fps, self.full_range = frame_step, fps, full_range
        self.num_frames = 0
        self.warnings: list[str] = []

    def command(self) -> list[str]:
        """The ffmpeg command line."""
        source = ffmpeg.input(str(self.path), threads=1, protocol_whitelist="file")
        film = source["V:0"]  # capital V: not a cover picture
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
        output = film.output("pipe:1", format="rawvideo", fps_mode="passthrough", threads=1)
        return output.global_args("-nostdin", "-loglevel", "warning").compile(cmd=ffmpeg_exe())

    def __iter__(self) -> Iterator[Planes]:
        """Yield blocks of `block_frames` frames, every `frame_step`-th of the source; the last may be shorter.

        Raises:
            VideoFailure: Not one frame came out, or ffmpeg took longer than an hour.
        """
        height, width = self.geometry.content_height, self.geometry.content_width
        chroma_shape = (-(-height // 2), -(-width // 2))
        frame_bytes = height * width + 2 * chroma_shape[0] * chroma_shape[1]
        source_frames = self.block_frames * self.frame_step
        with tempfile.TemporaryFile() as messages:
            process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=messages)
            timed_out = threading.Event()

            def give_up() -> None:
                timed_out.set()
                process.kill()

            watchdog = threading.Timer(DECODE_TIMEOUT_S, give_up)
            watchdog.daemon = True
            watchdog.start()
            try:
                assert process.stdout
                with contextlib.suppress(OSError):  # the kernel may allow a user only so much; it is for speed alone
                    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
                while raw := process.stdout.read(source_frames * frame_bytes):
                    num_whole = len(raw) // frame_bytes  # a killed ffmpeg may leave part of a frame
                    frames = np.frombuffer(raw, np.uint8, num_whole * frame_bytes).reshape(num_whole, frame_bytes)
                    self.num_frames += num_whole
                    frames = frames[:: self.frame_step]
                    if len(frames):
                        y, u, v = np.split(
                            frames,
                            [height * width, height * width + chroma_shape[0] * chroma_shape[1]],
                            axis=1,
                        )
                        yield Planes(
                            y.reshape(-1, height, width),
                            u.reshape(-1, *chroma_shape),
                            v.reshape(-1, *chroma_shape),
                        )
                code = process.wait()
            finally:
                watchdog.cancel()
                process.kill()
                process.wait()
            messages.seek(0)
            lines = [line for line in messages.read().decode(errors="replace").splitlines() if line.strip()]
        if timed_out.is_set():
            raise VideoFailure("decode", f"{self.path.name}: ffmpeg needed more than {DECODE_TIMEOUT_S:.0f} s")
        if not self.num_frames:
            raise VideoFailure("decode", f"{self.path.name}: {lines[-1] if lines else f'no frame, ffmpeg exit {code}'}")
        self.warnings = damage(lines)
        if code:
            self.warnings.append(f"ffmpeg stopped with exit code {code} after frame {self.num_frames}")


def damage(lines: list[str]) -> list[str]:
    """Lines of ffmpeg's log that speak of damage, not of taste, each once and without its memory addresses.

    >>> damage(["[mpeg4 @ 0x55] ac-tex damaged at 3 4", "[swscaler @ 0x7] deprecated pixel format used"])
    ['mpeg4: ac-tex damaged at 3 4']
    """
    words = (
        "damag",
        "error",
        "invalid",
        "corrupt",
        "missing",
        "truncat",
        "conceal",
        "could not",
        "non-existing",
    )
    told: dict[str, None] = {}
    for line in lines:
        if any(word in line.lower() for word in words):
            source, _, text = line.rpartition("] ")
            name = source.strip("[").split(" @")[0]
            told[f"{name}: {text}" if name else text] = None
    return list(told)[:5]
