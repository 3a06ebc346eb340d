"""The demo set: exact time reversals, and frames that tell nothing."""

import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.errors import UserError
from res3d_video.tools.make_demo_videos import CLASSES, DIRECTIONS, Scene, main, make_video, motion, render_video
from tests.schemas import check_schema
from tests.tools.commands import run

OPPOSITES = {"left": "right", "up": "down", "grow": "shrink", "spin_cw": "spin_ccw"}


def render(class_name: str, *, seed: int = 0, num_frames: int = 12) -> np.ndarray:
    return render_video(class_name, seed=seed, num_frames=num_frames, height=48, width=64)


@pytest.mark.parametrize("num_frames", [11, 12])
@pytest.mark.parametrize(("name", "opposite"), OPPOSITES.items())
def test_opposite_classes_are_exact_time_reversals(name: str, opposite: str, num_frames: int) -> None:
    video = render(name, num_frames=num_frames)
    assert np.array_equal(render(opposite, num_frames=num_frames), video[::-1])
    assert not np.array_equal(video, video[::-1])
    assert not np.array_equal(video, render(name, num_frames=num_frames, seed=1))


def test_the_frame_at_half_time_is_the_same_in_all_classes() -> None:
    middle = [render(name, num_frames=11)[5] for name in CLASSES]
    assert all(np.array_equal(frame, middle[0]) for frame in middle)


@pytest.mark.parametrize("name", CLASSES)
def test_every_scene_moves_by_the_same_way_on_the_torus(name: str) -> None:
    """So no single frame of any class is likelier than in another."""
    axis = int(np.flatnonzero(DIRECTIONS[name])[0])
    for seed in range(5):
        scene = Scene(seed)
        states, positions = motion(name, scene, num_frames=21, height=48, width=64)
        travelled = (states - scene.states) % 1  # [F, K, 4]
        assert np.allclose(states[10], scene.states)
        assert np.allclose(travelled, travelled[:, :1])  # all shapes alike, wherever they are
        still = np.delete(travelled, axis, axis=2)
        assert np.allclose(np.minimum(still, 1 - still), 0)
        step = np.diff(travelled[:, 0, axis]) % 1
        assert np.allclose(step, step[0])
        assert (step[0] < 0.5) == (DIRECTIONS[name][axis] > 0)
        assert np.allclose(np.abs(np.diff(positions, axis=0)), np.abs(scene.ground_velocity))


def test_encoding_keeps_every_frame_and_is_the_same_every_time(tmp_path: Path) -> None:
    video = render_video("up", seed=2_000_003, num_frames=9, height=96, width=128)
    paths = [tmp_path / folder / "scene003_up.mp4" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        make_video(path, num_frames=9, seed=2)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with av.open(str(paths[0])) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert container.streams.video[0].average_rate == 25
    assert frames.shape == video.shape
    assert np.abs(frames.astype(int) - video).mean() < 6  # colour at half the resolution costs most of it


def test_a_failure_of_ffmpeg_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / ".scene000_up.mp4").mkdir()  # where the unfinished video would lie
    with pytest.raises(UserError, match=r"scene000_up.mp4: ffmpeg failed \(.+\); try another ffmpeg, or none on PATH$"):
        make_video(tmp_path / "scene000_up.mp4", num_frames=2, seed=0)
    assert not (tmp_path / "scene000_up.mp4").exists()


def test_the_command_makes_a_set_that_the_folder_adapter_splits_by_scene(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    words = ["--out", out, "--videos-per-class", "2", "--frames", "4", "--workers", "2", "--json"]
    made = json.loads(run(main, *words).stdout)
    check_schema("make_demo_videos", made)
    assert made["num_made"] == 2 * len(CLASSES)
    listing = list_folder(out, group_pattern="^(scene[0-9]+)_", test_fraction=0.5)
    assert (listing.classes, listing.warnings) == (CLASSES, [])
    assert Counter(record.subsets for record in listing.records) == {("train",): 8, ("test",): 8}
    assert {record.group for record in listing.records} == {"scene000", "scene001"}

    (out / "left/scene001_left.mp4").unlink()  # what an interrupted run leaves
    assert json.loads(run(main, *words).stdout)["num_made"] == 1


def test_the_command_touches_no_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    settings = '{"videos_per_class": 40, "num_frames": 48, "seed": 0, "height": 96, "width": 128}\n'
    for seed, files in ((0, ["notes.txt"]), (1, ["demo.json", "notes.txt"])):
        assert "choose another --out" in run(main, "--out", tmp_path, "--seed", seed, code=2).output
        assert sorted(path.name for path in tmp_path.iterdir()) == files
        (tmp_path / "demo.json").write_text(settings)  # this folder's set is of seed 0
