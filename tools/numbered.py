"""Test videos that show their frame numbers: frame i has the bits of i as black and white bars.

The bars are in a narrow band in the middle, so that every possible crop shows all of them. Positions are in pixels of
the paper's stored frame, 171×128, whatever the size of the source. The upper and the lower edge are red and blue,
swapped in every other frame, so that a decoder that mixes frames at their edges is found out.
"""

from pathlib import Path

import ffmpeg
import numpy as np

from res3d_video.pipeline.ingest.transcode import ffmpeg_exe

CONTENT_WIDTH = 171
NUM_BITS = 9
BAND_LEFT, BAR_WIDTH = 63.0, 5.0  # nine bars inside columns 59 … 111, which every 112-pixel crop shows
EDGE_SHARE, EDGE_COLORS = 64, ((220, 20, 20), (20, 20, 220))  # two rows of 128
BAND_RIGHT = BAND_LEFT + NUM_BITS * BAR_WIDTH


def numbered_frame(number: int, *, height: int = 240, width: int = 320) -> np.ndarray:
    """Frame `number`, uint8 [height, width, 3]; the leftmost bar is the highest bit, and white is 1."""
    x = (np.arange(width) + 0.5) / width * CONTENT_WIDTH
    bar = np.floor((x - BAND_LEFT) / BAR_WIDTH).astype(int)
    inside = (bar >= 0) & (bar < NUM_BITS)
    bit = (number >> np.clip(NUM_BITS - 1 - bar, 0, NUM_BITS - 1)) & 1
    row = np.where(inside, np.where(bit, 235, 20), 128).astype(np.uint8)
    frame = np.broadcast_to(row[None, :, None], (height, width, 3)).copy()
    edge = -(-height // EDGE_SHARE)
    frame[:edge], frame[-edge:] = EDGE_COLORS[number % 2], EDGE_COLORS[1 - number % 2]
    return frame


def write_numbered_video(
    path: Path,
    num_frames: int,
    *,
    height: int = 240,
    width: int = 320,
    fps: float = 25,
    numbers: list[int] | None = None,
    **encoder: object,
) -> None:
    """Encode frames 0 to num_frames - 1, or `numbers`, with ffmpeg; as H.264 unless `encoder` has other options."""
    frames = np.stack([numbered_frame(i, height=height, width=width) for i in numbers or range(num_frames)])
    options = {"vcodec": "libx264", "crf": 12, "preset": "ultrafast", "pix_fmt": "yuv420p"} | encoder
    write_video(path, frames, fps=fps, **options)


def write_video(path: Path, frames: np.ndarray, *, fps: float = 25, **encoder: object) -> None:
    """Encode uint8 frames [F, H, W, 3 or 4] with ffmpeg."""
    _, height, width, channels = frames.shape
    source = ffmpeg.input(
        "pipe:0",
        format="rawvideo",
        pix_fmt="rgba" if channels == 4 else "rgb24",
        video_size=(width, height),
        framerate=fps,
    )
    output = source.output(str(path), loglevel="error", **encoder).overwrite_output()
    output.run(cmd=ffmpeg_exe(), input=frames.tobytes(), quiet=True)


def read_bits(frame: np.ndarray, *, left: float = 0.0, scale: float = 1.0, grey: float = 0.0) -> list[int]:
    """Read the bars of a frame [H, W, …] from left to right as bits; brighter than `grey` is 1.

    Args:
        left: Position of the frame's first column in the stored frame.
        scale: Pixels of the frame per pixel of the stored frame.
    """
    rows = frame.reshape(*frame.shape[:2], -1).mean(axis=2)
    middle = rows[len(rows) // 4 : 3 * len(rows) // 4].mean(axis=0)
    columns = [((BAND_LEFT + (i + 0.5) * BAR_WIDTH) - left) * scale for i in range(NUM_BITS)]
    return [int(middle[round(c - 0.5)] > grey) for c in columns]


def number_of(bits: list[int]) -> int:
    """The number with these bits, highest first."""
    return int("".join(map(str, bits)), 2)


def read_numbers(clip: np.ndarray, *, left: float = 0.0, scale: float = 1.0, flip: bool = False) -> list[int]:
    """Frame numbers of a clip CTHW from which 128 is subtracted.

    Args:
        left, scale: As in `read_bits`.
        flip: Whether the clip is mirrored.
    """
    frames = clip.transpose(1, 2, 3, 0)  # THWC
    if not flip:
        return [number_of(read_bits(frame, left=left, scale=scale)) for frame in frames]
    width = frames.shape[2] / scale
    mirrored_left = (BAND_LEFT + BAND_RIGHT) - left - width  # the band's mirror image read as if it were the band
    return [number_of(read_bits(frame, left=mirrored_left, scale=scale)[::-1]) for frame in frames]
