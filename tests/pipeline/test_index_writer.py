"""The index over all tars: the arrays that the parts say, with one part in memory at a time."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.codecs.filmstrip import FilmstripCodec
from res3d_video.pipeline.files import put_in_place, temporary_of
from res3d_video.pipeline.index import open_index
from res3d_video.pipeline.index_writer import Parts, write_index
from res3d_video.pipeline.shard_writer import pack_frames

CODEC = FilmstripCodec.new(height=128, width=176, quality=85)
HEAD = {
    "name": "made-up",
    "classes": ["a", "b", "c"],
    "split_names": ["1", "2"],
    "codec": {"name": "filmstrip", "size": 128, "frame_step": 1} | CODEC.describe(),
    "settings": {},
}


def sample(number: int, **more: object) -> dict:
    """Sample i has the label i % 3 and i + 1 frames."""
    return {
        "key": f"{number:08d}",
        "source": "v" * (number % 5) + f"{number}.mp4",
        "group": f"g{number // 2}",
        "label": number % 3,
        "subsets": [("train", "test", "")[number % 3], "train"],
        "num_frames_stored": number + 1,
        "content": [0, 0, 171, 100 + number],
        "offset": 1000 * number,
        "frames": pack_frames(np.array([[k, 10 + k, 2**32 - 1 - k] for k in range(number + 1)])),
        **more,
    }


def part(number: int, samples: list[dict], **more: object) -> dict:
    name = f"made-up-{number:06d}"
    return {
        "tar": f"{name}.tar",
        "num_bytes": 5,
        "sha256": f"{number:064d}",
        "samples": samples,
        "quarantine": [],
    } | more


def write_parts(folder: Path, parts: list[dict]) -> Parts:
    (folder / "parts").mkdir()
    for i, one in enumerate(parts):
        (folder / f"parts/{i}.json").write_text(json.dumps(one))
    return Parts(folder, [str(i) for i in range(len(parts))])


def test_arrays_and_counts_are_those_of_the_parts(tmp_path: Path) -> None:
    bad = {"source": "x", "stage": "decode", "reason": "y"}
    parts = write_parts(
        tmp_path,
        [part(0, [sample(0), sample(1)]), part(1, [], quarantine=[bad]), part(2, [sample(i) for i in range(2, 7)])],
    )
    gone = {"source": "z", "stage": "missing", "reason": "w"}
    tally, changed = write_index(tmp_path, parts, head=HEAD, missing=[gone])
    index = open_index(tmp_path)
    numbers = np.arange(7)
    assert (tally.samples, tally.frames, tally.quarantine, changed) == (7, 28, [bad], 13)
    assert [index.key(n) for n in numbers] == [f"{n:08d}" for n in numbers]
    assert [index.source(n) for n in numbers] == [sample(int(n))["source"] for n in numbers]
    assert index.labels.tolist() == (numbers % 3).tolist()
    assert index.num_frames.tolist() == (numbers + 1).tolist()
    assert index.content[:, 3].tolist() == (numbers + 100).tolist()
    assert index.subsets.tolist() == [[(1, 2, 0)[n % 3], 1] for n in numbers]
    assert np.diff(index.first_frame).tolist() == (numbers + 1).tolist()
    assert index.tar.tolist() == [0, 0, 1, 1, 1, 1, 1], "a part without samples has no tar"
    assert index.offset.tolist() == (1000 * numbers).tolist()
    assert index.frames.tolist() == [[k, 10 + k, 2**32 - 1 - k] for n in numbers for k in range(n + 1)]
    assert index.label_lists is None
    assert (index.info["splits"]["1"], index.info["num_frames"]) == ({"train": 3, "test": 2}, 28)
    assert index.info["class_counts"] == {"a": 3, "b": 2, "c": 2}
    assert (index.info["num_quarantined"], index.info["num_missing"]) == (1, 1)
    assert [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()] == [bad, gone]
    types = {p.stem: np.load(p).dtype for p in (tmp_path / "index").iterdir()}
    expected = {"key": "S8", "source": "S9", "group": "S2", "label": "i4", "num_frames": "i4", "content": "i2"}
    expected |= {"split": "i1", "tar": "i4", "offset": "i8", "first_frame": "i8", "frames": "u4"}
    assert types == {name: np.dtype(kind) for name, kind in expected.items()}


def test_several_labels_become_two_more_arrays(tmp_path: Path) -> None:
    samples = [sample(i, labels=[i % 3, *range(5, 5 + i)]) for i in range(4)]
    parts = write_parts(tmp_path, [part(0, samples[:1]), part(1, samples[1:])])
    write_index(tmp_path, parts, head=HEAD | {"classes": list("abcdefgh")}, missing=[])
    index = open_index(tmp_path)
    assert index.all_labels(np.arange(4)).tolist() == [[0, -1, -1, -1], [1, 5, -1, -1], [2, 5, 6, -1], [0, 5, 6, 7]]
    assert index.all_labels(np.array([1, 0])).tolist() == [[1, 5], [0, -1]]
    assert index.all_labels(np.arange(0)).tolist() == []
    assert index.info["num_labels"] == 10


def test_writing_the_same_again_changes_nothing(tmp_path: Path) -> None:
    parts = write_parts(tmp_path, [part(0, [sample(1)])])
    assert write_index(tmp_path, parts, head=HEAD, missing=[])[1] == 13
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in tmp_path.rglob("*.*")}
    assert write_index(tmp_path, parts, head=HEAD, missing=[])[1] == 0
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in tmp_path.rglob("*.*")} == before


class KeptPart(dict):
    """A part that can be watched."""


def test_no_part_is_kept_when_the_next_is_read(tmp_path: Path) -> None:
    class Watched:
        def __iter__(self) -> Iterator[dict]:
            earlier: list[weakref.ref] = []
            for number in range(6):
                kept = KeptPart(part(number, [sample(number, labels=[0])]))
                earlier.append(weakref.ref(kept))
                yield kept
                del kept
                alive = [i for i, ref in enumerate(earlier[:-1]) if ref() is not None]
                assert not alive, f"while part {number} is in work, {alive} are still there"

    assert write_index(tmp_path, Watched(), head=HEAD, missing=[])[0].samples == 6


@pytest.mark.parametrize("there", [None, b"same", b"other", b"longer than it"])
def test_a_file_is_put_in_place_only_when_it_differs(tmp_path: Path, there: bytes | None) -> None:
    path = tmp_path / "a"
    if there is not None:
        path.write_bytes(there)
    temporary_of(path).write_bytes(b"same")
    assert put_in_place(temporary_of(path), path) == (there != b"same")
    assert path.read_bytes() == b"same"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
