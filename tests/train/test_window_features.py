"""Features of windows: the frames that they take, and that they are the network's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import ClipLoader
from res3d_video.pipeline.plan import PlannedClips
from res3d_video.train.checkpoint import data_identity
from res3d_video.train.config import TrainConfig, to_dict
from res3d_video.train.evaluation.features import COLUMNS, FeatureError, FeatureFile, Features
from res3d_video.train.models import ModelConfig, build_model, take_layers
from res3d_video.train.paper import thumos14_features
from res3d_video.train.paper.thumos14 import VideoLength, WindowList, frames_of_window, list_windows
from res3d_video.train.paper.thumos14_features import WindowExtraction, WindowPlan, samples_of_windows
from res3d_video.train.ranks import Ranks
from tests.clips import damaged_copy, shown
from tests.oracle import oracle_clips

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


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumos14_features, "WINDOWS_PER_PART", 4)


def extraction(state: dict, index: ShardIndex, windows: WindowList, out: Path) -> WindowExtraction:
    return WindowExtraction(state, index, windows, ["pool5"], out=out, device=torch.device("cpu"))


def extract(state: dict, index: ShardIndex, windows: WindowList, out: Path) -> Features:
    """By one rank; the rows as they are in the file."""
    extraction(state, index, windows, out).extract(Ranks(), batch_size=3)
    file = FeatureFile(out)
    found = file.read([*COLUMNS.values(), "pool5"])
    arrays = {name: found[column] for name, column in COLUMNS.items()}
    layers = {"pool5": found["pool5"]}
    return Features(about=file.about(), **arrays, unreadable=file.unreadable(), layers=layers)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
    state: dict, squares: ShardIndex, windows: WindowList, tmp_path: Path
) -> None:
    found = extract(state, squares, windows, tmp_path / "f.parquet")
    assert (found.layers["pool5"].dtype, len(found.unreadable)) == (np.float16, 0)
    spec = replace(CONFIG.clip, num_frames=16, frame_stride=1)
    samples = samples_of_windows(squares, windows)
    plan = WindowPlan(squares, samples, windows.frames[:, 0], spec, global_batch_size=len(windows))
    planned: PlannedClips = plan.batch(0)
    model = build_model(CONFIG.model, num_classes=2)
    model.load_state_dict(state["model"])
    with torch.no_grad():
        clips = torch.from_numpy(oracle_clips(squares, planned, spec))
        expected = take_layers(model.eval(), clips, ["pool5"])["pool5"].numpy()
    assert found.layers["pool5"] == pytest.approx(expected, rel=0.05, abs=0.05)
    assert np.abs(expected[0] - expected[2]).max() > 0.2  # or nothing would be seen of a mix-up
    assert found.keys.tolist() == windows.keys
    assert found.starts.tolist() == windows.frames[:, 0].tolist()
    assert found.sources.tolist() == [squares.source(row) for row in samples]
    assert found.labels.tolist() == squares.labels[samples].tolist()


def test_rows_come_by_length_and_then_as_listed_each_with_its_own_features(
    state: dict, numbered: ShardIndex, tmp_path: Path, small_parts: None
) -> None:
    listed = list_windows([VideoLength("g08_64", 64, 25)], lengths=(32, 16), overlap=0.5)  # 3 and 7 windows
    order = np.random.default_rng(0).permutation(len(listed))
    shuffled = listed.take(order)
    found = extract(state, numbered, shuffled, tmp_path / "f.parquet")
    by_length = np.concatenate([np.flatnonzero(shuffled.lengths == length) for length in (16, 32)])
    assert found.keys.tolist() == [shuffled.keys[row] for row in by_length]
    whole = extract(state, numbered, listed, tmp_path / "whole.parquet")
    row_of = {key: row for row, key in enumerate(whole.keys)}
    expected = whole.layers["pool5"][[row_of[key] for key in found.keys]]
    assert found.layers["pool5"] == pytest.approx(expected, abs=2e-3, rel=2e-3)
    assert len(np.unique(found.layers["pool5"], axis=0)) == len(listed)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_make_the_bytes_of_one(
    state: dict, numbered: ShardIndex, tmp_path: Path, world_size: int, small_parts: None
) -> None:
    listed = list_windows([VideoLength("g08_64", 64, 25)], lengths=(16, 32), overlap=0.5)  # 7 and 3 windows
    extract(state, numbered, listed, tmp_path / "one.parquet")  # parts of 4, 3 and 3 windows
    for rank in reversed(range(world_size)):
        run = extraction(state, numbered, listed, tmp_path / "many.parquet")
        made = run.extract(Ranks(rank, rank, world_size), batch_size=3)
        assert made == len(range(rank, 3, world_size))
    assert contents(tmp_path / "many.parquet") == contents(tmp_path / "one.parquet")


def test_what_was_done_before_a_kill_is_kept_and_the_end_is_the_same(
    state: dict, squares: ShardIndex, windows: WindowList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "f.parquet"
    monkeypatch.setattr(thumos14_features, "WINDOWS_PER_PART", 1)

    def kill(done: int, total: int) -> None:
        if (done, total) == (2, 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extraction(state, squares, windows, out).extract(Ranks(), batch_size=3, on_batch=kill)
    run = extraction(state, squares, windows, out)
    assert [run.path_of(part).exists() for part in range(4)] == [True, True, False, False]
    with pytest.raises(FeatureError, match=r"^windows: .*f.parquet was made with \w{8}…, this run has \w{8}…"):
        extraction(state, squares, windows.take(np.array([1, 0, 2, 3])), out).extract(Ranks(), batch_size=3)
    assert run.extract(Ranks(), batch_size=3) == 2
    extract(state, squares, windows, tmp_path / "whole.parquet")
    assert contents(out) == contents(tmp_path / "whole.parquet")


def test_windows_of_a_damaged_video_are_named_and_left_out(
    state: dict, squares: ShardIndex, windows: WindowList, tmp_path: Path
) -> None:
    sample = int(samples_of_windows(squares, windows)[0])
    broken = damaged_copy(squares, tmp_path / "broken", sample, fix_checksum=False)
    found = extract(state, broken, windows, tmp_path / "f.parquet")
    lost = [key for key, row in zip(windows.keys, samples_of_windows(squares, windows), strict=True) if row == sample]
    assert found.unreadable.tolist() == lost[: len(found.unreadable)]
    assert found.unreadable[0] == windows.keys[0]
    assert found.keys.tolist() == [key for key in windows.keys if key not in found.unreadable]
    assert len(found.layers["pool5"]) == len(found.keys)


def test_windows_of_other_videos_or_later_frames_are_refused(
    state: dict, squares: ShardIndex, windows: WindowList, tmp_path: Path
) -> None:
    out = tmp_path / "f.parquet"
    with pytest.raises(ValueError, match="squares: video elsewhere is there 0 times; windows need it once"):
        extraction(state, squares, list_windows([VideoLength("elsewhere", 20, 25)]), out)
    name = windows.videos[0]
    with pytest.raises(ValueError, match=rf"window {name}/000008-000024 ends after the video's 20 frames"):
        extraction(state, squares, list_windows([VideoLength(name, 24, 25)]), out)
    with pytest.raises(ValueError, match="windows: there are none"):
        extraction(state, squares, list_windows([]), out)
