"""Hostile pictures in shards whose checksums are all right, and what a loader and a check make of them.

python -m tests.hostile.pictures filmstrip|h264 FOLDER

It writes a dataset in which every second sample is hostile, reads it in this process, whose memory is limited, and
prints one line of JSON.
"""

import io
import itertools
import json
import random
import resource
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.clip import ClipSpec
from pipeline.encoding import StripEncoding, VideoEncoding
from pipeline.filmstrip import EOI, Planes, StripLayout, encode_strips, strip_header
from pipeline.h264.avc import parse_avcc
from pipeline.h264.encode import EncodePolicy, decoder_configuration, encode_segment
from pipeline.h264.splice import Splicer
from pipeline.index.write import write_index
from pipeline.loader import ClipLoader
from pipeline.plan import EvalPlan, TrainPlan
from pipeline.shard import PICTURE_NAMES, ShardIndex, open_index
from pipeline.shard_writer import Sample, Stored, TarShard, strip_files
from pipeline.verify import verify

Picture = tuple[str, bytes]
LAYOUT, QUALITY = StripLayout(32, 48, strip_frames=2, phase_stride=1), 85
POLICY = EncodePolicy(width=96, height=64)
SOF0, SOS = b"\xff\xc0", b"\xff\xda"
OTHER_SOFS = [0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF]
SIDES = [0, 1, 8, 16, 4096, 30_000, 65_500, 65_535]
FORMATS = ["PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM", "TGA", "ICO", "PCX", "SGI", "QOI", "DDS"]


def frames(count: int, height: int, width: int) -> Planes:
    """Something to see, the same each time."""
    y, x = np.mgrid[0:height, 0:width]
    luma = np.stack([128 + 90 * np.sin((x + 3 * i) / 5 + y / 9) for i in range(count)]).astype(np.uint8)
    chroma = np.ascontiguousarray(luma[:, ::2, ::2])
    return Planes(luma, chroma, chroma[:, ::-1].copy())


def good_strip() -> bytes:
    return next(
        encode_strips([frames(LAYOUT.block_frames, LAYOUT.tile_height, LAYOUT.tile_width)], LAYOUT, quality=QUALITY)
    )


def hostile_strips() -> Iterator[Picture]:
    """Pictures that a decoder may well read, and that no encoder of ours has written."""
    good = good_strip()
    header = strip_header(LAYOUT, quality=QUALITY)
    yield from saved_otherwise(Image.open(io.BytesIO(good)))
    yield from headers(good, header)
    yield from lengths(good)


def saved_otherwise(picture: Image.Image) -> Iterator[Picture]:
    """The same picture, stored by somebody else."""

    def save(name: str, image: Image.Image, **how: Any) -> Picture:
        file = io.BytesIO()
        ours = {} if "format" in how else {"format": "JPEG", "quality": QUALITY, "subsampling": 2}
        image.save(file, **(ours | how))
        return name, file.getvalue()

    for mode, progressive, sampling in itertools.product(("RGB", "L", "CMYK"), (False, True), (0, 1, 2)):
        if (mode, progressive, sampling) != ("RGB", False, 2):  # that one is as ours
            how = {"progressive": progressive, "subsampling": sampling}
            yield save(f"{mode} progressive={progressive} sampling={sampling}", picture.convert(mode), **how)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        for quality in (QUALITY, 30):
            yield save(f"orientation {orientation} quality {quality}", picture, exif=exif, quality=quality)
    for side, other in itertools.product((1, 8, 48, 64, 200), repeat=2):
        if (side, other) != picture.size:
            yield save(f"size {side}×{other}", picture.resize((side, other)))
    for quality in (1, 50, 84, 86, 100):
        yield save(f"quality {quality}", picture, quality=quality)
    for blocks in (1, 3, 12):
        yield save(f"restart every {blocks}", picture, restart_marker_blocks=blocks)
    yield save("optimized", picture, optimize=True)
    yield save("comment", picture, comment=b"x")
    yield save("profile", picture, icc_profile=bytes(70_000))
    yield save("density", picture, dpi=(72, 72))
    for name in FORMATS:
        yield save(f"format {name}", picture.resize((48, 64)), format=name)


def headers(good: bytes, header: bytes) -> Iterator[Picture]:
    """The header with other bytes, and with more or fewer segments."""
    frame, scan, data = header.index(SOF0), header.index(SOS), good[len(header) :]
    for height, width in itertools.product(SIDES, repeat=2):
        size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        yield f"SOF0 of {width}×{height}", good[: frame + 5] + size + good[frame + 9 :]
    for marker in OTHER_SOFS:
        yield f"SOF{marker - 0xC0}", good[: frame + 1] + bytes([marker]) + good[frame + 2 :]
    for place in range(2, len(header), 7):
        yield f"header byte {place}", good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :]
    for bits in (1, 2, 12, 16):
        yield f"{bits} bits", good[: frame + 4] + bytes([bits]) + good[frame + 5 :]
    huge = header[frame : frame + 5] + b"\xff\xdc" * 2 + header[frame + 9 : scan]
    for name, segment in {
        "SOF0 twice": header[frame:scan],
        "SOF0 of 65500": huge,
        "restarts": b"\xff\xdd\0\4\0\1",
        "a number of lines": b"\xff\xdc\0\4\xff\xdc",
        "a comment": b"\xff\xfe\0\4ab",
        "arithmetic coding": b"\xff\xcc\0\4\0\0",
        "Adobe": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\2",
        "SOI": b"\xff\xd8",
        "a fill byte": b"\xff",
    }.items():
        for place in (2, frame, scan):
            yield f"{name} at {place}", header[:place] + segment + header[place:] + data
    yield "no scan", header[:scan] + EOI


def lengths(good: bytes) -> Iterator[Picture]:
    """Too short, too long, nothing at all."""
    for part in range(1, 12):
        yield f"cut to {part}/12", good[: len(good) * part // 12]
    for count in range(1, 4):
        yield f"cut by {count}", good[:-count]
    for name, more in {"zeros": bytes(9), "text": b"x", "a start": b"\xff\xd8", "a zip": b"PK\5\6" + bytes(18)}.items():
        yield f"{name} behind", good + more
        yield f"{name} before", more + good
    for size in (1, 2, 3, 4, 700):
        yield f"{size} zeros", bytes(size)
        yield f"{size} bytes of noise", random.Random(size).randbytes(size)
    yield "an end", EOI
    yield "a start and an end", b"\xff\xd8" + EOI


def strange_strips() -> Iterator[Picture]:
    """Right header and right end: the size is known, and a decoder makes some picture of it."""
    good, header = good_strip(), strip_header(LAYOUT, quality=QUALITY)
    data, middle = good[len(header) : -2], (len(good) - len(header)) // 2
    frame = header[header.index(SOF0) : header.index(SOF0) + 19]
    huge = frame[:5] + b"\xff\xdc" * 2 + frame[9:]
    for name, inside in {
        "no data": b"",
        "zeros": bytes(len(data)),
        "noise": random.Random(0).randbytes(len(data)).replace(b"\xff", b"\xfe"),
        "half": data[:middle],
        "a picture": good[:-2],
        "an end inside": data[:middle] + EOI + data[middle:],
        "a restart inside": data[:middle] + b"\xff\xd0" + data[middle:],
        "SOF0 of 65500 inside": data[:middle] + huge + data[middle:],
        "SOF0 of 65500 behind": data + huge,
        "another picture behind": data + EOI + good[:-2],
        "another scan behind": data + header[header.index(SOS) :] + data,
    }.items():
        yield name, header + inside + EOI


def hostile_packets() -> Iterator[Picture]:
    """Keyframes that hold something else than one whole I slice, behind its length."""
    avcc, packet = good_packet()
    slice_nal, (sps,), (pps,) = packet[4:], parse_avcc(avcc).sps, parse_avcc(avcc).pps
    others = [sps_of(width, height) for width, height in itertools.product((16, 96, 4096, 16_000), repeat=2)]

    def join(*nals: bytes) -> bytes:
        return b"".join(len(nal).to_bytes(4, "big") + nal for nal in nals)

    for number, other in enumerate(others):
        yield f"SPS {number} before", join(other, slice_nal)
        yield f"SPS {number} and PPS before", join(other, pps, slice_nal)
        yield f"SPS {number} behind", join(slice_nal, other)
        yield f"SPS {number} alone", join(other)
        yield f"SPS {number} inside", join(slice_nal + b"\0\0\1" + other + b"\0\0\1" + pps + b"\0\0\1" + slice_nal)
    yield "its own sets", join(sps, pps, slice_nal)
    yield "two slices", join(slice_nal, slice_nal)
    for kind in range(32):
        if kind != 5:
            yield f"type {kind}", join(bytes([0x60 | kind]) + slice_nal[1:])
    yield "the forbidden bit", join(b"\xe5" + slice_nal[1:])
    for number in (0, 1, 0x40, 0x20, 0xA0, 0x9C, 0xD0):
        yield f"slice that begins with {number}", join(slice_nal[:1] + bytes([number]) + slice_nal[2:])
    for size in (1, 3, 4, 5):
        yield f"cut to {size}", packet[:size]
    yield "cut by one", packet[:-1]
    yield "longer by one", packet + b"\0"
    yield "a start code", b"\0\0\0\1" + slice_nal
    yield "one byte", join(b"\x65")


def sps_of(width: int, height: int) -> bytes:
    """A parameter set of High profile for frames of another size, with the same number as the dataset's."""
    bits = f"{100:08b}{0:08b}{62:08b}" + "".join(map(exp_golomb, (0, 1, 0, 0))) + "00"
    bits += (
        "".join(map(exp_golomb, (0, 2, 16)))
        + "0"
        + exp_golomb(width // 16 - 1)
        + exp_golomb(height // 16 - 1)
        + "11001"
    )
    payload = int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big")
    return b"\x67" + payload.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\1", b"\0\0\3\1")


def exp_golomb(number: int) -> str:
    return "0" * ((number + 1).bit_length() - 1) + f"{number + 1:b}"


def good_packet() -> tuple[bytes, bytes]:
    """The dataset's avcC, and a keyframe."""
    mp4, (packet,) = encode_segment([frames(1, POLICY.height, POLICY.width)], POLICY, fps=25)
    return decoder_configuration(POLICY)[0], mp4[packet.offset : packet.offset + packet.size]


def strip_sample(picture: bytes) -> tuple[dict[str, bytes], list[Stored]]:
    return strip_files([picture])


def packet_sample(picture: bytes) -> tuple[dict[str, bytes], list[Stored]]:
    """An MP4 as ours are, whatever its one packet is."""
    if len(picture) < 5:
        mp4 = good_packet()[1] + picture
    else:
        size = {"height": POLICY.height, "width": POLICY.width}
        splicer = Splicer(decoder_configuration(POLICY)[0], **size)
        as_keyframe = picture[:4] + b"\x65" + picture[5:]
        mp4 = splicer.splice([np.frombuffer(as_keyframe, np.uint8)]).tobytes().replace(as_keyframe, picture)
    return {"mp4": mp4}, [Stored("mp4", len(mp4) - len(picture), len(picture), zlib.crc32(picture), True)]


def write(folder: Path, codec: str, pictures: list[Picture]) -> ShardIndex:
    """A dataset of samples of one picture each, and a good one behind each; its key is its place."""
    folder.mkdir(parents=True)
    if codec == "filmstrip":
        files_of: Callable = strip_sample
        good, about, height = good_strip(), StripEncoding(LAYOUT, QUALITY).describe(), LAYOUT.tile_height
    else:
        files_of, good, about, height = packet_sample, good_packet()[1], VideoEncoding(POLICY).describe(), POLICY.height
    about |= {"name": codec, "size": height, "frame_step": 1}
    meta = {"group": "g", "label": 0, "subsets": ["train"], "num_frames": 1, "num_frames_stored": 1}
    meta |= {"content": [0, 0, about["tile_width"], height]}
    with TarShard(folder / "hostile-000000.tar") as tar:
        for number, content in enumerate(itertools.chain(*zip((p[1] for p in pictures), itertools.repeat(good)))):
            files, stored = files_of(content)
            tar.add(Sample(f"{number:05d}", files, stored, meta | {"source": f"{number}.mp4"}))
    head = {"name": "hostile", "classes": ["a"], "split_names": ["1"], "codec": about, "settings": {}}
    write_index(folder, [tar.summary() | {"quarantine": []}], head=head, missing=[])
    return open_index(folder)


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def outcome(index: ShardIndex) -> dict[str, Any]:
    """Keys of the samples that a loader replaces, with each kind of plan, and a check names; and the memory it took."""
    spec, samples = ClipSpec(1, 1, crop_size=32), np.arange(index.num_samples)
    keys = [index.key(row) for row in samples.tolist()]
    before = peak_mb()
    with ClipLoader(index, EvalPlan(index, samples, spec, global_batch_size=16)) as loader:
        batches = list(loader)
        clips = [clip for b in batches for clip in zip(b.samples.tolist(), b.weights.tolist(), strict=True)]
        seen: dict[str, Any] = {"evaluated": loader.bad_samples, "num_evaluated": loader.num_replaced}
    with ClipLoader(index, TrainPlan(index, samples, spec, global_batch_size=16, seed=0)) as loader:
        steps = itertools.islice(loader, -(-len(samples) // 16))
        trained = {keys[sample] for batch in steps for sample in batch.samples}
        seen |= {"replaced": loader.bad_samples, "num_replaced": loader.num_replaced}
    for name, decode in (("checked", False), ("decoded", True)):
        faults = verify(index, decode=decode)[1]
        assert all("\n" not in fault for fault in faults)
        seen[name] = [key for key in keys if any(key in fault for fault in faults)]
    seen["reasons"] = {keys[row]: why for batch in batches for row, why in batch.damaged.items()}
    seen["weightless"] = [keys[sample] for sample, weight in clips[: len(keys)] if not weight]
    return seen | {"trained": sorted(trained), "memory_mb": peak_mb() - before}


def main(codec: str, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    if codec == "filmstrip":
        bad, odd = list(hostile_strips()), list(strange_strips())
    else:
        bad, odd = list(hostile_packets()), []
    index = write(folder, codec, [*bad, *odd])
    names = {index.key(2 * place): name for place, (name, _) in enumerate([*bad, *odd])}
    print(
        json.dumps({"picture": PICTURE_NAMES[codec], "bad": list(names)[: len(bad)], "names": names, **outcome(index)})
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
