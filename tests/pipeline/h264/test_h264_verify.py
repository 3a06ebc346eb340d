"""Every kind of damage to H.264 shards is found and named."""

import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.shard import ShardError, ShardIndex
from pipeline.shard_writer import dali_index, tar_components
from pipeline.verify import verify
from tests.conftest import build_numbered
from tests.pipeline.test_verify import edit_array, edit_json, overwrite, put
from tools import check_shards

TAR = "numbered-000001.tar"


@pytest.fixture
def copy(numbered_h264: ShardIndex, tmp_path: Path) -> Path:
    return Path(shutil.copytree(numbered_h264.data_dir, tmp_path / "data"))


def long_sample(index: ShardIndex) -> int:
    """One of the second tar that has many packets."""
    return max(np.flatnonzero(index.tar_of(np.arange(index.num_samples)) == 1), key=lambda s: index.num_frames[s])


def packet(index: ShardIndex, number: int) -> int:
    """Row of a packet of that sample."""
    return int(index.pictures.first[long_sample(index)]) + number


def test_a_whole_dataset_has_no_faults(numbered_h264: ShardIndex) -> None:
    assert verify(numbered_h264.data_dir, decode=True)[1] == []


def codec(name: str, change: Callable[[str], object]) -> Callable[[Path, ShardIndex], None]:
    """Change one entry of dataset.json's codec."""
    return lambda d, i: edit_json(d, lambda info: info["codec"].update({name: change(info["codec"][name])}))


DAMAGE: dict[str, tuple[Callable[[Path, ShardIndex], None], str]] = {
    "flipped bytes": (
        lambda d, i: overwrite(d / TAR, int(i.pictures.offset[packet(i, 9)]) + 6, b"\xff\xfe"),
        f"{TAR}: \\d+: packet 9 is missing or fails its crc32$",
    ),
    "a wrong NAL type": (
        lambda d, i: overwrite(d / TAR, int(i.pictures.offset[packet(i, 9)]) + 4, b"\x06"),
        r"mp4 packet 9 holds SEI, not one slice",
    ),
    "a wrong NAL length": (
        lambda d, i: overwrite(d / TAR, int(i.pictures.offset[packet(i, 9)]), b"\0\0\0\1"),
        r"mp4 packet 9 cannot be read \(its NAL lengths do not add up to its size\)",
    ),
    "a cut tar": (
        lambda d, i: (d / TAR).write_bytes((d / TAR).read_bytes()[: int(i.pictures.offset[packet(i, 3)])]),
        r"packet 3 is missing or fails its crc32 \(and \d+ more\)",
    ),
    "a wrong offset": (
        lambda d, i: edit_array(d, "packet_offset", put(packet(i, 5), 512)),
        "packet 5 has another offset than the index says",
    ),
    "a wrong size": (
        lambda d, i: edit_array(d, "packet_size", put(packet(i, 5), 7)),
        "packet 5 has another size than the index says",
    ),
    "a wrong checksum": (
        lambda d, i: edit_array(d, "packet_crc32", put(packet(i, 5), 7)),
        "packet 5 has another crc32 than the index says",
    ),
    "wrong keyframes": (
        lambda d, i: edit_array(d, "packet_keyframe", put(slice(packet(i, 4), packet(i, 6)), True)),
        r"packet 4 has another keyframe flag than the index says \(and 1 more\)",
    ),
    "another configuration": (
        codec("avcc", lambda avcc: avcc.replace("0164000b", "0164000c", 1)),
        "mp4 its avcC is not the one in dataset.json",
    ),
    "a configuration of nothing": (codec("avcc", lambda avcc: "01"), r"dataset.json: avcC cannot be read"),
    "one of other sizes": (codec("tile_height", lambda height: 144), r"dataset.json: SPS: coded size is \(176, 128\)"),
    "another GOP": (codec("gop_size", lambda size: 4), "packet 4 is no keyframe, with GOPs of 4"),
    "no blank": (codec("blank", lambda blank: blank[:-2]), "dataset.json: blank cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(numbered_h264: ShardIndex, copy: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    damage(copy, numbered_h264)
    _, faults = verify(copy)
    assert any(re.search(said, fault) for fault in faults), faults
    assert all("\n" not in fault for fault in faults)


@pytest.mark.parametrize(("name", "value"), [("avcc", "xyz"), ("gop_size", 1), ("tile_width", "176"), ("crf", 0)])
def test_a_codec_that_makes_no_sense_is_refused_in_one_line(copy: Path, name: str, value: object) -> None:
    edit_json(copy, lambda info: info["codec"].update({name: value}))
    with pytest.raises(ShardError, match="dataset.json: .*; build the shards again") as error:
        verify(copy)
    assert "\n" not in str(error.value)


def fix_checksums(folder: Path, row: int, content: bytes) -> None:
    """Make the index and dataset.json agree with a packet that was exchanged."""
    edit_array(folder, "packet_crc32", put(row, zlib.crc32(content)))
    digest = hashlib.sha256((folder / TAR).read_bytes()).hexdigest()
    edit_json(folder, lambda info: info["shards"][1].update(sha256=digest))


def test_a_packet_that_does_not_decode_is_found_only_by_decoding(numbered_h264: ShardIndex, copy: Path) -> None:
    row = packet(numbered_h264, 8)
    offset, size = int(numbered_h264.pictures.offset[row]), int(numbered_h264.pictures.size[row])
    spoilt = (copy / TAR).read_bytes()[offset : offset + 6] + bytes([255]) * (size - 6)
    overwrite(copy / TAR, offset, spoilt)
    fix_checksums(copy, row, spoilt)
    assert verify(copy)[1] == []
    (fault,) = verify(copy, decode=True)[1]
    key = numbered_h264.key(long_sample(numbered_h264))
    assert re.match(rf"{TAR}: {key}: packet 8 does not decode \(.+\)$", fault)
    result = CliRunner().invoke(check_shards.main, [str(copy), "--decode"])
    assert result.exit_code == 1
    assert fault in result.output.splitlines()


def test_a_tar_of_other_settings_is_found(numbered_raw: Path, numbered_h264: ShardIndex, tmp_path: Path) -> None:
    """As when files of two builds are mixed, with everything but dataset.json's avcC made to fit."""
    other = build_numbered(numbered_raw, tmp_path, samples_per_shard=4, codec="h264", crf=30)
    said = {name: numbered_h264.info["codec"][name] for name in ("avcc", "blank")}
    assert said["avcc"] != other.info["codec"]["avcc"]
    edit_json(tmp_path, lambda info: info["codec"].update(said))
    _, faults = verify(tmp_path)
    assert len(faults) == other.num_samples
    assert all("its avcC is not the one in dataset.json" in fault for fault in faults)


def test_the_tars_are_whole_for_other_readers_too(numbered_h264: ShardIndex) -> None:
    for tar in numbered_h264.tars:
        path = numbered_h264.data_dir / tar
        components = tar_components(path)
        assert {name.partition(".")[2] for name, _, _ in components} == {"mp4", "json"}
        assert path.with_suffix(".idx").read_bytes() == dali_index(components)
    assert json.loads((numbered_h264.data_dir / "dataset.json").read_text())["num_packets"] == sum(
        numbered_h264.num_frames
    )
