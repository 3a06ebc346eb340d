"""H.264 files of stored segments, for peers to read, and one WebDataset tar of the same files.

Shards of the codec h264 have them already; of filmstrips, copies are encoded.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ffmpeg
import numpy as np
import webdataset

from pipeline.reference import decode_sample
from pipeline.shard import ShardIndex
from pipeline.shard_writer import dali_index, tar_components
from pipeline.source.transcode import ffmpeg_exe
from tools.bench.measure import BenchError

GOP, CRF, FPS = 8, 20, 25  # of encoded copies; stored files keep theirs
FRAMES_PART = "frames"  # int32 number of frames, raw: what DALI can read without parsing JSON


def copies_folder(cache: Path, index: ShardIndex) -> Path:
    """Where the files of these very shards lie in a cache of many."""
    made = "as-stored" if index.codec == "h264" else f"gop{GOP}-crf{CRF}"
    return cache / f"{index.name}-{index.fingerprint[:12]}-{made}"


def copies_note(index: ShardIndex) -> str:
    """What peers read, for people."""
    if index.codec != "h264":
        return f"peers read H.264 copies (GOP {GOP}, CRF {CRF}, no B-frames); files are in the page cache"
    made = f"GOP {index.gop_size}, CRF {index.info['codec']['crf']}, no B-frames"
    return f"peers read the bytes that ours reads, the mp4 files in the tars ({made}); all is in the page cache"


def copy_path(copies: Path, index: ShardIndex, sample: int) -> Path:
    """The H.264 file of a sample."""
    return copies / f"{index.key(sample)}.mp4"


def tar_path(copies: Path, samples: np.ndarray) -> Path:
    """The tar of the copies of just these samples, int64 [n]; its DALI index has the same name and ends with .idx."""
    return copies / f"copies-{hashlib.sha256(np.asarray(samples, '<i8').tobytes()).hexdigest()[:12]}.tar"


def make_copies(
    index: ShardIndex,
    samples: Sequence[int],
    copies: Path,
    *,
    workers: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Make the files that are not there yet: out of shards of h264 as they are, else encoded.

    Encoded copies have GOP 8, closed, no B-frames, yuv420p, and are as large as a tile.

    Raises:
        BenchError: A sample or a tar is damaged, or ffmpeg does not encode.
    """
    copies.mkdir(parents=True, exist_ok=True)
    absent = [int(sample) for sample in samples if not copy_path(copies, index, int(sample)).is_file()]
    places = stored_places(index, absent) if index.codec == "h264" else None

    def make(sample: int) -> None:
        if places is None:
            make_copy(index, sample, copies)
        else:
            take_out(places[sample], copy_path(copies, index, sample))

    with ThreadPoolExecutor(workers) as pool:
        try:
            for done, _ in enumerate(pool.map(make, absent), start=1):
                report(done, len(absent))
        finally:
            pool.shutdown(cancel_futures=True)


def stored_places(index: ShardIndex, samples: Sequence[int]) -> dict[int, tuple[Path, int, int]]:
    """Where the mp4 of each sample of h264 shards lies: its tar, offset and size, bytes.

    Raises:
        BenchError: A tar cannot be read, or lacks one of the files.
    """
    rows = np.asarray(samples, np.int64)
    tar_of, found = index.tar_of(rows), dict[int, tuple[Path, int, int]]()
    for number in np.unique(tar_of):
        tar = index.data_dir / index.tars[number]
        try:
            places = {name: (offset, size) for name, offset, size in tar_components(tar)}
            found |= {sample: (tar, *places[f"{index.key(sample)}.mp4"]) for sample in rows[tar_of == number].tolist()}
        except (OSError, KeyError, tarfile.TarError) as error:
            raise BenchError(f"{tar}: {error}; run tools/check_shards.py {index.data_dir}") from None
    return found


def take_out(place: tuple[Path, int, int], path: Path) -> None:
    """Write one file of a tar, byte for byte; it appears under its name when it is whole."""
    tar, offset, size = place
    with open(tar, "rb") as file:
        file.seek(offset)
        content = file.read(size)
    unfinished = unfinished_path(path)
    try:
        unfinished.write_bytes(content)
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def make_copy(index: ShardIndex, sample: int, copies: Path) -> None:
    """Encode one copy from the segment's stored frames; it appears under its name when it is whole."""
    try:
        frames = decode_sample(index, sample)  # [F, tile_height, tile_width, 3]
    except ValueError as error:
        raise BenchError(f"{error}; run tools/check_shards.py {index.data_dir}") from None
    path = copy_path(copies, index, sample)
    unfinished = unfinished_path(path)
    source = ffmpeg.input(
        "pipe:0", format="rawvideo", pix_fmt="rgb24", video_size=(frames.shape[2], frames.shape[1]), framerate=FPS
    )
    output = source.filter("scale", out_color_matrix="bt601", out_range="limited").output(
        str(unfinished),
        format="mp4",
        vcodec="libx264",
        crf=CRF,
        g=GOP,
        keyint_min=GOP,
        sc_threshold=0,
        bf=0,
        flags="+cgop",
        pix_fmt="yuv420p",
        colorspace="smpte170m",
        movflags="+faststart",
        threads=1,
        loglevel="error",
    )
    try:
        output.overwrite_output().run(cmd=ffmpeg_exe(), input=frames.tobytes(), quiet=True)
        unfinished.rename(path)
    except ffmpeg.Error as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise BenchError(f"{path.name}: ffmpeg does not encode ({lines[-1]})") from None
    finally:
        unfinished.unlink(missing_ok=True)


def make_tar(index: ShardIndex, samples: np.ndarray, copies: Path) -> Path:
    """Put copies that are there into one WebDataset tar, USTAR, with DALI's index beside it; a finished one stays.

    Each sample has key.mp4, key.json (num_frames, label, content: left, top, width, height) and key.frames.

    Returns:
        The tar.
    """
    path = tar_path(copies, samples)
    if path.is_file() and path.with_suffix(".idx").is_file():
        return path
    unfinished = unfinished_path(path)
    try:
        with open(unfinished, "wb") as file:
            tar = webdataset.TarWriter(file, encoder=False, mtime=0, format=tarfile.USTAR_FORMAT)
            for sample in samples.tolist():
                tar.write({"__key__": index.key(sample), **tar_parts(index, sample, copies)})
            tar.close()
        path.with_suffix(".idx").write_bytes(dali_index(tar_components(unfinished)))
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def tar_parts(index: ShardIndex, sample: int, copies: Path) -> dict[str, bytes]:
    """A sample's components by extension."""
    facts = {
        "num_frames": int(index.num_frames[sample]),
        "label": int(index.labels[sample]),
        "content": index.content[sample].tolist(),
    }
    return {
        "mp4": copy_path(copies, index, sample).read_bytes(),
        "json": json.dumps(facts, sort_keys=True).encode(),
        FRAMES_PART: np.array([facts["num_frames"]], "<i4").tobytes(),
    }


def unfinished_path(path: Path) -> Path:
    """What a file is called while it is written; two processes never share one."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
