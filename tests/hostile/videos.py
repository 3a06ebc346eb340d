"""Damaged and hostile video files, made on the spot from small videos that know their own frames."""

import os
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from res3d_video.tools.numbered import write_numbered_video
from tests.hostile.containers import boundaries

NUM_FRAMES = 12
SIZE = {"width": 172, "height": 96}
INTRA = {"vcodec": "mjpeg", "qscale": 3, "pix_fmt": "yuvj420p"}  # every frame stands alone
KINDS = {
    ".mp4": {"movflags": "+faststart", "g": 1, "aspect": "16:9"},
    ".avi": {**INTRA},
    ".mkv": {"vcodec": "mpeg4", "qscale": 2, "g": 1},
    ".ts": {"vcodec": "mpeg2video", "qscale": 2, "g": 4},
    ".flv": {"vcodec": "flv", "qscale": 2, "g": 4},
    ".webm": {"vcodec": "libvpx", "b:v": "1M", "g": 4},
    ".wmv": {"vcodec": "wmv2", "qscale": 2, "g": 4},
    ".mpg": {"vcodec": "mpeg2video", "qscale": 2, "g": 4},
    ".mov": {**INTRA},
}
NAMES = ("a%03d", "a:b", "file:x", "-i", "concat:a|b", 'it\'s "so"', "*?[a]", "pipe:0", "two\nlines", "fd:", "$(id)")
NAMES += ("\u2028Ä", "\x1b[31mred", "subfile,,start,0,end,9,,:a", "crypto+file:a", "http:||localhost|a", "data:,", " ")

# What a file must give: all its frames; the first ones, the last perhaps spoilt, or none; all but a few, or none; none;
# whatever a decoder makes of it, or none.
ALL, FIRST, MOST, NONE, EITHER = "all", "the first or none", "most or none", "none", "some or none"


@dataclass
class Hostile:
    """A folder of hostile files.

    Attributes:
        expected: Name -> ALL, FIRST, MOST, EITHER or NONE.
    """

    folder: Path
    expected: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, expected: str, content: bytes | None = None) -> Path:
        """A file of this name; `content` is written to it."""
        assert name not in self.expected, name
        self.expected[name] = expected
        path = self.folder / name
        if content is not None:
            path.write_bytes(content)
        return path


def originals(folder: Path) -> dict[str, bytes]:
    """A small video of each kind, by its suffix."""
    found = {}
    for suffix, options in KINDS.items():
        write_numbered_video(folder / f"original{suffix}", NUM_FRAMES, **SIZE, **options)
        found[suffix] = (folder / f"original{suffix}").read_bytes()
    return found


def add_whole(hostile: Hostile, videos: dict[str, bytes], *, some: bool = False) -> None:
    """Videos in order, under wrong suffixes and names that mean something to somebody."""
    suffixes = list(videos)
    for suffix, wrong in zip(suffixes, suffixes[1:] + suffixes[:1], strict=True):
        hostile.add(f"whole{suffix}", ALL, videos[suffix])
        hostile.add(f"is{suffix}{wrong}", ALL, videos[suffix])
    for name in NAMES[:: 4 if some else 1]:
        hostile.add(f"{name}.mp4", ALL, videos[".mp4"])
    hostile.add("a%03d.gif", ALL, videos[".mp4"])
    hostile.add("tail.mp4", ALL, videos[".mp4"] + b"\0" * 100_000)
    hostile.add("twice.ts", EITHER, videos[".ts"] * 2)


def add_cut(hostile: Hostile, videos: dict[str, bytes], *, some: bool = False) -> None:
    """Videos that end at the border of a box, in its middle, or just behind it."""
    for suffix in (".mp4", ".avi", ".mkv"):
        whole = videos[suffix]
        places = boundaries(whole, suffix)
        for place in places[:: max(len(places) // 3, 1)] if some else places:
            hostile.add(f"cut-{place}{suffix}", FIRST, whole[:place])
        for place in () if some else places[::3]:
            hostile.add(f"cut-{place + 5}-in{suffix}", FIRST, whole[: place + 5])


def add_flipped(hostile: Hostile, videos: dict[str, bytes], *, count: int) -> None:
    """Videos with flipped bits, runs of zeros, and pieces that are missing or come twice."""
    random_ = random.Random(0)
    for suffix in videos:
        for i in range(count):
            content = bytearray(videos[suffix])
            end = len(content) if i % 2 else min(len(content), 700)  # every other one in its head
            for _ in range(1 + i % 3):
                content[random_.randrange(end)] ^= 1 << random_.randrange(8)
            alone = suffix in (".mp4", ".avi", ".mkv", ".mov") and i % 2  # a flip spoils a frame or two
            hostile.add(f"flip-{i}{suffix}", MOST if alone else EITHER, bytes(content))
        place = random_.randrange(len(videos[suffix]) - 200)
        whole = videos[suffix]
        hostile.add(f"zeros{suffix}", EITHER, whole[:place] + bytes(100) + whole[place + 100 :])
        hostile.add(f"hole{suffix}", EITHER, whole[:place] + whole[place + 100 :])
        hostile.add(f"again{suffix}", EITHER, whole[: place + 100] + whole[place:])


def playlists(target: str) -> Iterator[tuple[str, str]]:
    """Texts that ask a player to open something else."""
    yield "hls", f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n"
    yield "hls-key", f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:9,\nwhole.ts\n#EXT-X-ENDLIST\n'
    yield "hls-map", f'#EXTM3U\n#EXT-X-MAP:URI="{target}"\n#EXTINF:9,\nwhole.mp4\n#EXT-X-ENDLIST\n'
    yield "hls-live", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n"  # asks again, for ever
    yield "concat", f"ffconcat version 1.0\nfile '{target}'\n"
    yield "concat-old", f"file '{target}'\n"
    yield "sdp", f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=control:{target}\n"
    yield "asx", f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>'
    yield "smil", f'<smil><body><video src="{target}"/></body></smil>'
    yield "svg", f'<svg xmlns:x="http://www.w3.org/1999/xlink"><image x:href="{target}" width="9" height="9"/></svg>'
    yield "avs", f'FFmpegSource2("{target}")\n'
    yield "ram", f"{target}\n"
    yield "rtsp", f"[Reference]\nRef1={target}\n"
    yield (
        "dash",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" mediaPresentationDuration="PT9S">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="0" codecs="avc1" width="9" height="9" '
        f'bandwidth="9"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    )


def add_playlists(hostile: Hostile, targets: list[str], *, some: bool = False) -> None:
    """Texts that ask for other files or for a server, under suffixes of videos."""
    suffixes = (".mp4", ".ts", ".avi", ".mkv", ".webm")
    for i, target in enumerate(targets):
        for j, (kind, text) in enumerate(playlists(target)):
            if not some or (i + j) % 6 == 0:
                hostile.add(f"{kind}-{i}{suffixes[(i + j) % len(suffixes)]}", NONE, text.encode())


def add_no_videos(hostile: Hostile, videos: dict[str, bytes], outside: Path) -> None:
    """What is no video, no plain file, or lies elsewhere."""
    hostile.add("empty.mp4", NONE, b"")
    hostile.add("one-byte.mkv", NONE, b"\x1a")
    hostile.add("text.avi", NONE, b"this is not a video\n" * 50)
    hostile.add("only-zeros.mp4", NONE, bytes(100_000))
    hostile.add("only-ones.ts", NONE, b"\xff" * 100_000)
    hostile.add("noise.mpg", NONE, random.Random(1).randbytes(100_000))
    hostile.add(
        "sound.mp4", NONE, b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\0\0\0"
    )
    hostile.add("script.avi", NONE, b"#!/bin/sh\ntouch /tmp/owned\n")
    os.mkfifo(hostile.add("pipe.ts", NONE))
    hostile.add("folder.mp4", NONE).mkdir()
    folder = os.open(hostile.folder, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{folder}/socket.mp4")  # the folder's own name is too long for a socket
    os.close(folder)
    hostile.add("socket.mp4", NONE)
    (outside / "other.mp4").write_bytes(videos[".mp4"])
    hostile.add("link-out.mp4", NONE).symlink_to(outside / "other.mp4")
    hostile.add("link-out-relative.mp4", NONE).symlink_to(Path("..") / ".." / outside.name / "other.mp4")
    hostile.add("link-device.mp4", NONE).symlink_to("/dev/zero")
    hostile.add("link-passwd.mp4", NONE).symlink_to("/etc/passwd")
    hostile.add("link-loop.mp4", NONE).symlink_to("link-loop.mp4")
    hostile.add("link-nowhere.mp4", NONE).symlink_to("gone.mp4")
    hostile.add("link-inside.mp4", ALL).symlink_to("whole.mp4")


def add_huge(hostile: Hostile, videos: dict[str, bytes]) -> None:
    """Small files that claim frames of gigapixels, many frames, or days."""
    for side in (16_384, 65_500, 65_535):
        both = side.to_bytes(2, "little")
        gif = b"GIF89a" + both + both + b"\xf0\0\0" + bytes(6) + b"," + bytes(4) + both + both + b"\0\2\2L\1\0;"
        hostile.add(f"huge-{side}.gif", NONE, gif)
        jpeg = videos[".avi"]
        place = jpeg.index(b"\xff\xc0") + 5  # SOF0: length, precision, then height and width
        big = side.to_bytes(2, "big")
        spoilt = jpeg[:place] + big + big + jpeg[place + 4 :]
        hostile.add(f"huge-{side}.avi", EITHER, spoilt)
    mp4 = videos[".mp4"]
    for name, box, offset, value in (
        ("width", b"avc1", 24 + 4, b"\xff\xff\xff\xff"),
        ("duration", b"mvhd", 12 + 4, b"\x7f\xff\xff\xff"),
        ("timescale", b"mdhd", 12, bytes(4)),
        ("samples", b"stsz", 4 + 8, b"\x7f\xff\xff\xff"),
        ("chunks", b"stco", 4 + 4, b"\x7f\xff\xff\xff"),
        ("times", b"stts", 4 + 4, b"\x7f\xff\xff\xff"),
        ("time", b"stts", 4 + 12, b"\x7f\xff\xff\xff"),
        ("offset", b"stco", 4 + 8, b"\xff\xff\xff\xff"),
        ("box", b"mdat", -4, b"\xff\xff\xff\xff"),
        ("description", b"stsd", 4 + 4, b"\x7f\xff\xff\xff"),
    ):
        place = mp4.index(box) + offset
        hostile.add(f"huge-{name}.mp4", EITHER, mp4[:place] + value + mp4[place + len(value) :])
    external = mp4.replace(b"url \0\0\0\1", b"url \0\0\0\0")  # the frames are in another file, says its dref
    hostile.add("elsewhere.mp4", EITHER, external)


def add_turned(hostile: Hostile, videos: dict[str, bytes], *, count: int) -> None:
    """Videos whose display matrix, pixel aspect or edit list is drawn at random or at the edge of its type."""
    drawn, mp4 = random.Random(2), videos[".mp4"]
    edges = [bytes(4), b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\1\0\0", b"\0\0\0\1"]

    def words(number: int) -> bytes:
        return b"".join(drawn.choice([*edges, drawn.randbytes(4)]) for _ in range(number))

    for i in range(count):
        for name, box, offset, number in (
            ("matrix", b"tkhd", 44, 9),
            ("edits", b"elst", 12, 3),
            ("aspect", b"pasp", 4, 2),
        ):
            place = mp4.index(box) + offset
            hostile.add(f"{name}-{i}.mp4", EITHER, mp4[:place] + words(number) + mp4[place + 4 * number :])
