"""Videos added to a finished dataset become new shards; what is there stays as it is."""

from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_folder, list_table
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardError, ShardIndex, open_index
from res3d_video.pipeline.shard_writer import Parts
from res3d_video.pipeline.verify import verify
from res3d_video.tools.numbered import write_numbered_video

SMALL = {"height": 64, "width": 96}


def append(raw: Path, out: Path, settings: BuildSettings, *, is_new: bool = False) -> ShardIndex:
    listing = list_folder(raw, name="grown", test_groups=("run/a.mp4",))
    build_shards(listing, out, settings, workers=1, append=not is_new)
    return open_index(out)


def contents(index: ShardIndex) -> dict[str, tuple[str, list[int], np.ndarray]]:
    """Source -> class, sides and frames."""
    return {
        index.source(row): (index.classes[index.labels[row]], index.subsets[row].tolist(), decode_frames(index, row))
        for row in range(index.num_samples)
    }


@pytest.mark.parametrize("keep_aspect", [False, True])
def test_appended_equals_built_at_once_and_old_shards_are_not_touched(tmp_path: Path, keep_aspect: bool) -> None:
    raw, settings = tmp_path / "raw", BuildSettings(size=64, samples_per_shard=2, keep_aspect=keep_aspect)
    for name in ("run/a", "run/b", "walk/c"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        write_numbered_video(raw / f"{name}.mp4", 20 + len(name), **SMALL)
    (raw / "walk/broken.mp4").write_text("no video")
    old = append(raw, tmp_path / "grown", settings, is_new=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "grown").glob("*.tar")}
    for name in ("bend/d", "run/e", "walk/f"):  # bend is a new class, and the first by name
        (raw / name).parent.mkdir(exist_ok=True)
        write_numbered_video(raw / f"{name}.mp4", 30, **SMALL)
    for _ in range(2):  # the second finds nothing to do
        index = append(raw, tmp_path / "grown", settings)
        assert index.classes == [*old.classes, "bend"]
        assert {name: (tmp_path / "grown" / name).read_bytes() for name in before} == before
        assert len(index.tars) > len(before)
    assert verify(tmp_path / "grown", decode=True)[1] == []
    found, expected = contents(index), contents(append(raw, tmp_path / "whole", settings, is_new=True))
    assert found.keys() == expected.keys()
    for source, (class_name, sides, frames) in expected.items():
        assert found[source][:2] == (class_name, sides)
        assert np.array_equal(found[source][2], frames)


def test_a_video_that_does_not_fit_the_tiles_is_left_out_with_a_reason(tmp_path: Path) -> None:
    raw, settings = tmp_path / "raw", BuildSettings(size=64, keep_aspect=True)
    (raw / "run").mkdir(parents=True)
    write_numbered_video(raw / "run/a.mp4", 10, **SMALL)
    append(raw, tmp_path / "grown", settings, is_new=True)
    write_numbered_video(raw / "run/wide.mp4", 10, height=64, width=256)
    assert append(raw, tmp_path / "grown", settings).num_samples == 1
    assert (
        "pixels do not fit tiles of 96×64; build the shards anew" in (tmp_path / "grown/quarantine.jsonl").read_text()
    )


def test_videos_with_several_labels_may_join_those_with_one(tmp_path: Path) -> None:
    for name in "abc":
        write_numbered_video(tmp_path / f"{name}.mp4", 10, **SMALL)
    table, labels = tmp_path / "t.csv", {"a": "x", "b": "y;x", "c": "z"}
    for names in ("a", "ab", "c"):
        table.write_text("path,labels,subset\n" + "".join(f"{name}.mp4,{labels[name]},train\n" for name in names))
        listing = list_table(tmp_path, table=table)
        build_shards(listing, tmp_path / "shards", BuildSettings(size=64), workers=1, append=names != "a")
        index = open_index(tmp_path / "shards")
    found = dict(zip(map(index.source, range(3)), index.all_labels(np.arange(3)).tolist(), strict=True))
    assert index.classes == ["x", "y", "z"]
    assert found == {"a.mp4": [0, -1], "b.mp4": [1, 0], "c.mp4": [2, -1]}


def test_new_videos_take_the_side_that_their_group_was_drawn_for(tmp_path: Path) -> None:
    raw, out, settings = tmp_path / "raw", tmp_path / "grown", BuildSettings(size=64)
    (raw / "run").mkdir(parents=True)

    def grow(number: int, groups: str, *, is_new: bool) -> dict[str, set[str]]:
        for group in groups:
            write_numbered_video(raw / f"run/{group}_{number}.mp4", 10, **SMALL)
        listing = list_folder(raw, name="grown", group_pattern="^(.)_", test_fraction=0.5)
        build_shards(listing, out, settings, workers=1, append=not is_new)
        sides: dict[str, set[str]] = {}
        for part in Parts(out, sorted(path.stem for path in (out / "parts").glob("*.json"))):
            for sample in part["samples"]:
                sides.setdefault(sample["group"], set()).update(sample["subsets"])
        return sides

    first = grow(1, "abcd", is_new=True)
    both = grow(2, "abcdefghijklmnop", is_new=False)
    assert all(len(sides) == 1 for sides in both.values())
    assert {group: both[group] for group in first} == first
    assert len(both) == 16


def test_there_must_be_a_finished_dataset(tmp_path: Path) -> None:
    (tmp_path / "raw/run").mkdir(parents=True)
    (tmp_path / "raw/run/a.mp4").touch()
    with pytest.raises(ShardError, match="no finished dataset to append to; leave --append out to make one"):
        append(tmp_path / "raw", tmp_path / "none", BuildSettings())
