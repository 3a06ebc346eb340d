"""Features of windows: the frames that they take, and that they are the network's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.clip import ClipSpec
from pipeline.loader import ClipLoader
from pipeline.plan import PlannedClips
from pipeline.reference import reference_clips
from pipeline.shard import ShardIndex
from tests.clips import damaged_copy, shown
from train.checkpoint import data_identity
from train.config import TrainConfig, to_dict
from train.evaluation.thumos14.segments import frames_of_window
from train.evaluation.thumos14.window_features import WindowPlan, extract_windows, samples_of_windows
from train.evaluation.thumos14.windows import VideoLength, WindowList, list_windows
from train.models import ModelConfig, build_model
from train.models.layers import take_layers

CONFIG = TrainConfig(
    model=ModelConfig("res3d10", width=4), clip=ClipSpec(num_frames=4, frame_stride=2, crop_size=32, resize=32)
)


@pytest.fixture(scope="module")
def state(squares: ShardIndex) -> dict[str, Any]:
    """Of a checkpoint that was trained on clips of four frames."""
    torch.manual_seed(0)
    model = build_model(CONFIG.model, num_classes=2).train()
    model(torch.randn(4, 3, 4, 32, 32))
    return {
        "config": to_dict(CONFIG), "model": model.state_dict(), "classes": squares.classes, "step": 1,
        "data": data_identity(squares),
    }  # fmt: skip


@pytest.fixture
def windows(squares: ShardIndex) -> WindowList:
    """Those of two of the videos of 20 frames, of 16 frames each: 0…16 and 4…20."""
    names = sorted(Path(squares.source(row)).stem for row in range(squares.num_samples))
    return list_windows([VideoLength(name, 20, 25) for name in names[1:3]])


def extract(state: dict, index: ShardIndex, windows: WindowList, **options: Any) -> tuple[dict, np.ndarray]:
    return extract_windows(state, index, windows, ["pool5"], device=torch.device("cpu"), batch_size=3, **options)


def test_a_window_of_every_length_shows_its_sixteen_frames(numbered: ShardIndex) -> None:
    listed = list_windows([VideoLength("g10_505", 505, 25)])
    samples = samples_of_windows(numbered, listed)
    for length in (16, 64, 256):
        rows = np.flatnonzero(listed.lengths == length)[-2:]
        spec = ClipSpec(num_frames=16, frame_stride=length // 16)
        plan = WindowPlan(numbered, samples[rows], listed.frames[rows, 0], spec, global_batch_size=3)
        with ClipLoader(numbered, plan) as loader:
            (batch,) = loader
        assert batch.weights.tolist() == [1, 1, 0]
        assert shown(batch, plan, 0)[:2] == [frames_of_window(*listed.frames[row]).tolist() for row in rows]


def test_features_are_those_of_the_network_on_the_windows_clips(
    state: dict, squares: ShardIndex, windows: WindowList
) -> None:
    found, readable = extract(state, squares, windows)
    assert readable.all()
    assert found["pool5"].dtype == np.float16
    spec = replace(CONFIG.clip, num_frames=16, frame_stride=1)
    samples = samples_of_windows(squares, windows)
    plan = WindowPlan(squares, samples, windows.frames[:, 0], spec, global_batch_size=len(windows))
    planned: PlannedClips = plan.batch(0)
    model = build_model(CONFIG.model, num_classes=2)
    model.load_state_dict(state["model"])
    with torch.no_grad():
        clips = torch.from_numpy(reference_clips(squares, planned, spec))
        expected = take_layers(model.eval(), clips, ["pool5"])["pool5"].numpy()
    assert found["pool5"] == pytest.approx(expected, rel=0.05, abs=0.05)
    assert np.abs(expected[0] - expected[2]).max() > 0.2  # or nothing would be seen of a mix-up


def test_windows_come_in_the_order_of_the_list_and_progress_is_told(
    state: dict, squares: ShardIndex, windows: WindowList
) -> None:
    told: list[tuple[int, int]] = []
    whole, _ = extract(state, squares, windows, on_batch=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    order = np.array([2, 0, 3, 1])
    turned, _ = extract(state, squares, windows.take(order))
    assert turned["pool5"] == pytest.approx(whole["pool5"][order], abs=2e-3)


def test_a_damaged_video_has_no_features(state: dict, squares: ShardIndex, windows: WindowList, tmp_path: Path) -> None:
    sample = int(samples_of_windows(squares, windows)[0])
    broken = damaged_copy(squares, tmp_path / "broken", sample, fix_checksum=False)
    found, readable = extract(state, broken, windows)
    assert not readable[0]
    assert not found["pool5"][~readable].any()


def test_windows_of_other_videos_or_later_frames_are_refused(
    state: dict, squares: ShardIndex, windows: WindowList
) -> None:
    with pytest.raises(ValueError, match="squares: video elsewhere is there 0 times; windows need it once"):
        extract(state, squares, list_windows([VideoLength("elsewhere", 20, 25)]))
    name = windows.videos[0]
    with pytest.raises(ValueError, match=rf"window {name}/000008-000024 ends after the video's 20 frames"):
        extract(state, squares, list_windows([VideoLength(name, 24, 25)]))
    with pytest.raises(ValueError, match="windows: there are none"):
        extract(state, squares, list_windows([]))
