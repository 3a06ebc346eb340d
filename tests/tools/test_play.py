"""tools/play.py: what it draws are the frames, the crop and the mirror image that it names."""

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence
from scipy import ndimage

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.numbered import BAND_LEFT, BAND_RIGHT, number_of, read_bits
from res3d_video.tools.play import MAX_FRAMES, main
from res3d_video.train.config import TrainConfig, override, to_dict
from tests.clips import damaged_copy, sample_of_length
from tests.schemas import check_schema
from tests.tools.commands import run

YELLOW = (255, 221, 0)
PAPER = 246  # a pixel whose channels are all brighter is paper; white bars are 235, and a few pixels brighter by coding
SMALLEST = 40  # pixels; letters are smaller


def played(index: ShardIndex, *words: object, out: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The command's JSON, and the pictures that it writes."""
    run(main, index.data_dir, *words, "--out", out, "--json", out.with_suffix(".json"))
    summary = json.loads(out.with_suffix(".json").read_text())
    check_schema("play", summary)
    return summary, read_back(out)


def read_back(path: Path) -> list[np.ndarray]:
    """The pictures of a file, uint8 RGB [H, W, 3]."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def recipe(folder: Path, **options: Any) -> tuple[str, Path]:
    """--run with a run of these options."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"config": to_dict(override(TrainConfig(), **options))}))
    return "--run", folder


def tiles(picture: np.ndarray) -> list[np.ndarray]:
    """The pictures on a page, row by row."""
    inked = ndimage.binary_closing((picture < PAPER).any(axis=2), np.ones((1, 5)))
    boxes = ndimage.find_objects(ndimage.label(inked)[0])
    boxes = [box for box in boxes if all(side.stop - side.start >= SMALLEST for side in box)]
    return [picture[box] for box in sorted(boxes, key=lambda box: (box[0].start, box[1].start))]


def number_in(tile: np.ndarray, *, left: float = 0, height: int = 128, flip: bool = False) -> int:
    """The number in a tile that shows `height` pixels of the stored picture, from column `left` on."""
    scale = len(tile) / height
    if not flip:
        return number_of(read_bits(tile, left=left, scale=scale, grey=128))
    mirrored_left = BAND_LEFT + BAND_RIGHT - left - tile.shape[1] / scale
    return number_of(read_bits(tile, left=mirrored_left, scale=scale, grey=128)[::-1])


def video(index: ShardIndex, num_frames: int) -> str:
    """The name of the video that is so long."""
    return Path(index.source(sample_of_length(index, num_frames))).stem


@pytest.mark.parametrize("kind", MAX_FRAMES)
def test_each_frame_is_drawn_as_stored_and_cropped_and_as_the_network_gets_it(
    shards: ShardIndex, kind: str, tmp_path: Path
) -> None:
    summary, pictures = played(
        shards, video(shards, 120), "--clips", 4, *recipe(tmp_path / "run"), out=tmp_path / f"new/a{kind}"
    )
    shown = [tiles(picture) for picture in pictures]
    if kind == ".png":  # a row of eight frames, then one of their crops, then one of what the network gets
        shown = [shown[0][24 * clip + t : 24 * clip + 24 : 8] for clip in range(4) for t in range(8)]
    frames = [(clip, frame) for clip in summary["clips"] for frame in clip["frames"]]
    assert {clip["flip"] for clip, _ in frames} == {False, True}
    for (clip, frame), (stored, crop, given) in zip(frames, shown, strict=True):
        left, flip = clip["crop"]["left"], clip["flip"]
        assert number_in(stored) == frame
        assert number_in(crop, left=left, height=112) == frame
        assert number_in(given, left=left, height=112, flip=flip) == frame
        assert number_in(given, left=left, height=112, flip=not flip) != frame
    assert [np.diff(clip["frames"]).tolist() for clip in summary["clips"]] == [[2] * 7] * 4
    assert [clip["epoch"] for clip in summary["clips"]] == [0, 1, 2, 3]


@pytest.mark.parametrize("more", [(), ("--random-resized-crop", 0.2, 0.9)], ids=str)
def test_the_crop_is_drawn_in_where_it_is_and_a_resized_one_covers_more(
    numbered: ShardIndex, tmp_path: Path, more: tuple
) -> None:
    words = video(numbered, 120), "--preset", "tiny"  # at half the size, 56 pixels are 112 of the stored picture
    summary, (picture,) = played(numbered, *words, *more, out=tmp_path / "a.png")
    (clip,) = summary["clips"]
    assert (clip["crop"]["height"] == clip["crop"]["width"] == 56) == (not more)
    stored, crop, given = tiles(picture)[::8]
    rows, columns = np.nonzero((stored == YELLOW).all(axis=2))
    scale = 2 * len(stored) / 128
    left, top, height, width = (clip["crop"][name] * scale for name in ("left", "top", "height", "width"))
    drawn = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert drawn == tuple(round(edge) for edge in (left, top, left + width, top + height))
    where = {"left": 2 * clip["crop"]["left"], "height": 112}
    assert more or number_in(stored) == number_in(crop, **where) == number_in(given, **where, flip=clip["flip"])


@pytest.mark.parametrize("kind", MAX_FRAMES)
def test_a_segment_is_shown_from_its_first_frame_to_its_last(shards: ShardIndex, kind: str, tmp_path: Path) -> None:
    summary, pictures = played(shards, video(shards, 33), "--segment", out=tmp_path / f"a{kind}")
    assert summary["frames"] == (list(range(33)) if kind != ".png" else [n * 32 // 31 for n in range(32)])
    assert [number_in(tile) for picture in pictures for tile in tiles(picture)] == summary["frames"]


def test_evenly_spaced_frames_of_a_long_segment_take_as_long_as_it(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_FRAMES, ".mp4", 8)
    summary, pictures = played(numbered, video(numbered, 120), "--segment", out=tmp_path / "a.mp4")
    assert summary["frames"] == [0, 17, 34, 51, 68, 85, 102, 119]
    assert [number_in(tile) for picture in pictures for tile in tiles(picture)] == summary["frames"]
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.duration == pytest.approx(1e6 * 120 / 25)  # microseconds


def test_a_gif_loops_at_the_speed_of_the_source_and_holds_a_repeated_last_frame(
    numbered: ShardIndex, tmp_path: Path
) -> None:
    summary, _ = played(numbered, video(numbered, 7), out=tmp_path / "a.gif")
    assert summary["clips"][0]["frames"] == [0, 2, 4, 6, 6, 6, 6, 6]
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["loop"] == 0
        times_ms = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert (times_ms[:3], sum(times_ms)) == ([80] * 3, 640)  # a picture that stays may be one or several


def test_all_clips_of_a_step_are_shown_and_a_random_sample_is_of_the_step(numbered: ShardIndex, tmp_path: Path) -> None:
    words = video(numbered, 40), *recipe(tmp_path, global_batch_size=20), "--step", 1
    summary, (picture,) = played(numbered, *words, out=tmp_path / "a.png")
    assert [(clip["step"], clip["epoch"]) for clip in summary["clips"]] == [(1, 2), (1, 3)]  # ten samples, twice a step
    found = tiles(picture)
    shown = [number_in(tile) for tile in found[:8] + found[24:32]]
    assert shown == [frame for clip in summary["clips"] for frame in clip["frames"]]
    words = "--random", *recipe(tmp_path, global_batch_size=1), "--step", 7
    summary, _ = played(numbered, *words, out=tmp_path / "a.png")
    assert [clip["step"] for clip in summary["clips"]] == [7]


def test_a_sample_is_drawn_from_a_class_and_a_side(numbered: ShardIndex, tmp_path: Path) -> None:
    key = numbered.key(sample_of_length(numbered, 1))  # the only test sample
    summary, _ = played(numbered, "--class", "even", "--side", "test", "--clips", 3, out=tmp_path / "a.png")
    clips = [(clip["view"], clip["frames"], clip["flip"], clip["class"]) for clip in summary["clips"]]
    assert (summary["key"], clips) == (key, [(view, [0] * 8, False, "even") for view in range(3)])
    summary, _ = played(numbered, "--class", "odd", "--segment", out=tmp_path / "a.png")
    assert summary["classes"] == ["odd"]


def test_clips_are_taken_as_a_run_takes_them(numbered_h264: ShardIndex, tmp_path: Path) -> None:
    options = {"seed": 5, "snap_to_keyframe": True, "mean": (100.0, 110.0, 120.0), "std": 50.0, "num_frames": 2}
    words = video(numbered_h264, 505), *recipe(tmp_path, **options)
    summary, (picture,) = played(numbered_h264, *words, out=tmp_path / "a.png")
    (clip,) = summary["clips"]
    assert (len(clip["frames"]), clip["frames"][0] % 8) == (2, 0)
    crop, given = tiles(picture)[2::2]
    crop = crop[:, ::-1] if clip["flip"] else crop
    assert np.abs(crop.astype(int) - given).mean() < 3  # its own normalization is undone


@pytest.mark.parametrize("words", [("--segment",), ()])
def test_a_damaged_sample_is_named_and_the_old_file_stays(numbered: ShardIndex, words: tuple, tmp_path: Path) -> None:
    sample = sample_of_length(numbered, 33)
    broken = damaged_copy(numbered, tmp_path / "copy", sample, fix_checksum=False)
    (tmp_path / "a.png").write_bytes(b"old")
    result = run(main, broken.data_dir, numbered.key(sample), *words, "--out", tmp_path / "a.png", code=1)
    (line,) = result.output.splitlines()
    assert line.startswith(f"error: {numbered.key(sample)}: a ")
    assert line.endswith("; tools/check_shards.py says more, building again mends it")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "copy"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("g09_120", "--out", "a.avi"), 2, "--out: a.avi must end in .gif, .mp4 or .png"),
        ((), 2, "give either a KEY, or --random, --class or --side to take any sample"),
        (("g09_120", "--random"), 2, "give either a KEY, or --random, --class or --side to take any sample"),
        (("g09_120", "--step", 1, "--clips", 1), 2, "--clips and --step do not go together; leave one of them out"),
        (("g09_120", "--segment", "--step", 0), 2, "--segment and --step do not go together; leave one of them out"),
        (("g09_120", "--preset", "tiny", "--run", "."), 2, "--preset and --run do not go together"),
        (("g09_121",), 1, "g09_121: no sample of numbered has it in its key or source; use --random for any sample"),
        (("even",), 1, "even: 6 samples have it in their key or source: 0000"),
        (("--class", "evem"), 1, "--class: evem does not exist; did you mean even?"),
        (("--class", "odd", "--side", "test"), 1, "numbered: split 1 has no such sample; leave out --side"),
        (("g00_1", "--step", 1), 1, "--step: 1 does not train on <key>; leave out --step, or take --random"),
        (("g09_120", "--split", "4"), 1, "numbered: split 4 does not exist; choose 1"),
        (("--random", "--segment", "--split", "2"), 1, "numbered: split 2 does not exist; choose 1"),
        (("g09_120", "--run", "."), 1, "config.json: No such file or directory; give the --out of train/main.py"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    numbered: ShardIndex, words: tuple, code: int, message: str, tmp_path: Path
) -> None:
    out = () if "--out" in words else ("--out", tmp_path / "a.png")
    (line,) = run(main, numbered.data_dir, *words, *out, code=code).output.splitlines()
    assert line.startswith("error: " + message.replace("<key>", numbered.key(sample_of_length(numbered, 1))))
    assert not list(tmp_path.iterdir())
