"""Every kind of damage is found and named."""

import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.index import ShardError, ShardIndex
from res3d_video.pipeline.schema import CRC32
from res3d_video.pipeline.shard_writer import sha256_of
from res3d_video.pipeline.verify import verify


@pytest.fixture
def copy(numbered: ShardIndex, tmp_path: Path) -> Path:
    return Path(shutil.copytree(numbered.data_dir, tmp_path / "data"))


def test_a_whole_dataset_has_no_faults(numbered: ShardIndex) -> None:
    seen = []
    index, faults = verify(numbered.data_dir, decode=True, report=lambda done, total: seen.append((done, total)))
    assert faults == []
    assert index.num_samples == numbered.num_samples
    assert seen == [(1, 3), (2, 3), (3, 3)]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def edit_json(folder: Path, change: Callable[[dict], None]) -> None:
    info = json.loads((folder / "dataset.json").read_text())
    change(info)
    (folder / "dataset.json").write_text(json.dumps(info))


def edit_array(folder: Path, name: str, change: Callable[[np.ndarray], None]) -> None:
    array = np.load(folder / "index" / f"{name}.npy")
    change(array)
    np.save(folder / "index" / f"{name}.npy", array)


def fix_sha256(folder: Path, tar: str) -> None:
    """Make dataset.json agree with a tar that was changed."""
    digest = sha256_of(folder / tar)
    edit_json(folder, lambda info: next(s for s in info["shards"] if s["tar"] == tar).update(sha256=digest))


def put(key: object, value: object) -> Callable:
    return lambda container: container.__setitem__(key, value)


TAR = "numbered-000001.tar"
DAMAGE = {
    "a flipped bit": (lambda d, i: overwrite(d / TAR, place(i)[0] + 99, b"\0\0\0"), "tile 0 of .*, frame 0, fails its"),
    "a header of another dataset": (
        lambda d, i: overwrite(d / TAR, int(i.offset[first(i)]) + 30, b"\1\2\3"),
        "000.jpg is not the tiles that the index names, behind this dataset's header",
    ),
    "a wrong marker": (
        lambda d, i: overwrite(d / TAR, sum(place(i)), b"\xff\xd5"),
        "000.jpg is not the tiles that the index names",
    ),
    "a missing tar": (lambda d, i: (d / TAR).unlink(), f"{TAR}: missing"),
    "a wrong idx": (lambda d, i: (d / "numbered-000001.idx").write_text("v1.2 0\n"), "idx: does not describe"),
    "a stray tar": (lambda d, i: shutil.copy(d / TAR, d / "other.tar"), "other.tar: not named"),
    "a wrong label": (lambda d, i: edit_array(d, "label", put(0, 1 - i.labels[0])), "json and the index tell"),
    "a key twice": (lambda d, i: edit_array(d, "key", put(1, i.keys[0])), "keys are not unique"),
    "a wrong split": (
        lambda d, i: edit_json(d, lambda info: info["splits"]["1"].update(train=3)),
        "split 1, train, is said to have 3 samples, the index has 10",
    ),
}


def first(index: ShardIndex) -> int:
    """First sample of the second tar."""
    return int(np.flatnonzero(index.tar == 1)[0])


def place(index: ShardIndex) -> tuple[int, int]:
    """Offset in the tar, and size, of that sample's first frame."""
    sample = first(index)
    offset, size, _ = index.frames[index.first_frame[sample]].tolist()
    return int(index.offset[sample]) + offset, size


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(numbered: ShardIndex, copy: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    damage(copy, numbered)
    _, faults = verify(copy)
    assert any(re.search(said, fault) for fault in faults), faults
    assert all("\n" not in fault for fault in faults)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [("label", put(0, 7), "must have 0 … 1, has 0 … 7"), ("num_frames", put(3, 9999), "a sample of 9999 frames has")],
)
def test_what_no_sample_can_have_is_refused(copy: Path, name: str, change: Callable, said: str) -> None:
    edit_array(copy, name, change)
    with pytest.raises(ShardError, match=said):
        verify(copy)


@pytest.mark.parametrize(
    ("content", "said", "decode"), [(b"\xff\xd9" * 9, "holds a marker", False), (bytes(18), "does not decode", True)]
)
def test_a_tile_that_does_not_decode_is_found_though_its_checksum_is_right(
    numbered: ShardIndex, copy: Path, content: bytes, said: str, decode: bool
) -> None:
    """Markers are looked for; other nonsense is found by decoding alone."""
    offset, size = place(numbered)
    spoilt = content + bytes(size - len(content))
    overwrite(copy / TAR, offset, spoilt)
    edit_array(copy, "frames", put((numbered.first_frame[first(numbered)], CRC32), zlib.crc32(spoilt)))
    fix_sha256(copy, TAR)
    if decode:
        assert verify(copy)[1] == []
    (fault,) = verify(copy, decode=decode)[1]
    assert re.search(f"{TAR}: .*: tile 0 of 000.jpg, frame 0, {said}", fault)
