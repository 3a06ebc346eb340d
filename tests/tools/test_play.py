"""tools/play.py: the files show the frames, the crop and the mirror that the table tells."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.play import main
from res3d_video.train.config import TrainConfig, to_dict
from tests.clips import damaged_copy, sample_of_length
from tests.schemas import check_schema
from tests.tools.playing.seen import number_in, read_back, tiles

KINDS = (".gif", ".mp4", ".png")
YELLOW = (255, 221, 0)


def play(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def shown(
    folder: Path, index: ShardIndex, *words: object, kind: str = ".png"
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What the command tells, and the pictures it writes."""
    out, told = folder / f"new/a{kind}", folder / "a.json"
    result = play(index.data_dir, *words, "--out", out, "--json", told)
    assert result.exit_code == 0, result.output
    found = json.loads(told.read_text())
    check_schema("play", found)
    return found, read_back(out)


def source(index: ShardIndex, num_frames: int) -> str:
    """The name of the video that is so long."""
    return Path(index.source(sample_of_length(index, num_frames))).stem


@pytest.mark.parametrize("kind", KINDS)
def test_the_frames_told_are_the_frames_shown(shards: ShardIndex, kind: str, tmp_path: Path) -> None:
    told, pictures = shown(tmp_path, shards, source(shards, 120), "--stage", "frames", "--zoom", 1, kind=kind)
    (clip,) = told["clips"]
    if kind == ".png":
        seen = [tile for _, _, tile in tiles(pictures[0])]
    else:
        seen = [tile for picture in pictures for _, _, tile in tiles(picture)]
    assert [number_in(tile) for tile in seen] == clip["frames"]
    assert np.diff(clip["frames"]).tolist() == [2] * 7
    assert clip["seconds"] == [round(frame / 25, 4) for frame in clip["frames"]]


@pytest.mark.parametrize("epoch", range(4))
def test_the_clip_is_cropped_and_mirrored_as_told(shards: ShardIndex, epoch: int, tmp_path: Path) -> None:
    words = source(shards, 120), "--stage", "clip", "--epoch", epoch, "--zoom", 2
    told, pictures = shown(tmp_path, shards, *words)
    (clip,) = told["clips"]
    assert clip["epoch"] == epoch
    where = {"left": clip["crop"]["left"], "scale": 2, "flip": clip["flip"]}
    seen = [tile for _, _, tile in tiles(pictures[0])]
    assert {tile.shape for tile in seen} == {(224, 224, 3)}
    assert [number_in(tile, **where) for tile in seen] == clip["frames"]
    assert [number_in(tile, **where | {"flip": not clip["flip"]}) for tile in seen] != clip["frames"]


def test_the_rectangle_is_where_the_crop_is_and_the_clip_is_as_large(numbered: ShardIndex, tmp_path: Path) -> None:
    words = source(numbered, 120), "--preset", "tiny", "--zoom", 2  # half the size: the crop covers 112 stored pixels
    told, pictures = shown(tmp_path, numbered, *words)
    (clip,) = told["clips"]
    found = tiles(pictures[0])
    before, after = found[0], found[4]  # four to a row
    rows, columns = np.nonzero((before[2] == YELLOW).all(axis=2))
    left, top = 4 * clip["crop"]["left"], 4 * clip["crop"]["top"]  # twice for the size, twice for the zoom
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (left, left + 224, top, top + 224)
    assert after[2].shape == (224, 224, 3)
    where = {"left": 2 * clip["crop"]["left"], "scale": 2, "flip": clip["flip"]}
    assert number_in(after[2], **where) == clip["frames"][0] == number_in(before[2], scale=2)


def test_a_gif_shows_the_last_frame_of_a_short_video_as_often_as_the_network_gets_it(
    shards: ShardIndex, tmp_path: Path
) -> None:
    told, pictures = shown(tmp_path, shards, source(shards, 7), "--stage", "frames", "--zoom", 1, kind=".gif")
    assert told["clips"][0]["frames"] == [0, 2, 4, 6, 6, 6, 6, 6]
    assert [number_in(tiles(picture)[0][2]) for picture in pictures] == [0, 2, 4, 6, 6, 6, 6, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_is_shown_from_its_first_frame_to_its_last(numbered: ShardIndex, kind: str, tmp_path: Path) -> None:
    told, pictures = shown(tmp_path, numbered, source(numbered, 33), "--stage", "segment", "--zoom", 1, kind=kind)
    expected = list(range(33)) if kind != ".png" else [n * 32 // 31 for n in range(32)]
    assert told["frames"] == expected
    assert [number_in(tile) for picture in pictures for _, _, tile in tiles(picture)] == expected


def test_of_a_long_segment_evenly_spaced_frames_take_the_same_time(numbered_h264: ShardIndex, tmp_path: Path) -> None:
    words = source(numbered_h264, 120), "--stage", "segment", "--max-frames", 8, "--zoom", 1
    told, pictures = shown(tmp_path, numbered_h264, *words, kind=".mp4")
    assert told["frames"] == [0, 17, 34, 51, 68, 85, 102, 119]
    assert [number_in(tiles(picture)[0][2]) for picture in pictures] == told["frames"]
    assert told["out"]["duration_s"] == pytest.approx(120 / 25)


def test_an_animation_plays_at_the_speed_of_the_source(numbered: ShardIndex, tmp_path: Path) -> None:
    told, pictures = shown(tmp_path, numbered, source(numbered, 120), kind=".gif")
    assert (told["out"]["fps"], told["out"]["num_frames"]) == (12.5, 8)
    assert pictures[0].shape == (told["out"]["height"], told["out"]["width"], 3)
    told, pictures = shown(tmp_path, numbered, source(numbered, 120), "--fps", 5, kind=".mp4")
    assert told["out"]["fps"] == 5
    assert pictures[0].shape == (told["out"]["height"], told["out"]["width"], 3)


def test_every_clip_of_a_step_is_shown(numbered: ShardIndex, tmp_path: Path) -> None:
    words = source(numbered, 40), "--batch-size", 20, "--step", 1, "--stage", "frames", "--zoom", 1
    told, pictures = shown(tmp_path, numbered, *words)
    assert [(clip["step"], clip["epoch"]) for clip in told["clips"]] == [(1, 2), (1, 3)]  # ten samples, twice a step
    frames = [frame for clip in told["clips"] for frame in clip["frames"]]
    assert [number_in(tile) for _, _, tile in tiles(pictures[0])] == frames


def test_views_of_a_test_sample_are_spread_evenly(numbered: ShardIndex, tmp_path: Path) -> None:
    rows = sample_of_length(numbered, 1)
    told, _ = shown(tmp_path, numbered, "--index", rows, "--clips", 3)
    assert [(clip["view"], clip["frames"], clip["flip"]) for clip in told["clips"]] == [
        (view, [0] * 8, False) for view in range(3)
    ]
    told, _ = shown(tmp_path, numbered, "--random", "--side", "test", "--view", 7)  # there is one sample
    assert [(told["sample"], clip["view"]) for clip in told["clips"]] == [(rows, 7)]


def test_clips_are_those_of_a_run(numbered_h264: ShardIndex, tmp_path: Path) -> None:
    config = TrainConfig(global_batch_size=3, seed=5, snap_to_keyframe=True, mean=(100.0, 110.0, 120.0), std=50.0)
    (tmp_path / "config.json").write_text(json.dumps({"config": to_dict(config)}))
    told, _ = shown(tmp_path, numbered_h264, source(numbered_h264, 505), "--run", tmp_path, "--num-frames", 2)
    (clip,) = told["clips"]
    assert clip["frames"][0] % 8 == 0
    assert clip["values"]["min"] == pytest.approx((20 - 120) / 50, abs=0.1)  # black bars are 20, white ones 235
    assert clip["values"]["max"] == pytest.approx((235 - 100) / 50, abs=0.1)


def test_the_table_names_sample_clip_and_file(numbered: ShardIndex, tmp_path: Path) -> None:
    result = play(numbered.data_dir, source(numbered, 7), "--out", tmp_path / "a.png", "--seed", 0)
    lines = result.output.splitlines()
    assert lines[0].split() == ["key", numbered.key(sample_of_length(numbered, 7))]
    assert lines[3] == "frames  7 at 25 fps, 0.28 s"
    heading, row = lines[6:8]
    assert heading.split()[:5] == ["step", "epoch", "frames", "seconds", "left"]
    assert "0…4 by 2, then 6 ×5" in row
    assert row.index("0.00…0.24") == heading.index("seconds")
    assert lines[-1].startswith(f"written  {tmp_path}/a.png, ")


def test_normalised_values_are_shown_as_grey(numbered: ShardIndex, tmp_path: Path) -> None:
    words = source(numbered, 120), "--stage", "clip", "--normalised", "--zoom", 1
    told, pictures = shown(tmp_path, numbered, *words)
    (clip,) = told["clips"]
    tile = tiles(pictures[0])[0][2]
    assert (tile == tile[:, :, :1]).all()
    assert 100 < clip["white_is"] <= max(-clip["values"]["min"], clip["values"]["max"]) + 0.5
    assert number_in(tile, left=clip["crop"]["left"], flip=clip["flip"]) == clip["frames"][0]


def test_a_damaged_sample_is_named_and_the_old_file_stays(numbered: ShardIndex, tmp_path: Path) -> None:
    sample = sample_of_length(numbered, 33)
    broken = damaged_copy(numbered, tmp_path / "copy", sample, fix_checksum=False)
    (tmp_path / "a.png").write_bytes(b"old")
    for stage in ("segment", "frames", "clip"):
        result = play(broken.data_dir, numbered.key(sample), "--stage", stage, "--out", tmp_path / "a.png")
        assert result.exit_code == 1
        assert result.output.startswith(f"error: {numbered.key(sample)}: a ")
        assert result.output.endswith("; tools/check_shards.py says more, building again mends it\n")
        assert result.output.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "copy"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("g09_120", "--out", "a.avi"), "--out: a.avi must end in .gif, .mp4 or .png"),
        ((), "KEY, --random and --index each say which sample; give one of them"),
        (("g09_120", "--random"), "KEY, --random and --index each say which sample; give one of them"),
        (("g09_120", "--step", 1, "--epoch", 1), "--step and --epoch both decide the same; leave one of them out"),
        (("g09_120", "--step", 1, "--view", 1), "--step and --view do not go together; leave one of them out"),
        (
            ("g09_120", "--normalised", "--stage", "frames"),
            "--normalised: --stage frames shows pixels as stored",
        ),
        (("g09_120", "--stage", "segment", "--view", 1), "--view: --stage segment shows no clip; leave it out"),
        (("g09_120", "--preset", "tinny"), "--preset: tinny does not exist; did you mean tiny?"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    numbered: ShardIndex, words: tuple, message: str, tmp_path: Path
) -> None:
    out = () if "--out" in words else ("--out", tmp_path / "a.png")
    result = play(numbered.data_dir, *words, *out)
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert result.output.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("g09_121",), "g09_121: no sample of numbered has it in its key or source; the nearest are g09_120"),
        (("g09_120", "--step", 0, "--batch-size", 1), "--step: 0 does not train on KEY; step 3 is the next that does"),
        (("g09_120", "--side", "test"), "KEY: on the train side of split 1; leave out --side test"),
        (("g00_1", "--clips", 2, "--view", 2), "--view: 2 does not exist; --clips 2 gives KEY 0 to 1"),
        (("g09_120", "--view", 1), "--view: of the test side, KEY is on the train side; leave it out"),
        (("g00_1", "--epoch", 1), "--epoch: of the train side, KEY is on the test side; leave it out"),
        (("--index", 11), "--index: 11 does not exist; choose 0 to 10"),
        (("g09_120", "--split", "4"), "numbered: split 4 does not exist; choose 1"),
        (("--random", "--stage", "segment", "--split", "2"), "numbered: split 2 does not exist; choose 1"),
        (("g09_120", "--crop-size", 200), "crop_size: 200 does not fit a picture of 128 pixels"),
        (("g09_120", "--snap-to-keyframe"), "--snap-to-keyframe: DIR holds filmstrips, which have none; leave it out"),
        (
            ("g09_120", "--run", "."),
            ".: neither config.json nor metrics.jsonl, so it is not a run's folder; give the --out of train/main.py",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(
    numbered: ShardIndex, words: tuple, message: str, tmp_path: Path
) -> None:
    result = play(numbered.data_dir, *words, "--out", tmp_path / "a.png")
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    key = numbered.key(sample_of_length(numbered, 1 if "g00_1" in words else 120))
    assert line.startswith("error: " + message.replace("KEY", key).replace("DIR", str(numbered.data_dir)))
    assert not (tmp_path / "a.png").exists()
