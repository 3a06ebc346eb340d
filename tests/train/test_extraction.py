"""Features of videos: the same as by hand, by one rank or several, with a kill in between or without."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch, ClipLoader
from res3d_video.pipeline.plan import EvalPlan
from res3d_video.train.checkpoint import data_identity
from res3d_video.train.config import TrainConfig, to_dict
from res3d_video.train.evaluation import extraction as extraction_module
from res3d_video.train.evaluation.extraction import Extraction, PartFeatures, PartsPlan, cut_into_parts
from res3d_video.train.evaluation.features import FeatureError, Features, load_features
from res3d_video.train.models import ModelConfig, build_model, take_layers
from res3d_video.train.paper import thumos14_features
from res3d_video.train.paper.thumos14 import VideoLength, WindowList, list_windows
from res3d_video.train.paper.thumos14_features import WindowExtraction, WindowPlan, samples_of_windows
from res3d_video.train.ranks import Ranks
from tests.clips import damaged_copy, shown
from tests.oracle import oracle_clips

SMALL = ClipSpec(num_frames=4, frame_stride=2, crop_size=32, resize=32)
CONFIG = TrainConfig(model=ModelConfig("res3d10", width=4), clip=SMALL)
LAYERS = ("res5", "pool5")
extraction = partial(Extraction, device=torch.device("cpu"), layers=LAYERS, num_clips=3)


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction_module, "VIDEOS_PER_PART", 5)
        patch.setattr(thumos14_features, "WINDOWS_PER_PART", 4)
        yield


@pytest.fixture(scope="module")
def state(squares: ShardIndex) -> dict[str, Any]:
    """Of a checkpoint: a network with running statistics of its own, and three classes where the squares have two."""
    torch.manual_seed(0)
    model = build_model(CONFIG.model, num_classes=3).train()
    model(torch.randn(8, 3, 4, 32, 32))
    data = data_identity(squares) | {"name": "other"}
    return {"config": to_dict(CONFIG), "model": model.state_dict(), "classes": ["a", "b", "c"], "step": 7, "data": data}


def network(state: dict) -> nn.Module:
    model = build_model(CONFIG.model, num_classes=3)
    model.load_state_dict(state["model"])
    return model.eval()


def extract(state: dict, index: ShardIndex, out: Path, *, world_size: int = 1, **options: Any) -> dict[str, bytes]:
    """All ranks one after another, in reverse; what the parts hold."""
    for rank in reversed(range(world_size)):
        extraction(state, index, out=out, **options).extract(Ranks(rank, rank, world_size), batch_size=4)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def whole(state: dict, squares: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of all squares, made by one rank without a break."""
    out = tmp_path_factory.mktemp("whole") / "features.parquet"
    extract(state, squares, out)
    return out


def test_features_are_the_mean_over_a_videos_clips(state: dict, squares: ShardIndex, whole: Path) -> None:
    features, model = load_features(whole, LAYERS), network(state)
    rows = {squares.source(row): row for row in range(squares.num_samples)}
    assert sorted(features.sources) == sorted(rows)
    for place in (0, 6, 11):
        row = rows[features.sources[place]]
        plan = EvalPlan(squares, np.array([row]), CONFIG.clip, global_batch_size=3, num_views=3)
        with ClipLoader(squares, plan) as loader, torch.no_grad():
            (batch,) = loader
            maps = model.stages(model.stem(batch.clips))  # [3, 32, 1, 2, 2]
        by_hand = maps.flatten(1).mean(dim=0), maps.mean(dim=(0, 2, 3, 4))
        for layer, expected in zip(LAYERS, by_hand, strict=True):
            np.testing.assert_allclose(features.layers[layer][place], expected, rtol=1e-4, atol=1e-5)
        found = (features.keys[place], features.labels[place], features.groups[place], features.num_clips[place])
        assert found == (squares.key(row), squares.labels[row], squares.groups[row].decode(), 3)
        assert features.subsets[place].tolist() == squares.subsets[row].tolist()
    assert (features.layers["res5"].shape, features.layers["pool5"].shape) == ((12, 128), (12, 32))
    about = features.about["checkpoint"]
    assert (about["step"], about["model"]["name"], about["data"]["name"]) == (7, "res3d10", "other")


def test_clips_are_rows_of_their_own_and_average_to_the_videos(
    state: dict, squares: ShardIndex, whole: Path, tmp_path: Path
) -> None:
    extract(state, squares, tmp_path / "clips.parquet", per_clip=True)
    clips, videos = (load_features(path, LAYERS) for path in (tmp_path / "clips.parquet", whole))
    assert clips.layers["pool5"].shape == (36, 32)
    assert clips.starts.tolist() == [0, 6, 13] * 12  # 20 frames, clips span 7
    assert clips.of_videos().keys.tolist() == videos.keys.tolist()
    np.testing.assert_allclose(clips.of_videos().layers["res5"], videos.layers["res5"], rtol=1e-5, atol=1e-6)


def test_ranks_make_the_bytes_of_one(state: dict, squares: ShardIndex, whole: Path, tmp_path: Path) -> None:
    for world_size in (2, 4):  # three parts, so the fourth rank has nothing to do
        assert extract(state, squares, tmp_path / f"{world_size}.parquet", world_size=world_size) == contents(whole)


def test_what_a_kill_and_damage_leave_is_kept(state: dict, squares: ShardIndex, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"

    def kill(done: int, total: int) -> None:
        if done == 5:  # of four batches a part: in the second
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extraction(state, squares, out=out).extract(Ranks(), batch_size=4, on_batch=kill)
    run = extraction(state, squares, out=out)
    assert [run.path_of(part).exists() for part in range(3)] == [True, False, False]
    (run.out / f".{run.path_of(1).name}.tmp").write_bytes(b"half a pa")
    before = run.path_of(0).stat().st_mtime_ns
    assert run.extract(Ranks(), batch_size=4) == 2
    assert run.path_of(0).stat().st_mtime_ns == before
    (run.out / f".{run.path_of(1).name}.tmp").unlink(missing_ok=True)
    assert contents(out) == contents(whole)
    run.path_of(1).write_bytes(run.path_of(1).read_bytes()[:-100])
    assert run.extract(Ranks(), batch_size=4) == 1
    assert contents(out) == contents(whole)


def test_what_was_made_otherwise_is_refused(state: dict, squares: ShardIndex, whole: Path, tmp_path: Path) -> None:
    other, strange = copy.deepcopy(state), tmp_path / "strange.parquet"
    other["model"]["head.bias"][0] += 1
    strange.write_bytes(b"something else")
    for weights, out, options, message in (
        (state, whole, {"layers": ("pool5",)}, f"^{whole}: was made with another layers; choose another --out or"),
        (state, whole, {"num_clips": 2}, "was made with another num_clips; choose another --out or remove"),
        (state, whole, {"dtype": "float16"}, "was made with another dtype; choose another --out or remove"),
        (other, whole, {}, "was made with another checkpoint"),
        (state, strange, {}, "strange.parquet: is a file, not a folder of features; choose another"),
    ):
        with pytest.raises(FeatureError, match=message):
            extraction(weights, squares, out=out, **options).extract(Ranks(), batch_size=4)


def test_a_batch_never_spans_two_parts_and_every_clip_comes_once(squares: ShardIndex) -> None:
    parts = cut_into_parts(squares.sources, videos_per_part=5)
    assert [len(part) for part in parts] == [5, 5, 2]
    plan = PartsPlan([EvalPlan(squares, part, CONFIG.clip, global_batch_size=4, num_views=3) for part in parts])
    seen = []
    for step in range(plan.num_steps):
        (number, is_last), batch = plan.plan_of(step), plan.batch(step)
        real = batch.weight > 0
        assert set(batch.sample[real]) <= set(parts[number])
        assert is_last == (step in (3, 7, 9))  # 15, 15 and 6 clips in batches of 4
        seen += zip(batch.sample[real].tolist(), batch.view[real].tolist(), strict=True)
    assert sorted(seen) == [(sample, view) for sample in range(12) for view in range(3)]


# Rows of an index: video b of two segments, a of three, c of one.
LONG_VIDEOS: Any = SimpleNamespace(
    keys=np.array([b"k%d" % row for row in range(6)]),
    sources=np.array([b"b", b"a", b"a", b"b", b"c", b"a"]),
    groups=np.array([b"g"] * 6),
    labels=np.array([1, 0, 0, 1, 2, 0], np.int32),
    subsets=np.ones((6, 1), np.int8),
)


def batch_of(samples: list[int], *, weights: list[float]) -> Batch:
    n, empty = len(samples), torch.zeros(len(samples))
    return Batch(empty, empty, torch.tensor(weights), np.array(samples), np.arange(n), np.zeros(n), 0, n)


@pytest.mark.parametrize("per_clip", [False, True])
def test_clips_that_cannot_be_decoded_do_not_count_and_videos_without_any_are_named(per_clip: bool) -> None:
    rows = PartFeatures(LONG_VIDEOS, np.array([1, 2, 5, 0, 3, 4]))
    rows.add(batch_of([1, 2, 5, 0], weights=[1, 0, 1, 0]), {"fc": torch.tensor([[1.0], [99.0], [4.0], [99.0]])})
    rows.add(batch_of([3, 4, 4, 4], weights=[0, 1, 0, 0]), {"fc": torch.tensor([[99.0], [7.0], [99.0], [99.0]])})
    made = rows.finish({"per_clip": per_clip, "dtype": "float32", "layers": ["fc"]})
    assert made.unreadable.tolist() == ["b"]
    videos = made.of_videos()
    assert [*zip(videos.sources, videos.keys, videos.num_clips, videos.labels, videos.layers["fc"], strict=True)] == [
        ("a", "k1", 2, 0, [2.5]), ("c", "k4", 1, 2, [7.0])
    ]  # fmt: skip


@pytest.mark.parametrize(("value", "dtype"), [(1e5, "float16"), (float("nan"), "float32"), (float("inf"), "float32")])
def test_numbers_that_the_file_cannot_hold_are_refused(value: float, dtype: str) -> None:
    rows = PartFeatures(LONG_VIDEOS, np.array([0]))
    rows.add(batch_of([0], weights=[1]), {"fc": torch.tensor([[value]])})
    with pytest.raises(ValueError, match=f"^fc: a feature is .*, which {dtype} cannot hold"):
        rows.finish({"dtype": dtype, "per_clip": False, "layers": ["fc"]})


# Windows of THUMOS14


@pytest.fixture
def windows(squares: ShardIndex) -> WindowList:
    """Those of two of the videos of 20 frames, of 16 frames each: 0…16 and 4…20."""
    names = sorted(Path(squares.source(row)).stem for row in range(squares.num_samples))
    return list_windows([VideoLength(name, 20, 25) for name in names[1:3]])


window_extraction = partial(WindowExtraction, layers=["pool5"], device=torch.device("cpu"))


def extract_windows(state: dict, index: ShardIndex, windows: WindowList, out: Path) -> Features:
    """By one rank; the rows as they are in the file."""
    window_extraction(state, index, windows, out=out).extract(Ranks(), batch_size=3)
    return load_features(out, ["pool5"])


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
        assert shown(batch, plan, 0)[:2] == [list(range(*listed.frames[row], length // 16)) for row in rows]


def test_features_are_those_of_the_windows_clips_and_others_are_not_mixed_in(
    state: dict, squares: ShardIndex, windows: WindowList, tmp_path: Path
) -> None:
    found = extract_windows(state, squares, windows, tmp_path / "f.parquet")
    assert (found.layers["pool5"].dtype, len(found.unreadable)) == (np.float16, 0)
    spec = replace(CONFIG.clip, num_frames=16, frame_stride=1)
    samples = samples_of_windows(squares, windows)
    plan = WindowPlan(squares, samples, windows.frames[:, 0], spec, global_batch_size=len(windows))
    with torch.no_grad():
        clips = torch.from_numpy(oracle_clips(squares, plan.batch(0), spec))
        expected = take_layers(network(state), clips, ["pool5"])["pool5"].numpy()
    assert found.layers["pool5"] == pytest.approx(expected, rel=0.05, abs=0.05)
    assert np.abs(expected[0] - expected[2]).max() > 0.2  # or nothing would be seen of a mix-up
    assert found.keys.tolist() == windows.keys
    assert found.starts.tolist() == windows.frames[:, 0].tolist()
    assert found.sources.tolist() == [squares.source(row) for row in samples]
    assert found.labels.tolist() == squares.labels[samples].tolist()
    others = window_extraction(state, squares, windows.take(np.array([1, 0, 2, 3])), out=tmp_path / "f.parquet")
    with pytest.raises(FeatureError, match=r"f.parquet: was made with another windows; choose another --out"):
        others.extract(Ranks(), batch_size=3)


def test_rows_come_by_length_and_then_as_listed_and_ranks_make_the_bytes_of_one(
    state: dict, numbered: ShardIndex, tmp_path: Path
) -> None:
    listed = list_windows([VideoLength("g08_64", 64, 25)])
    listed = listed.take((listed.lengths < 64) & (listed.frames[:, 0] % (listed.lengths // 2) == 0))  # 7 of 16, 3 of 32
    shuffled = listed.take(np.random.default_rng(0).permutation(len(listed)))
    found = extract_windows(state, numbered, shuffled, tmp_path / "f.parquet")
    by_length = np.concatenate([np.flatnonzero(shuffled.lengths == length) for length in (16, 32)])
    assert found.keys.tolist() == [shuffled.keys[row] for row in by_length]
    whole = extract_windows(state, numbered, listed, tmp_path / "whole.parquet")
    row_of = {key: row for row, key in enumerate(whole.keys)}
    expected = whole.layers["pool5"][[row_of[key] for key in found.keys]]
    assert found.layers["pool5"] == pytest.approx(expected, abs=2e-3, rel=2e-3)
    assert len(np.unique(found.layers["pool5"], axis=0)) == len(listed)
    for world_size in (2, 4):
        out = tmp_path / f"{world_size}.parquet"
        for rank in reversed(range(world_size)):  # parts of 4, 3 and 3 windows
            run = window_extraction(state, numbered, listed, out=out)
            made = run.extract(Ranks(rank, rank, world_size), batch_size=3)
            assert made == len(range(rank, 3, world_size))
        assert contents(out) == contents(tmp_path / "whole.parquet")


def test_windows_of_a_damaged_video_are_left_out_and_those_of_others_or_later_frames_refused(
    state: dict, squares: ShardIndex, windows: WindowList, tmp_path: Path
) -> None:
    sample = int(samples_of_windows(squares, windows)[0])
    broken = damaged_copy(squares, tmp_path / "broken", sample, fix_checksum=False)
    found = extract_windows(state, broken, windows, tmp_path / "f.parquet")
    assert found.unreadable[0] == windows.keys[0]
    assert found.keys.tolist() == [key for key in windows.keys if key not in found.unreadable]
    assert len(found.layers["pool5"]) == len(found.keys) > 0
    name = windows.videos[0]
    for videos, message in (
        ([VideoLength("elsewhere", 20, 25)], "squares: video elsewhere is there 0 times; windows need it once"),
        ([VideoLength(name, 24, 25)], f"window {name}/000008-000024 ends after the video's 20 frames"),
        ([], "windows: there are none"),
    ):
        with pytest.raises(ValueError, match=message):
            window_extraction(state, squares, list_windows(videos), out=tmp_path / "f.parquet")
