"""Limits for one raw video, which is untrusted: every program that reads it is held to them."""

import contextlib
import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from res3d_video.pipeline.errors import VideoFailure
from res3d_video.pipeline.files import NotPlainError, open_plain
from res3d_video.pipeline.settings import check_fields, described

# FFmpeg's names of the containers whose suffixes the adapters look for; each is one self-contained file.
# Formats that open further files (hls, dash, concat, image2, sdp, …) are left out.
FORMATS = "mov,matroska,avi,asf,flv,gif,mpegts,mpeg,mpegvideo,m4v,ogg"
PROTOCOL = "fd"  # an open file descriptor: no file name that could be interpreted, and nothing else can be opened
MESSAGE_BYTES = 2**20  # of a program's messages; the rest is lost
MB = 10**6
MOST = 10**9  # of any limit; FFmpeg and the system accept no more for some


@dataclass(frozen=True)
class Limits:
    """Limits for one raw video. A video that exceeds one is quarantined with the limit's name."""

    max_pixels: int = described(4096 * 4096, "Of a frame; a video with more is quarantined, as with the rest.", 1, MOST)
    max_frames: int = described(24 * 3600 * 60, "Of a video, that decode.", 1, MOST)
    max_duration_s: float = described(48 * 3600.0, "That a video claims; MPEG-TS may add 26.5 hours.", 0.001, MOST)
    max_wall_s: float = described(3600.0, "For all that is done with a video.", 0.001, MOST)
    max_cpu_s: int = described(2 * 3600, "Of each process that reads a video.", 1, MOST)
    max_memory_mb: int = described(4000, "Address space of each process that reads a video.", 1000, MOST)
    max_output_mb: int = described(2000, "Stored of a video, a segment at a time, held in memory.", 1, MOST)
    follow_links: bool = described(False, "Read videos outside the raw folder, where a link leads there.")

    def __post_init__(self) -> None:
        check_fields(self)


class Guard:
    """Opens one raw video, which must lie in `home`, and measures its time from construction on."""

    def __init__(self, limits: Limits | None = None, *, home: Path | None = None) -> None:
        self.limits, self.home = limits or Limits(), home
        self._end = time.monotonic() + self.limits.max_wall_s

    def open(self, path: Path) -> int:
        """An open descriptor of the video; the caller closes it.

        Raises:
            VideoFailure: It is not a regular file, is empty, or cannot be opened.
        """
        try:
            descriptor = open_plain(path, home=self.home)
        except NotPlainError as error:
            way_out = "; --follow-links allows it" if " a link leads " in str(error) else ""
            raise VideoFailure("open", f"{error}{way_out}") from None
        except (OSError, ValueError) as error:  # a zero byte in a name is a ValueError
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise VideoFailure("open", f"{path.name}: cannot be opened ({reason})") from None
        if not os.fstat(descriptor).st_size:
            os.close(descriptor)
            raise VideoFailure("open", f"{path.name}: is empty")
        return descriptor

    def left_s(self, path: Path) -> float:
        """Wall time that is left.

        Raises:
            VideoFailure: No time is left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.exceeded("max_wall_s", path, "took too long")
        return left

    def exceeded(self, limit: str, path: Path, what: str) -> VideoFailure:
        """The exception to raise for a video that exceeds a limit."""
        return VideoFailure("limit", f"{path.name}: {what}; {limit} is {getattr(self.limits, limit)}")


def input_options(descriptor: int, limits: Limits) -> dict[str, str]:
    """FFmpeg's options for its input, whose name then is "fd:"."""
    return {
        "fd": str(descriptor),
        "protocol_whitelist": PROTOCOL,
        "format_whitelist": FORMATS,
        "max_pixels": str(limits.max_pixels),
        "threads": "1",  # videos are decoded side by side instead; each thread takes address space
    }


def confine(pid: int, limits: Limits) -> None:
    """Set the limits on a process of this user that was just started; it may not write large files either."""
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        memory = limits.max_memory_mb * MB
        resource.prlimit(pid, resource.RLIMIT_CPU, (limits.max_cpu_s, limits.max_cpu_s + 5))  # SIGXCPU, then SIGKILL
        resource.prlimit(pid, resource.RLIMIT_AS, (memory, memory))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (MESSAGE_BYTES, MESSAGE_BYTES))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def cpu_s_of(pid: int) -> float:
    """CPU time of a child process, in seconds. Blocks until it ends, and does not reap it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ended_by(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
