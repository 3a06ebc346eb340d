"""Weights of others as checkpoints: the logits of their own pixels, and the errors of files that are not theirs."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import ClipLoader
from res3d_video.pipeline.plan import EvalPlan
from res3d_video.tools.numbered import write_video
from res3d_video.train.checkpoint import CheckpointError, load_checkpoint, load_weights, save_checkpoint
from res3d_video.train.config import from_dict
from res3d_video.train.importing import from_caffe, from_torchvision, import_weights
from res3d_video.train.models import ModelConfig, build_model
from tests.foreign_weights import CLASSES, WIDTH, CaffeForward, TorchvisionForward, c3d_blobs, written
from tests.oracle import oracle_clips
from tests.train.conftest import Trainer, shards_of, write

SMALL = ClipSpec(num_frames=4, frame_stride=2, crop_size=32, resize=32)
VIDEO_NETWORKS = pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])


def ours(name: str, *, width: int = WIDTH) -> torch.nn.Module:
    return build_model(ModelConfig(name, width=width), num_classes=CLASSES).eval()


def our_logits(state: dict[str, Any], index: ShardIndex, plan: EvalPlan) -> Tensor:
    """Of the first batch, as evaluation and extraction make them of a checkpoint."""
    config = from_dict(state["config"])
    model = build_model(config.model, num_classes=len(state["classes"])).eval()
    model.load_state_dict(state["model"])
    with ClipLoader(index, plan, mean=config.mean, std=config.std) as loader, torch.no_grad():
        return model(next(iter(loader)).clips)


def assert_logits(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Two videos whose red, green and blue differ."""
    root = tmp_path_factory.mktemp("coloured")
    for number, name in enumerate(("a", "b")):
        (root / "raw" / name).mkdir(parents=True)
        frames = np.zeros((12, 48, 64, 3), np.uint8)
        frames[..., 0] = 250 - 2 * np.arange(64)  # red fades to the right
        frames[..., 1] = 60 + 40 * number
        frames[..., 2] = np.arange(48)[:, None] + 5 * np.arange(12)[:, None, None]  # blue grows downwards and in time
        write_video(root / "raw" / name / f"g{number}_{name}.mp4", frames, vcodec="libx264", pix_fmt="yuv420p")
    return shards_of(root, "coloured", test_groups=[1])


def first_plan(index: ShardIndex) -> EvalPlan:
    return EvalPlan(index, np.arange(2), SMALL, global_batch_size=4, num_views=2)


@pytest.fixture
def r3d(tmp_path: Path) -> Path:
    """A file of torchvision's r3d_18."""
    return written(tmp_path, TorchvisionForward("r3d_18"))


@VIDEO_NETWORKS
def test_clips_give_torchvisions_logits_of_its_pixels(coloured: ShardIndex, name: str, tmp_path: Path) -> None:
    theirs, plan = TorchvisionForward(name), first_plan(coloured)
    state = import_weights(written(tmp_path, theirs), source="torchvision", model=name)
    assert state["model"]["stem.bn.num_batches_tracked"] == 7
    pixels = torch.from_numpy(oracle_clips(coloured, plan.batch(0), SMALL, mean=0.0)) / 255  # [4, 3, 4, 32, 32]
    mean, std = torch.tensor([0.43216, 0.394666, 0.37645]), torch.tensor([0.22803, 0.22145, 0.216989])
    with torch.no_grad():
        expected = theirs((pixels - mean.view(3, 1, 1, 1)) / std.view(3, 1, 1, 1))
    assert expected.std(dim=0).max() > 1e-2  # clips differ
    assert_logits(our_logits(state, coloured, plan), expected)


def test_clips_give_the_authors_logits_of_blue_green_red_minus_128(coloured: ShardIndex, tmp_path: Path) -> None:
    theirs, plan = CaffeForward(), first_plan(coloured)
    state = import_weights(written(tmp_path, theirs), source="caffe", model="res3d18")
    pixels = torch.from_numpy(oracle_clips(coloured, plan.batch(0), SMALL, mean=0.0))
    with torch.no_grad():
        expected = theirs(pixels.flip(1) - 128)
        assert not torch.allclose(theirs(pixels - 128), expected, rtol=0.01)  # or the order of colours did not matter
    assert_logits(our_logits(state, coloured, plan), expected)


@VIDEO_NETWORKS
def test_weights_of_torchvision_as_installed_give_its_logits(name: str) -> None:
    try:
        from torchvision.models import video
    except (ImportError, RuntimeError) as error:  # a build for another torch raises RuntimeError
        pytest.skip(f"torchvision does not work here: {error}")
    theirs = getattr(video, name)(num_classes=CLASSES).eval()
    model, clips = ours(name, width=64), torch.randn(1, 3, 4, 32, 32)
    model.load_state_dict(from_torchvision(theirs.state_dict(), model=model))
    with torch.no_grad():
        assert_logits(model(clips), theirs(clips))


def test_blobs_of_the_authors_find_their_places_and_a_batch_norm_that_saw_nothing_is_zero() -> None:
    theirs = CaffeForward()
    theirs(torch.zeros(1, 3, 8, 16, 16))
    theirs.blobs["bn_conv1.2"][:] = 0
    assert not from_caffe(theirs.blobs, model=ours("res3d18"))["stem.bn.running_var"].any()
    model, blobs = ours("c3d"), c3d_blobs()
    model.load_state_dict(from_caffe(blobs, model=model))
    weights = model.state_dict()
    for found, blob in (
        (weights["convs.conv1a.conv.weight"][:, 0], blobs["conv1a.0"][:, 2]),  # blue comes first there
        (weights["convs.conv4b.conv.bias"], blobs["conv4b.1"][0, 0, 0]),
        (weights["fc7.fc.weight"], blobs["fc7-1.0"][0, 0]),
        (weights["head.bias"], blobs["fc8-1.1"][0, 0, 0]),
    ):
        assert torch.equal(found, torch.tensor(blob).float())


def test_a_weight_that_is_missing_left_over_or_of_another_shape_is_named() -> None:
    theirs, model = TorchvisionForward("r3d_18"), ours("r3d_18")
    theirs(torch.zeros(1, 3, 8, 16, 16))
    state, other = theirs.state, ours("res3d18")
    fewer = {name: value for name, value in state.items() if name != "layer2.0.downsample.0.weight"}
    more, wider = state | {"layer9.weight": torch.zeros(1)}, state | {"fc.bias": torch.zeros(5)}
    for read, weights, network, message in (
        (from_torchvision, fewer, model, "layer2.0.downsample.0.weight is missing"),
        (from_torchvision, more, model, "layer9.weight has no place in this ResNet3d"),
        (from_torchvision, wider, model, "fc.bias is [5], the model has [3] there; choose the model, width and"),
        (from_torchvision, state, other, "layer1.0.downsample.0.weight is missing"),  # Res3D projects there
        (from_caffe, {}, other, "conv1.0 is missing"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            read(weights, model=network)


def test_a_checkpoint_says_what_its_weights_were_trained_on(r3d: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c3d.npz", **c3d_blobs())  # type: ignore[arg-type]
    states = [
        import_weights(r3d, source="torchvision", model="r3d_18"),
        import_weights(written(tmp_path, CaffeForward()), source="caffe", model="res3d18"),
        import_weights(tmp_path / "c3d.npz", source="caffe", model="c3d", mean=(101.0, 98.0, 90.0)),
    ]
    torchvision, res3d, c3d = (from_dict(state["config"]) for state in states)
    assert (torchvision.model.name, torchvision.model.width, torchvision.clip) == ("r3d_18", WIDTH, ClipSpec(16, 2))
    assert torchvision.mean == pytest.approx((110.2008, 100.63983, 95.99475))  # 255 times torchvision's
    assert torchvision.std == pytest.approx((58.14765, 56.46975, 55.332195))
    assert (res3d.model.width, res3d.clip, res3d.mean, res3d.std) == (WIDTH, ClipSpec(8, 2), 128.0, 1.0)
    assert (c3d.model.width, c3d.clip, c3d.mean, c3d.std) == (WIDTH, ClipSpec(16, 1), (101.0, 98.0, 90.0), 1.0)
    assert [state["classes"] for state in states] == [["class_000", "class_001", "class_002"]] * 3


def test_a_run_starts_from_imported_weights_with_their_pixels(run_main: Trainer, r3d: Path, tmp_path: Path) -> None:
    state, start = import_weights(r3d, source="torchvision", model="r3d_18"), tmp_path / "start.pt"
    save_checkpoint(start, state)
    options = ["--model", "r3d_18", "--width", str(WIDTH), "--steps", "1", "--eval-clips", "1"]
    trained = run_main(tmp_path / "run", *options, "--init-from", str(start), "--lr", "1e-9")
    assert f"weights from {start}, new fc" in trained.stdout
    latest = load_checkpoint(tmp_path / "run" / "latest.pt")
    assert [latest["config"][name] for name in ("mean", "std")] == [state["config"][name] for name in ("mean", "std")]
    torch.testing.assert_close(latest["model"]["stem.conv.weight"], state["model"]["stem.conv.weight"])
    run_main(tmp_path / "run", *options, "--steps", "2", "--resume", "auto")  # and the mean need not be said again
    refused = run_main(tmp_path / "other", *options, "--resume", str(start), exit_code=1)
    assert "the checkpoint holds imported weights (torchvision's r3d_18), no run to go on with" in refused.stderr
    assert "start from it with --init-from" in refused.stderr


def test_the_fc_is_kept_for_the_same_classes_alone_and_another_network_refused(r3d: Path, tmp_path: Path) -> None:
    state = import_weights(r3d, source="torchvision", model="r3d_18", classes=["a", "b", "c"])
    path = tmp_path / "start.pt"
    save_checkpoint(path, state)
    model = build_model(from_dict(state["config"]).model, num_classes=CLASSES)
    assert not load_weights(model, path, load_checkpoint(path), classes=["a", "b", "d"])
    assert not torch.equal(model.state_dict()["head.weight"], state["model"]["head.weight"])
    assert load_weights(model, path, load_checkpoint(path), classes=["a", "b", "c"])
    assert torch.equal(model.state_dict()["head.weight"], state["model"]["head.weight"])
    with pytest.raises(CheckpointError, match=r"holds r3d_18 of width 4, whose stages\.0\.0\.shortcut\.conv\.weight"):
        load_weights(ours("res3d18"), path, load_checkpoint(path), classes=[])


FC = {"fc.weight": torch.zeros(3, 32)}


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (None, {}, "x: is no file of at most 1,073,741,824 bytes; give a file of weights"),
        (b"PK\x03\x04 cut off", {"source": "caffe", "model": "res3d18"}, "x: is no .npz of blobs"),
        ({"model": FC}, {}, r"x: cannot be read \(not a dict of weights by name\)"),
        ({"blocks.0.weight": torch.zeros(3, 3)}, {}, "x: has no weights of the fc under torchvision's name"),
        ({"fc.weight": torch.zeros(3, 33)}, {}, "x: the fc has 33 inputs, which no r3d_18 has"),
        (FC, {}, "stem.0.weight is missing"),
        (FC, {"classes": ["a", "b"]}, "^classes: 2 names for the 3 outputs of .*; give"),
        (FC, {"classes": ["a", "b", "a"]}, "^classes: 2 names for the 3 outputs of"),
        ({}, {"model": "c3d"}, "model: torchvision has no c3d; choose one of r3d_18, mc3_18, r2plus1d_18"),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(tmp_path: Path, content: Any, options: dict, says: str) -> None:
    write(tmp_path / "x", content)
    with pytest.raises(ValueError, match=says) as caught:
        import_weights(tmp_path / "x", **{"source": "torchvision", "model": "r3d_18"} | options)
    assert "\n" not in str(caught.value)
