"""The demo set: exact time reversals, frames that tell nothing, and a class that only motion tells."""

import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn.functional import cross_entropy

from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.errors import UserError
from res3d_video.tools.make_demo_videos import (
    CLASSES,
    DIRECTIONS,
    NUM_SHAPES,
    Scene,
    main,
    make_video,
    motion,
    render_video,
)
from res3d_video.train.models import ModelConfig, build_model
from tests.schemas import check_schema

OPPOSITES = {"left": "right", "up": "down", "grow": "shrink", "spin_cw": "spin_ccw"}


def render(class_name: str, *, seed: int = 0, num_frames: int = 12) -> np.ndarray:
    return render_video(class_name, seed=seed, num_frames=num_frames, height=48, width=64)


def test_a_seed_gives_one_video_and_another_seed_another() -> None:
    assert render("left").shape == (12, 48, 64, 3)
    assert np.array_equal(render("left"), render("left"))
    assert not np.array_equal(render("left"), render("left", seed=1))


@pytest.mark.parametrize("num_frames", [11, 12, 21])
@pytest.mark.parametrize(("name", "opposite"), OPPOSITES.items())
def test_opposite_classes_are_exact_time_reversals(name: str, opposite: str, num_frames: int) -> None:
    video = render(name, num_frames=num_frames)
    assert np.array_equal(render(opposite, num_frames=num_frames), video[::-1])
    assert not np.array_equal(video, video[::-1])


def test_the_frame_at_half_time_is_the_same_in_all_classes() -> None:
    middle = [render(name, num_frames=11)[5] for name in CLASSES]
    assert all(np.array_equal(frame, middle[0]) for frame in middle)


def test_every_direction_of_the_torus_is_a_class_and_so_is_its_opposite() -> None:
    assert Counter(DIRECTIONS.values()) == Counter(
        tuple(sign * (axis == i) for i in range(4)) for axis in range(4) for sign in (-1, 1)
    )


@pytest.mark.parametrize("name", CLASSES)
def test_every_scene_moves_by_the_same_way_on_the_torus(name: str) -> None:
    """A state that is uniform at half time stays uniform, for a class adds but a constant, modulo 1.

    So no single frame of any class is likelier than in another.
    """
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


def test_the_ground_drifts_in_any_direction() -> None:
    velocities = np.stack([Scene(seed).ground_velocity for seed in range(100)])
    quadrants = Counter(map(tuple, (velocities > 0).tolist()))
    assert len(quadrants) == 4
    assert min(quadrants.values()) > 25 - 5 * 4.4  # 4.4: deviation of a quarter of 100


def test_shapes_start_anywhere_on_the_torus() -> None:
    states = np.concatenate([Scene(seed).states for seed in range(100)])  # [100 K, 4]
    counts = np.stack([np.histogram(states[:, i], bins=10, range=(0, 1))[0] for i in range(4)])
    assert states.shape == (100 * NUM_SHAPES, 4)
    expected = 10 * NUM_SHAPES
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


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
    arguments = ["--out", str(out), "--videos-per-class", "2", "--frames", "4", "--workers", "2", "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    check_schema("make_demo_videos", json.loads(done.stdout))
    assert json.loads(done.stdout)["num_made"] == 2 * len(CLASSES)
    listing = list_folder(out, group_pattern="^(scene[0-9]+)_", test_fraction=0.5)
    assert (listing.classes, listing.warnings) == (CLASSES, [])
    assert Counter(record.subsets for record in listing.records) == {("train",): 8, ("test",): 8}
    assert {record.group for record in listing.records} == {"scene000", "scene001"}

    (out / "left/scene001_left.mp4").unlink()  # what an interrupted run leaves
    again = CliRunner().invoke(main, arguments)
    assert json.loads(again.stdout)["num_made"] == 1


@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_command_touches_no_folder_that_holds_something_else(tmp_path: Path, seed: str) -> None:
    if seed == "1":  # of this folder's set it is 0
        (tmp_path / "demo.json").write_text(
            '{"videos_per_class": 40, "num_frames": 48, "seed": 0, "height": 96, "width": 128}'
        )
    (tmp_path / "notes.txt").touch()
    before = sorted(tmp_path.iterdir())
    done = CliRunner().invoke(main, ["--out", str(tmp_path), "--seed", seed])
    assert done.exit_code == 2
    assert "choose another --out" in done.output
    assert sorted(tmp_path.iterdir()) == before


CROP = 56  # of frames 64 high, the paper's smallest input
TRAIN_SCENES, TEST_SCENES = 32, 12


def clips_of(videos: np.ndarray, *, num_frames: int, starts: np.ndarray, corners: np.ndarray) -> torch.Tensor:
    """Clips [N, 3, T, CROP, CROP] at stride 2 of videos uint8 [N, F, H, W, 3]."""
    crops = [
        video[start : start + 2 * num_frames - 1 : 2, top : top + CROP, left : left + CROP]
        for video, start, (top, left) in zip(videos, starts, corners, strict=True)
    ]
    clips = torch.from_numpy(np.stack(crops)).float().sub_(128)
    return clips.permute(0, 4, 1, 2, 3)  # channels last in memory


def accuracy_on_held_out_scenes(model_name: str, *, num_frames: int, num_steps: int, videos: np.ndarray) -> float:
    """Share of held-out clips that a network names rightly after training; videos [scenes, K, F, H, W, 3]."""
    num_classes, video_frames, height, width = videos.shape[1:5]
    train, test = (part.reshape(-1, *videos.shape[2:]) for part in np.split(videos, [TRAIN_SCENES]))
    labels = torch.arange(num_classes)
    bounds = np.array([video_frames - 2 * num_frames + 2, height - CROP + 1, width - CROP + 1])
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = build_model(ModelConfig(model_name, width=8), num_classes=num_classes)
    # Twice as fast on a CPU; torch's stubs do not know it for modules.
    model.to(memory_format=torch.channels_last_3d if num_frames > 1 else torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        rows = rng.integers(0, len(train), 16)
        places = rng.integers(0, bounds, (16, 3))
        clips = clips_of(train[rows], num_frames=num_frames, starts=places[:, 0], corners=places[:, 1:])
        loss = cross_entropy(model(clips), labels[rows % num_classes])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    model.eval()
    right = 0
    with torch.inference_mode():
        for rows in np.split(np.arange(len(test)), TEST_SCENES):
            # From the first frame, where classes differ most: at half time they show the same.
            places = np.tile([0, (height - CROP) // 2, (width - CROP) // 2], (num_classes, 1))
            clips = clips_of(test[rows], num_frames=num_frames, starts=places[:, 0], corners=places[:, 1:])
            right += int((model(clips).argmax(1) == labels).sum())
    return right / len(test)


@pytest.mark.long
def test_a_3d_net_learns_the_motion_and_a_one_frame_net_stays_near_chance() -> None:
    scenes = [
        np.stack([render_video(name, seed=seed, num_frames=24, height=64, width=85) for name in CLASSES])
        for seed in range(TRAIN_SCENES + TEST_SCENES)
    ]
    videos = np.stack(scenes)
    of_clips = accuracy_on_held_out_scenes("res3d10", num_frames=8, num_steps=320, videos=videos)
    of_frames = accuracy_on_held_out_scenes("res2d18", num_frames=1, num_steps=320, videos=videos)
    assert of_clips > 0.4  # chance is 0.125
    assert of_frames < 0.25
