"""Features of videos: the same as by hand, by one rank or several, with a kill in between or without."""

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch, ClipLoader
from res3d_video.pipeline.plan import EvalPlan
from res3d_video.train.checkpoint import data_identity
from res3d_video.train.config import TrainConfig, to_dict
from res3d_video.train.evaluation import extraction as extraction_module
from res3d_video.train.evaluation.extraction import (
    Extraction,
    PartFeatures,
    PartsPlan,
    cut_into_parts,
    weights_fingerprint,
)
from res3d_video.train.evaluation.features import FeatureError, FeatureFile, average_videos, load_features
from res3d_video.train.models import ModelConfig, build_model
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import channels_last

CONFIG = TrainConfig(
    model=ModelConfig("res3d10", width=4), clip=ClipSpec(num_frames=4, frame_stride=2, crop_size=32, resize=32)
)
LAYERS = ("res5", "pool5")
OPTIONS: dict[str, Any] = {"layers": LAYERS, "num_clips": 3}


@pytest.fixture(scope="module", autouse=True)
def five_videos_a_part() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction_module, "VIDEOS_PER_PART", 5)
        yield


@pytest.fixture(scope="module")
def state(squares: ShardIndex) -> dict[str, Any]:
    """Of a checkpoint: a network with running statistics of its own, and three classes where the squares have two."""
    torch.manual_seed(0)
    model = build_model(CONFIG.model, num_classes=3).train()
    model(torch.randn(8, 3, 4, 32, 32))
    data = data_identity(squares) | {"name": "other"}
    return {"config": to_dict(CONFIG), "model": model.state_dict(), "classes": ["a", "b", "c"], "step": 7, "data": data}


def extraction(state: dict, index: ShardIndex, out: Path, **options: Any) -> Extraction:
    samples, device = np.arange(index.num_samples), torch.device("cpu")
    return Extraction(state, index, samples, out=out, device=device, **OPTIONS | options)


def extract(state: dict, index: ShardIndex, out: Path, *, world_size: int = 1, **options: Any) -> dict[str, bytes]:
    """All ranks one after another, in reverse; what the parts hold."""
    for rank in reversed(range(world_size)):
        extraction(state, index, out, **options).extract(Ranks(rank, rank, world_size), batch_size=4)
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
    features = load_features([whole], LAYERS)
    model = build_model(CONFIG.model, num_classes=3)
    model.load_state_dict(state["model"])
    model.eval()
    assert sorted(features.sources) == sorted(squares.source(row) for row in range(squares.num_samples))
    rows = {squares.source(row): row for row in range(squares.num_samples)}
    for place in (0, 6, 11):
        row = rows[features.sources[place]]
        plan = EvalPlan(squares, np.array([row]), CONFIG.clip, global_batch_size=3, num_views=3)
        with ClipLoader(squares, plan) as loader, torch.no_grad():
            (batch,) = loader
            maps = model.stages(model.stem(batch.clips))  # [3, 32, 1, 2, 2]
        by_hand = maps.flatten(1).mean(dim=0), maps.mean(dim=(0, 2, 3, 4))
        for layer, expected in zip(LAYERS, by_hand, strict=True):
            np.testing.assert_allclose(features.layers[layer][place], expected, rtol=1e-4, atol=1e-5)
        assert features.keys[place] == squares.key(row)
        assert features.labels[place] == squares.labels[row]
        assert features.groups[place] == squares.groups[row].decode()
        assert features.subsets[place].tolist() == squares.subsets[row].tolist()
        assert features.num_clips[place] == 3
    assert (features.layers["res5"].shape, features.layers["pool5"].shape) == ((12, 128), (12, 32))
    assert features.layers["pool5"].std(axis=0).max() > 0
    about = features.about["checkpoint"]
    assert (about["step"], about["model"]["name"], about["data"]["name"]) == (7, "res3d10", "other")
    assert features.about["data"]["num_videos"] == {"1": {"train": 8, "test": 4}}


def test_clips_are_rows_of_their_own_and_average_to_the_videos(
    state: dict, squares: ShardIndex, whole: Path, tmp_path: Path
) -> None:
    extract(state, squares, tmp_path / "clips.parquet", per_clip=True)
    found = FeatureFile(tmp_path / "clips.parquet").read(["pool5", "start"])
    assert found["pool5"].shape == (36, 32)
    assert found["start"].tolist() == [0, 6, 13] * 12  # 20 frames, clips span 7
    means, videos = (load_features([path], LAYERS) for path in (tmp_path / "clips.parquet", whole))
    assert means.keys.tolist() == videos.keys.tolist()
    np.testing.assert_allclose(means.layers["res5"], videos.layers["res5"], rtol=1e-5, atol=1e-6)


def test_two_ranks_or_more_than_parts_make_the_bytes_of_one(
    state: dict, squares: ShardIndex, whole: Path, tmp_path: Path
) -> None:
    for world_size in (2, 4):  # three parts, so the fourth rank has nothing to do
        assert extract(state, squares, tmp_path / f"{world_size}.parquet", world_size=world_size) == contents(whole)


def test_what_was_done_before_a_kill_is_kept_and_the_end_is_the_same(
    state: dict, squares: ShardIndex, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features.parquet"

    def kill(done: int, total: int) -> None:
        if done == 5:  # of four batches a part: in the second
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extraction(state, squares, out).extract(Ranks(), batch_size=4, on_batch=kill)
    run = extraction(state, squares, out)
    assert [run.path_of(part).exists() for part in range(3)] == [True, False, False]
    (run.out / f".{run.path_of(1).name}.tmp").write_bytes(b"half a pa")
    before = run.path_of(0).stat().st_mtime_ns
    assert run.extract(Ranks(), batch_size=4) == 2
    assert run.path_of(0).stat().st_mtime_ns == before
    assert len(load_features([out], LAYERS)) == 12
    (run.out / f".{run.path_of(1).name}.tmp").unlink()
    assert contents(out) == contents(whole)


def test_a_damaged_part_is_made_again(state: dict, squares: ShardIndex, whole: Path, tmp_path: Path) -> None:
    run = extraction(state, squares, tmp_path / "features.parquet")
    run.extract(Ranks(), batch_size=4)
    path = run.path_of(1)
    path.write_bytes(path.read_bytes()[:-100])
    assert run.extract(Ranks(), batch_size=4) == 1
    assert contents(run.out) == contents(whole)


def test_res5b_and_pool5_of_res3d_and_fc6_of_c3d_have_the_papers_shapes(squares: ShardIndex, tmp_path: Path) -> None:
    """At width 4, a sixteenth of the paper's: res5b 512 x 7 x 7, pool5 512; C3D's fc6 4096, pool5 8192."""
    small = ClipSpec(num_frames=8, frame_stride=2, crop_size=32, resize=32)
    clip = ClipSpec(num_frames=16, frame_stride=1, crop_size=112, resize=112)
    expected = {
        "res3d18": (small, {"res5b": 32 * 2 * 2, "pool5": 32, "res2a": 4 * 8 * 16 * 16}),
        "c3d": (clip, {"fc6": 256, "pool5": 512, "prob": 3}),
    }
    for name, (spec, num_dims) in expected.items():
        config = TrainConfig(model=ModelConfig(name, width=4), clip=spec)
        weights = build_model(config.model, num_classes=3).state_dict()
        made_by = {"config": to_dict(config), "model": weights, "classes": ["a", "b", "c"], "step": 0}
        made_by["data"] = data_identity(squares)
        out, device = tmp_path / f"{name}.parquet", torch.device("cpu")
        run = Extraction(made_by, squares, np.arange(2), layers=list(num_dims), num_clips=1, out=out, device=device)
        run.extract(Ranks(), batch_size=2)
        assert {layer: FeatureFile(out).num_dims(layer) for layer in num_dims} == num_dims


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ("pool5",)}, "^layers: .*features.parquet was made with res5,pool5, this run has pool5"),
        ({"num_clips": 2}, "^num_clips: .* was made with 3, this run has 2; choose another --out or remove it$"),
        ({"dtype": "float16"}, "^dtype: .* was made with float32, this run has float16"),
        ({"per_clip": True}, "^per_clip: .* was made with False, this run has True"),
    ],
)
def test_parts_made_in_another_way_are_refused(
    state: dict, squares: ShardIndex, tmp_path: Path, options: dict, message: str
) -> None:
    first = extraction(state, squares, tmp_path / "features.parquet")
    with pytest.raises(KeyboardInterrupt):
        first.extract(Ranks(), batch_size=4, on_batch=stop_after_a_part)
    with pytest.raises(FeatureError, match=message):
        extraction(state, squares, tmp_path / "features.parquet", **options).extract(Ranks(), batch_size=4)


def stop_after_a_part(done: int, total: int) -> None:
    if done == 4:
        raise KeyboardInterrupt


def test_parts_of_another_checkpoint_or_of_other_videos_are_refused(
    state: dict, squares: ShardIndex, tmp_path: Path
) -> None:
    out = tmp_path / "features.parquet"
    with pytest.raises(KeyboardInterrupt):
        extraction(state, squares, out).extract(Ranks(), batch_size=4, on_batch=stop_after_a_part)
    other = copy.deepcopy(state)
    other["model"]["head.bias"][0] += 1
    with pytest.raises(FeatureError, match=r"^checkpoint: .* was made with \w{8}…, this run has \w{8}…; choose"):
        extraction(other, squares, out).extract(Ranks(), batch_size=4)
    fewer = Extraction(state, squares, np.arange(11), out=out, device=torch.device("cpu"), **OPTIONS)
    with pytest.raises(FeatureError, match=r"^videos: .* was made with \w{8}…, this run has \w{8}…"):
        fewer.extract(Ranks(), batch_size=4)


def test_a_finished_file_is_known_and_a_strange_one_is_left_alone(
    state: dict, squares: ShardIndex, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features.parquet"
    assert extraction(state, squares, out).missing() == [0, 1, 2]
    shutil.copytree(whole, out)
    assert not extraction(state, squares, out).missing()
    with pytest.raises(FeatureError, match=r"^num_clips: .*features.parquet was .*; choose another --out or remove it"):
        extraction(state, squares, out, num_clips=4).missing()
    out = tmp_path / "strange.parquet"
    out.write_bytes(b"something else")
    with pytest.raises(FeatureError, match="strange.parquet: is a file, not a folder of features; choose another"):
        extraction(state, squares, out).missing()


def test_a_folder_that_lacks_parts_is_not_read(state: dict, squares: ShardIndex, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    with pytest.raises(KeyboardInterrupt):
        extraction(state, squares, out).extract(Ranks(), batch_size=4, on_batch=stop_after_a_part)
    with pytest.raises(FeatureError, match=r"features.parquet has 1 of 3 parts; run the same extraction again"):
        load_features([out], LAYERS)


def test_a_layer_that_does_not_exist_is_named(state: dict, squares: ShardIndex, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layers: fc6 does not exist; this model has .*pool5"):
        extraction(state, squares, tmp_path / "f.parquet", layers=("fc6",)).extract(Ranks(), batch_size=4)


def test_a_batch_never_spans_two_parts_and_every_clip_comes_once(squares: ShardIndex) -> None:
    parts = cut_into_parts(squares, np.arange(12), videos_per_part=5)
    assert [len(part) for part in parts] == [5, 5, 2]
    plans = [EvalPlan(squares, part, CONFIG.clip, global_batch_size=4, num_views=3) for part in parts]
    plan = PartsPlan(plans)
    seen = []
    for step in range(plan.num_steps):
        number, is_last = plan.plan_of(step)
        batch = plan.batch(step)
        real = batch.weight > 0
        assert set(batch.sample[real]) <= set(parts[number])
        assert is_last == (step in (3, 7, 9))  # 15, 15 and 6 clips in batches of 4
        seen += zip(batch.sample[real].tolist(), batch.view[real].tolist(), strict=True)
    assert sorted(seen) == [(sample, view) for sample in range(12) for view in range(3)]


def long_videos() -> SimpleNamespace:
    """Rows of an index: video b of two segments, a of three, c of one."""
    sources = np.array([b"b", b"a", b"a", b"b", b"c", b"a"])
    return SimpleNamespace(
        keys=np.array([b"k%d" % row for row in range(6)]),
        sources=sources,
        groups=np.array([b"g"] * 6),
        labels=np.array([1, 0, 0, 1, 2, 0], np.int32),
        subsets=np.ones((6, 1), np.int8),
    )


def batch_of(samples: list[int], *, weights: list[float]) -> Batch:
    n = len(samples)
    return Batch(
        torch.zeros(n), torch.zeros(n), torch.tensor(weights), np.array(samples), np.arange(n), np.zeros(n), 0, n
    )


def test_segments_of_a_video_stay_together() -> None:
    index: Any = long_videos()
    assert [part.tolist() for part in cut_into_parts(index, np.arange(6), videos_per_part=2)] == [
        [1, 2, 5, 0, 3],
        [4],
    ]
    assert [part.tolist() for part in cut_into_parts(index, np.array([0, 4]), videos_per_part=1)] == [[0], [4]]


@pytest.mark.parametrize("per_clip", [False, True])
def test_clips_that_cannot_be_decoded_do_not_count_and_videos_without_any_are_named(per_clip: bool) -> None:
    index: Any = long_videos()
    rows = PartFeatures(index, np.array([1, 2, 5, 0, 3, 4]), per_clip=per_clip)
    rows.add(batch_of([1, 2, 5, 0], weights=[1, 0, 1, 0]), {"fc": torch.tensor([[1.0], [99.0], [4.0], [99.0]])})
    rows.add(batch_of([3, 4, 4, 4], weights=[0, 1, 0, 0]), {"fc": torch.tensor([[99.0], [7.0], [99.0], [99.0]])})
    made = rows.finish({"per_clip": per_clip}, dtype="float32")
    assert made.unreadable.tolist() == ["b"]
    videos = average_videos(made) if per_clip else made
    assert videos.sources.tolist() == ["a", "c"]
    assert videos.keys.tolist() == ["k1", "k4"]
    assert videos.num_clips.tolist() == [2, 1]
    assert videos.labels.tolist() == [0, 2]
    assert videos.layers["fc"].tolist() == [[2.5], [7.0]]


@pytest.mark.parametrize(("value", "dtype"), [(1e5, "float16"), (float("nan"), "float32"), (float("inf"), "float32")])
def test_numbers_that_the_file_cannot_hold_are_refused(value: float, dtype: str) -> None:
    index: Any = long_videos()
    rows = PartFeatures(index, np.array([0]), per_clip=False)
    rows.add(batch_of([0], weights=[1]), {"fc": torch.tensor([[value]])})
    with pytest.raises(ValueError, match=f"^fc: a feature is .*, which {dtype} cannot hold"):
        rows.finish({}, dtype=dtype)


def test_float16_halves_the_file(state: dict, squares: ShardIndex, whole: Path, tmp_path: Path) -> None:
    extract(state, squares, tmp_path / "half.parquet", dtype="float16")
    half, full = (load_features([path], LAYERS).layers["pool5"] for path in (tmp_path / "half.parquet", whole))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, full.astype(np.float16))
    assert FeatureFile(tmp_path / "half.parquet").about()["dtype"] == "float16"


def test_a_fingerprint_is_of_the_weights_and_not_of_how_they_lie_in_memory() -> None:
    torch.manual_seed(0)
    model = build_model(CONFIG.model, num_classes=2)
    before = weights_fingerprint(model.state_dict())
    assert weights_fingerprint(channels_last(copy.deepcopy(model)).state_dict()) == before
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert weights_fingerprint(model.state_dict()) != before


def test_impossible_layers_are_named(state: dict, squares: ShardIndex, tmp_path: Path) -> None:
    for layers, message in (((), "none is not possible"), (("a", "a"), "a,a is not possible; name one or more, each")):
        with pytest.raises(ValueError, match=f"layers: {message}"):
            extraction(state, squares, tmp_path / "f.parquet", layers=layers)
