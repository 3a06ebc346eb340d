"""Hostile frames in shards whose checksums are all right, and what each engine and a check make of them.

python -m tests.hostile.pictures FOLDER

It writes a dataset of each codec in which every second sample is hostile in one frame, reads them in this process,
whose memory is limited, and prints one line of JSON.
"""

import io
import itertools
import json
import random
import resource
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.codecs import EncodedSegment, FrameRecord, Planes
from res3d_video.pipeline.codecs.avc import parameter_sets
from res3d_video.pipeline.codecs.filmstrip import DHT, DQT, DRI, EOI, RESTARTS, SOF0, SOI, SOS, FilmstripCodec, segments
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.codecs.mp4 import Splicer
from res3d_video.pipeline.index import Codec, ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan, TrainPlan
from res3d_video.pipeline.schema import CRC32, OFFSET, SIZE
from res3d_video.pipeline.shard_writer import EncodedSample, TarShard, write_index
from res3d_video.pipeline.verify import verify
from tests.hostile.tampering import peak_memory

Picture = tuple[str, bytes]
Edit = Callable[[np.ndarray, np.ndarray], object]  # of a sample's rows of the index [F, 3], and of its offset [1]
NUM_TILES, BAD_TILE = 4, 1  # of a sample of filmstrips; which of them is hostile
STRIPS = FilmstripCodec.new(height=32, width=48, quality=85, strip_frames=NUM_TILES, phase_stride=1)
PACKETS = H264Codec.new(width=96, height=64)
SIDES = [0, 1, 8, 16, 4096, 30_000, 65_500, 65_535]
FORMATS = ["PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM", "TGA", "ICO", "PCX", "SGI", "QOI", "DDS"]


@dataclass(frozen=True)
class Case:
    """A sample that is hostile in one way.

    Attributes:
        kind: What becomes of it, see `EXPECTED`.
        edit: Done to what the index says of it.
    """

    name: str
    kind: str
    segment: EncodedSegment
    edit: Edit = lambda rows, offset: None


def frames(count: int, height: int, width: int, *, first: int = 0) -> Planes:
    """Something to see, the same each time."""
    y, x = np.mgrid[0:height, 0:width]
    luma = np.stack([128 + 90 * np.sin((x + 3 * i) / 5 + y / 9) for i in range(first, first + count)]).astype(np.uint8)
    chroma = np.ascontiguousarray(luma[:, ::2, ::2])
    return Planes(luma, chroma, chroma[:, ::-1].copy())


@cache
def good_tiles() -> list[bytes]:
    return STRIPS._encode_tiles(frames(NUM_TILES, STRIPS.tile_height, STRIPS.tile_width))


def strip_of(tiles: list[bytes]) -> EncodedSegment:
    """A sample of some tiles, as ours are whatever lies in them."""
    at = STRIPS.lead + np.cumsum([0, *(len(tile) + 2 for tile in tiles)])
    records = [FrameRecord("000.jpg", int(a), len(tile), zlib.crc32(tile)) for a, tile in zip(at, tiles, strict=False)]
    return EncodedSegment({"000.jpg": STRIPS.join(tiles)}, records)


def with_tile(tile: bytes) -> EncodedSegment:
    """A sample of which one tile is this."""
    tiles = list(good_tiles())
    tiles[BAD_TILE] = tile
    return strip_of(tiles)


def hostile_strips() -> Iterator[Case]:
    for kind, pictures in {
        "marker": tiles_with_markers(),
        "nonsense": tiles_of_nonsense(),
        "other": other_tiles(),
    }.items():
        yield from (Case(name, kind, with_tile(tile)) for name, tile in pictures)
    yield from wrong_strips()
    yield from wrong_rows(strip_of(good_tiles()), BAD_TILE, STRIPS)


def tiles_with_markers() -> Iterator[Picture]:
    """A tile that would end or divide the JPEG that it is joined to, or say another thing of it."""
    tile, sof = good_tiles()[BAD_TILE], segment_of(SOF0)
    scan = segment_of(SOS)
    huge = sof[:5] + b"\xff\xdc" * 2 + sof[9:]
    pieces = {f"marker {marker:02X}": bytes([0xFF, marker]) for marker in (1, *range(0xC0, 0xE2), 0xEE, 0xF0, 0xFE)} | {
        "its own header": STRIPS.header,
        "a header of 65500×65500": STRIPS.header.replace(sof, huge),
        "SOF0 of 65500×65500": huge,
        "SOF2 of 65500×65500": b"\xff\xc2" + huge[2:],
        "SOF0 of 65500×65500 and a scan": huge + scan,
        "another scan": scan,
        "other tables": segment_of(DQT)[:5] + bytes([255] * 64) + segment_of(DHT),
        "no Huffman codes": b"\xff\xc4\0\x13\0" + bytes(16),
        "restarts every block": b"\xff\xdd\0\4\0\1",
        "a number of lines": b"\xff\xdc\0\4\xff\xdc",
        "a long comment": b"\xff\xfe\xff\xff",
        "arithmetic coding": b"\xff\xcc\0\4\0\0",
        "all restarts": b"".join(RESTARTS) * 3,
    }
    for name, piece in pieces.items():
        for part in (0, 1, 2):
            at = len(tile) * part // 2
            yield f"{name} at {part}/2", tile[:at] + piece + tile[at:]
    for name, picture in saved_otherwise(Image.open(io.BytesIO(STRIPS.join([tile])))):
        if b"\xff" in picture.replace(b"\xff\0", b""):
            yield f"{name} instead", picture
            yield f"{name} behind an end", tile + EOI + picture


def tiles_of_nonsense() -> Iterator[Picture]:
    """A tile without markers that is not the compressed bytes of a frame of its size."""
    tile = good_tiles()[BAD_TILE]
    for part in range(1, 12):
        yield f"cut to {part}/12", tile[: len(tile) * part // 12].removesuffix(b"\xff")
    for name, more in {
        "itself": tile,
        "zeros": bytes(9),
        "text": b"xyzzyxyzzy",
        "a zip": b"PK\5\6" + bytes(18),
    }.items():
        yield f"{name} behind", tile + more
        yield f"{name} before", more + tile
    for size in (1, 2, 3, 4, 700, STRIPS.max_frame_bytes):
        noise = random.Random(size).randbytes(size).replace(b"\xff", b"\xfe")
        yield f"{size} zeros", bytes(size)
        yield f"{size} bytes of noise", noise
    for height, width in itertools.product((16, 32, 48, 512), repeat=2):
        if height * width != STRIPS.tile_height * STRIPS.tile_width:
            other = FilmstripCodec.new(height=height, width=width, quality=85)
            yield f"size {width}×{height}", other._encode_tiles(frames(1, height, width))[0]


def other_tiles() -> Iterator[Picture]:
    """A tile that nothing tells from the right one but its pixels."""
    yield "the frame before", good_tiles()[BAD_TILE - 1]
    yield "a gray one", STRIPS.blank
    size = {"height": STRIPS.tile_height, "width": STRIPS.tile_width}
    for quality in (1, 50, 84, 86, 100):
        yield (
            f"quality {quality}",
            FilmstripCodec.new(quality=quality, **size)._encode_tiles(frames(1, *size.values()))[0],
        )


def segment_of(wanted: int) -> bytes:
    """The first segment of a type in the header."""
    at, body = next((at, body) for marker, at, body in segments(STRIPS.header) if marker == wanted)
    return STRIPS.header[at : at + 4 + len(body)]


def wrong_strips() -> Iterator[Case]:
    """Strips whose tiles are right, and what holds them together is not; the loader reads none of that."""
    good, end = strip_of(good_tiles()), len(strip_of(good_tiles()).files["000.jpg"])
    jpeg = good.files["000.jpg"]

    def case(name: str, jpeg: bytes, *, shift: int = 0) -> Case:
        moved = [record._replace(offset=record.offset + shift) for record in good.frames]
        return Case(name, "strip", EncodedSegment({"000.jpg": jpeg}, moved))

    places = [record.offset + record.size for record in good.frames[:-1]]
    for number, at in enumerate(places):
        for marker in (*(restart for restart in RESTARTS if restart != RESTARTS[number]), EOI, b"\0\0"):
            yield case(f"marker {marker.hex()} behind tile {number}", jpeg[:at] + marker + jpeg[at + 2 :])
    header = STRIPS.header_of(NUM_TILES)
    others = {
        f"quality {quality}": FilmstripCodec.new(height=32, width=48, quality=quality, strip_frames=4)
        for quality in (50, 84)
    } | {"size 64×32": FilmstripCodec.new(height=32, width=64, quality=85, strip_frames=4)}
    for name, other in others.items():
        assert other.lead == STRIPS.lead
        yield case(f"the header of {name}", other.header_of(NUM_TILES) + jpeg[len(header) :])
    yield case("the header of fewer tiles", STRIPS.header_of(NUM_TILES - 1) + jpeg[len(header) :])
    restarts = segment_of(DRI)
    yield case("no DRI", jpeg.replace(restarts, b"", 1), shift=-len(restarts))
    yield case("another DRI", jpeg.replace(restarts, b"\xff\xdd\0\4\0\1", 1))
    yield case("no header", bytes(len(header)) + jpeg[len(header) :])
    exif = b"\xff\xe1\0\4ab"
    yield case("APP1", jpeg[:2] + exif + jpeg[2:], shift=len(exif))
    yield case("no end", jpeg[:-2])
    yield case("bytes behind the end", jpeg + bytes(99))
    assert end == len(jpeg)


def wrong_rows(segment: EncodedSegment, bad: int, codec: Codec) -> Iterator[Case]:
    """Samples in order, of whose frames the index says that they lie elsewhere."""
    size = segment.frames[bad].size
    for name, column, value in [
        *(("offset", OFFSET, value) for value in (0, 1, 2**20, 2**31 - 1, 2**31, 2**32 - size, 2**32 - 1)),
        *(
            ("size", SIZE, value)
            for value in (0, 1, size - 1, size + 1, codec.max_frame_bytes, codec.max_frame_bytes + 1)
        ),
        *(("size", SIZE, value) for value in (2**20, 2**31 - 1, 2**31, 2**32 - 1)),
        *(("crc32", CRC32, value) for value in (0, 2**31, 2**32 - 1)),
    ]:
        yield Case(f"{name} {value}", "row", segment, lambda rows, _, c=column, v=value: rows[bad].__setitem__(c, v))
    for value in (0, 1, 2**31, 2**32, 2**33 + 512, 2**40):
        yield Case(f"sample at {value}", "place", segment, lambda _, offset, v=value: offset.fill(v))
    yield Case("an overlap", "row", segment, lambda rows, _: rows[bad].__setitem__(OFFSET, rows[bad, OFFSET] - 2))
    if len(segment.frames) > 1:
        yield Case("the frame before", "twin", segment, lambda rows, _: rows.__setitem__(bad, rows[bad - 1]))


def saved_otherwise(picture: Image.Image) -> Iterator[Picture]:
    """The same picture, stored by somebody else."""

    def save(name: str, image: Image.Image, **how: Any) -> Picture:
        file = io.BytesIO()
        ours = {} if "format" in how else {"format": "JPEG", "quality": STRIPS.quality, "subsampling": 2}
        image.save(file, **(ours | how))
        return name, file.getvalue()

    for mode, progressive, sampling in itertools.product(("RGB", "L", "CMYK"), (False, True), (0, 1, 2)):
        if (mode, progressive, sampling) != ("RGB", False, 2):  # that one is as ours
            how = {"progressive": progressive, "subsampling": sampling}
            yield save(f"{mode} progressive={progressive} sampling={sampling}", picture.convert(mode), **how)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        for quality in (STRIPS.quality, 30):
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


def hostile_headers() -> Iterator[Picture]:
    """What dataset.json may say that all its JPEGs begin with."""
    good = STRIPS.header
    found = list(segments(good))
    frame, scan = (next(at for marker, at, _ in found if marker == wanted) for wanted in (SOF0, SOS))
    restarts, sof = segment_of(DRI), segment_of(SOF0)
    for height, width in itertools.product(SIDES, repeat=2):
        yield f"SOF0 of {width}×{height}", good[: frame + 5] + struct.pack(">HH", height, width) + good[frame + 9 :]
    for marker in (*range(0xC1, 0xC4), *range(0xC5, 0xD0)):
        yield f"SOF{marker - SOF0}", good[: frame + 1] + bytes([marker]) + good[frame + 2 :]
    for bits in (1, 2, 12, 16):
        yield f"{bits} bits", good[: frame + 4] + bytes([bits]) + good[frame + 5 :]
    for name, sampling in {"4:4:4": 0x11, "4:2:2": 0x21, "4:4:0": 0x12, "4:1:1": 0x41}.items():
        yield name, good[: frame + 11] + bytes([sampling]) + good[frame + 12 :]
    gray = b"\xff\xc0\0\x0b" + sof[4:9] + b"\1\1\x22\0"
    yield "gray", good[:frame] + gray + good[frame + len(sof) : scan] + b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    yield "no DRI", good.replace(restarts, b"")
    for interval in (0, 1, 5, 7, 12, 65_535):
        yield f"DRI of {interval}", good.replace(restarts, struct.pack(">HHH", 0xFFDD, 4, interval))
    for length in range(0, len(good), 9):
        yield f"cut to {length}", good[:length]
    segments_more = {
        "SOF0 twice": sof,
        "SOF0 of 65500": sof[:5] + b"\xff\xdc" * 2 + sof[9:],
        "SOF2": b"\xff\xc2" + sof[2:],
        "two DRI": restarts,
        "a comment": b"\xff\xfe\0\4ab",
        "arithmetic coding": b"\xff\xcc\0\4\0\0",
        "Adobe": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\2",
        "SOI": b"\xff\xd8",
        "a fill byte": b"\xff",
        "zeros": bytes(4),
        **{f"orientation {n}": exif_segment(n) for n in range(1, 9)},
    }
    for name, segment in segments_more.items():
        for place in (2, frame, scan):
            yield f"{name} at {place}", good[:place] + segment + good[place:]
    for name, picture in saved_otherwise(Image.open(io.BytesIO(STRIPS.join(good_tiles()[:1])))):
        if picture[:2] == bytes([0xFF, SOI]):
            end = picture.index(bytes([0xFF, SOS]))
            yield f"that of {name}", picture[: end + 14]
    other = FilmstripCodec.new(height=16, width=48, quality=85)
    yield "that of other tiles", other.header
    yield "a JPEG", STRIPS.join(good_tiles())


def exif_segment(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    body = b"Exif\0\0" + exif.tobytes()[6:]
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def hostile_packets() -> Iterator[Picture]:
    """Keyframes that hold something else than one whole I slice, behind its length."""
    avcc, packet = good_packet()
    slice_nal, (sps, pps) = packet[4:], parameter_sets(avcc)
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
    made = PACKETS.encode([frames(1, PACKETS.tile_height, PACKETS.tile_width)], top=0, left=0)
    (packet,) = made.frames
    return PACKETS.avcc, made.files["mp4"][packet.offset : packet.offset + packet.size]


def packet_sample(picture: bytes) -> EncodedSegment:
    """An MP4 as ours are, whatever its one packet is."""
    if len(picture) < 5:
        mp4 = good_packet()[1] + picture
    else:
        splicer = Splicer(PACKETS.avcc, height=PACKETS.tile_height, width=PACKETS.tile_width)
        as_keyframe = picture[:4] + b"\x65" + picture[5:]
        mp4 = splicer.splice([np.frombuffer(as_keyframe, np.uint8)]).tobytes().replace(as_keyframe, picture)
    record = FrameRecord("mp4", len(mp4) - len(picture), len(picture), zlib.crc32(picture))
    return EncodedSegment({"mp4": mp4}, [record])


def good_sample(codec: Codec) -> EncodedSegment:
    return strip_of(good_tiles()) if isinstance(codec, FilmstripCodec) else packet_sample(good_packet()[1])


def cases(codec: Codec) -> list[Case]:
    if isinstance(codec, FilmstripCodec):
        return list(hostile_strips())
    forms = [Case(name, "form", packet_sample(packet)) for name, packet in hostile_packets()]
    return [*forms, *wrong_rows(good_sample(codec), 0, codec)]


def write(folder: Path, codec: Codec, hostile: Iterable[Case]) -> ShardIndex:
    """A dataset of hostile samples, and a good one behind each; a sample's key is its place."""
    folder.mkdir(parents=True)
    good, num_frames = good_sample(codec), len(good_sample(codec).frames)
    meta = {"group": "g", "label": 0, "subsets": ["train"], "num_frames": num_frames, "num_frames_stored": num_frames}
    meta |= {"content": [0, 0, codec.tile_width, codec.tile_height]}
    edits: dict[int, Edit] = {}
    with TarShard(folder / "hostile-000000.tar") as tar:
        for number, case in enumerate(hostile):
            edits[2 * number] = case.edit
            tar.add(EncodedSample(f"{2 * number:05d}", case.segment, meta | {"source": f"{2 * number}.mp4"}))
            tar.add(EncodedSample(f"{2 * number + 1:05d}", good, meta | {"source": f"{2 * number + 1}.mp4"}))
    about = codec.describe() | {"name": codec.name, "size": codec.tile_height, "frame_step": 1}
    head = {"name": "hostile", "classes": ["a"], "split_names": ["1"], "codec": about, "settings": {}}
    write_index(folder, [tar.summary() | {"quarantine": []}], head=head, missing=[])
    rows, offset = (np.load(folder / f"index/{name}.npy") for name in ("frames", "offset"))
    for number, edit in edits.items():
        edit(rows[number * num_frames : (number + 1) * num_frames], offset[number : number + 1])
    np.save(folder / "index/frames.npy", rows)
    np.save(folder / "index/offset.npy", offset)
    return open_index(folder)


def loaded(index: ShardIndex, *, engine: str, whole_pictures: bool) -> dict[str, Any]:
    """What an engine makes of a dataset, by keys of samples.

    Of clips of every frame alone: `weightless` has the frames that got no weight, `changed` those whose pixels differ
    from the last sample's, a good one; `bad` is the loader's own list. Of an epoch of clips of all frames: `why` has
    what was replaced, `trained` what was delivered.
    """
    how: dict[str, Any] = {"settings": LoaderSettings(engine=engine), "whole_pictures": whole_pictures}
    samples, num_frames = np.arange(index.num_samples), int(index.num_frames[0])
    keys = [index.key(row) for row in samples.tolist()]
    single = EvalPlan(index, samples, ClipSpec(1, 1, crop_size=32), global_batch_size=64, num_views=num_frames)
    with ClipLoader(index, single, **how) as loader:
        batches = list(loader)
        found: dict[str, Any] = {"bad": loader.bad_samples}
    assert all(batch.clips.shape == (64, 3, 1, 32, 32) for batch in batches)
    weight = torch.cat([batch.weights for batch in batches])[: single.num_clips].view(-1, num_frames)
    pixels = torch.cat([batch.clips for batch in batches])[: single.num_clips].flatten(1).view(*weight.shape, -1)
    for name, which in {"weightless": weight == 0, "changed": (weight > 0) & (pixels != pixels[-1]).any(dim=2)}.items():
        found[name] = {keys[n]: row.nonzero()[:, 0].tolist() for n, row in enumerate(which) if row.any()}
    trained, why = set[str](), dict[str, str]()
    plan = TrainPlan(index, samples, ClipSpec(num_frames, 1, crop_size=32), global_batch_size=16, seed=0)
    with ClipLoader(index, plan, **how) as loader:
        for batch in itertools.islice(loader, -(-len(keys) // 16)):
            assert batch.clips.shape == (16, 3, num_frames, 32, 32)
            trained |= {keys[row] for row in batch.samples}
            why |= {keys[row]: text for row, text in batch.damaged.items()}
        assert sorted(why) == loader.bad_samples
        return found | {"why": why, "trained": sorted(trained), "num_replaced": loader.num_replaced}


def checked(index: ShardIndex, *, decode: bool) -> list[str]:
    """Keys of the samples that a check names."""
    faults = verify(index, decode=decode)[1]
    assert all("\n" not in fault for fault in faults)
    said = {word for fault in faults for word in fault.replace(".json ", ": ").split(": ")}
    return [key for key in map(index.key, range(index.num_samples)) if key in said]


def outcome(folder: Path, codec: Codec) -> dict[str, Any]:
    hostile = cases(codec)
    index = write(folder, codec, hostile)
    before = peak_memory()
    ways = [("dali", False), ("simple", False)] + [("dali", True)] * (codec is STRIPS)
    return {
        "cases": {index.key(2 * place): (case.kind, case.name) for place, case in enumerate(hostile)},
        "engines": [loaded(index, engine=engine, whole_pictures=whole) for engine, whole in ways],
        "checked": checked(index, decode=False),
        "decoded": checked(index, decode=True),
        "memory_mb": (peak_memory() - before) >> 20,
    }


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    codecs: tuple[Codec, ...] = (STRIPS, PACKETS)
    print(json.dumps({codec.name: outcome(folder / codec.name, codec) for codec in codecs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
