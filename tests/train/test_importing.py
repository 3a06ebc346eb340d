"""Weights of others as checkpoints: the logits of their own pixels, and the errors of files that are not theirs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader
from res3d_video.pipeline.plan import EvalPlan
from res3d_video.tools.numbered import write_video
from res3d_video.train.checkpoint import CheckpointError, load_checkpoint, load_weights, save_checkpoint
from res3d_video.train.config import from_dict
from res3d_video.train.importing import ImportFailed, import_weights, read_classes
from res3d_video.train.models import build_model
from tests.oracle import oracle_clips
from tests.train.conftest import Trainer
from tests.train.test_models_convert import CLASSES, WIDTH, CaffeForward, TorchvisionForward

SMALL = ClipSpec(num_frames=4, frame_stride=2, crop_size=32, resize=32)


def written(folder: Path, theirs: Callable[[Tensor], Tensor]) -> Path:
    """The file of a network whose weights come to be when it is run."""
    with torch.no_grad():
        theirs(torch.zeros(1, 3, 8, 32, 32))
    if isinstance(theirs, TorchvisionForward):
        torch.save(theirs.state, folder / "theirs.pth")
        return folder / "theirs.pth"
    assert isinstance(theirs, CaffeForward)
    np.savez(folder / "theirs.npz", **theirs.blobs)  # type: ignore[arg-type]
    return folder / "theirs.npz"


def our_logits(state: dict[str, Any], index: ShardIndex, plan: EvalPlan) -> Tensor:
    """Of the first batch, as evaluation and extraction make them of a checkpoint."""
    config = from_dict(state["config"])
    model = build_model(config.model, num_classes=len(state["classes"])).eval()
    model.load_state_dict(state["model"])
    with ClipLoader(index, plan, mean=config.mean, std=config.std) as loader, torch.no_grad():
        return model(next(iter(loader)).clips)


@pytest.fixture(scope="module", params=["filmstrip", "h264"])
def coloured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Two videos whose red, green and blue differ, in each codec."""
    root = tmp_path_factory.mktemp("coloured")
    for number, name in enumerate(("a", "b")):
        (root / "raw" / name).mkdir(parents=True)
        frames = np.zeros((12, 48, 64, 3), np.uint8)
        frames[..., 0] = 250 - 2 * np.arange(64)  # red fades to the right
        frames[..., 1] = 60 + 40 * number
        frames[..., 2] = np.arange(48)[:, None] + 5 * np.arange(12)[:, None, None]  # blue grows downwards and in time
        write_video(root / "raw" / name / f"g{number}_{name}.mp4", frames, vcodec="libx264", pix_fmt="yuv420p")
    listing = list_folder(root / "raw", name="coloured", group_pattern=r"^(g\d)", test_groups=("g1",))
    build_shards(listing, root / "shards", BuildSettings(size=32, codec=request.param), workers=1)
    return open_index(root / "shards")


def first_plan(index: ShardIndex) -> EvalPlan:
    return EvalPlan(index, np.arange(2), SMALL, global_batch_size=4, num_views=2)


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_clips_of_the_loader_give_torchvisions_logits_of_its_own_normalised_pixels(
    coloured: ShardIndex, name: str, tmp_path: Path
) -> None:
    theirs, plan = TorchvisionForward(name), first_plan(coloured)
    state = import_weights(written(tmp_path, theirs), source="torchvision", model=name)
    pixels = torch.from_numpy(oracle_clips(coloured, plan.batch(0), SMALL, mean=0.0)) / 255  # [4, 3, 4, 32, 32]
    mean, std = torch.tensor([0.43216, 0.394666, 0.37645]), torch.tensor([0.22803, 0.22145, 0.216989])
    with torch.no_grad():
        expected = theirs((pixels - mean.view(3, 1, 1, 1)) / std.view(3, 1, 1, 1))
    assert expected.std(dim=0).max() > 1e-2  # clips differ
    found = our_logits(state, coloured, plan)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_clips_of_the_loader_give_the_authors_logits_of_blue_green_red_minus_128(
    coloured: ShardIndex, tmp_path: Path
) -> None:
    theirs, plan = CaffeForward(), first_plan(coloured)
    state = import_weights(written(tmp_path, theirs), source="caffe", model="res3d18")
    pixels = torch.from_numpy(oracle_clips(coloured, plan.batch(0), SMALL, mean=0.0))
    with torch.no_grad():
        expected = theirs(pixels.flip(1) - 128)
        assert not torch.allclose(theirs(pixels - 128), expected, rtol=0.01)  # or the order of colours did not matter
    found = our_logits(state, coloured, plan)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def c3d_blobs(*, width: int = WIDTH) -> dict[str, np.ndarray]:
    """Blobs of the authors' C3D of another width, with their names."""
    random, blobs, before = np.random.default_rng(0), {}, 3
    factors = {"1a": 1, "2a": 2, "3a": 4, "3b": 4, "4a": 8, "4b": 8, "5a": 8, "5b": 8}
    for name, factor in factors.items():
        blobs[f"conv{name}.0"] = random.normal(size=(factor * width, before, 3, 3, 3))
        blobs[f"conv{name}.1"] = random.normal(size=(1, 1, 1, factor * width))
        before = factor * width
    for name, shape in {"fc6-1": (64, 8 * 16), "fc7-1": (64, 64), "fc8-1": (None, 64)}.items():
        outputs = CLASSES if shape[0] is None else shape[0] * width
        blobs[f"{name}.0"] = random.normal(size=(1, 1, outputs, shape[1] * width))
        blobs[f"{name}.1"] = random.normal(size=(1, 1, 1, outputs))
    return blobs


def test_a_checkpoint_says_what_its_weights_were_trained_on(tmp_path: Path) -> None:
    torchvision = import_weights(written(tmp_path, TorchvisionForward("r3d_18")), source="torchvision", model="r3d_18")
    config = from_dict(torchvision["config"])
    assert (config.model.name, config.model.width, config.clip) == ("r3d_18", WIDTH, ClipSpec(16, 2, 112))
    assert config.mean == pytest.approx((110.2008, 100.63983, 95.99475))  # 255 times torchvision's
    assert config.std == pytest.approx((58.14765, 56.46975, 55.332195))
    res3d = import_weights(written(tmp_path, CaffeForward()), source="caffe", model="res3d18")
    config = from_dict(res3d["config"])
    assert (config.model.width, config.clip, config.mean, config.std) == (WIDTH, ClipSpec(8, 2, 112), 128.0, 1.0)
    np.savez(tmp_path / "c3d.npz", **c3d_blobs())  # type: ignore[arg-type]
    c3d = import_weights(tmp_path / "c3d.npz", source="caffe", model="c3d", mean=(101.0, 98.0, 90.0))
    config = from_dict(c3d["config"])
    assert (config.model.width, config.clip) == (WIDTH, ClipSpec(16, 1, 112))
    assert (config.mean, config.std) == ((101.0, 98.0, 90.0), 1.0)
    assert [state["classes"] for state in (torchvision, res3d, c3d)] == [["class_000", "class_001", "class_002"]] * 3


def test_a_run_starts_from_imported_weights_with_their_pixels_and_cannot_go_on_with_them(
    run_main: Trainer, tmp_path: Path
) -> None:
    state = import_weights(written(tmp_path, TorchvisionForward("r3d_18")), source="torchvision", model="r3d_18")
    start = tmp_path / "start.pt"
    save_checkpoint(start, state)
    options = ["--model", "r3d_18", "--width", str(WIDTH), "--steps", "1", "--eval-clips", "1"]
    trained = run_main(tmp_path / "run", *options, "--init-from", str(start), "--lr", "1e-9")
    assert trained.exit_code == 0, trained.output
    assert f"weights from {start}, new fc" in trained.stdout
    latest = load_checkpoint(tmp_path / "run" / "latest.pt")
    assert latest["config"]["mean"] == state["config"]["mean"]
    assert latest["config"]["std"] == state["config"]["std"]
    torch.testing.assert_close(latest["model"]["stem.conv.weight"], state["model"]["stem.conv.weight"])
    on = run_main(tmp_path / "run", *options[:-4], "--steps", "2", "--eval-clips", "1", "--resume", "auto")
    assert on.exit_code == 0, on.output  # and the mean need not be said again
    refused = run_main(tmp_path / "other", *options, "--resume", str(start))
    assert refused.exit_code == 1
    assert (
        "resume: the checkpoint holds imported weights (torchvision's r3d_18), no run to go on with" in refused.stderr
    )
    assert "start from it with --init-from" in refused.stderr


def test_the_fc_is_kept_for_the_same_classes_alone(tmp_path: Path) -> None:
    path = written(tmp_path, TorchvisionForward("r3d_18"))
    state = import_weights(path, source="torchvision", model="r3d_18", classes=["a", "b", "c"])
    save_checkpoint(tmp_path / "start.pt", state)
    model = build_model(from_dict(state["config"]).model, num_classes=CLASSES)
    assert not load_weights(
        model, tmp_path / "start.pt", load_checkpoint(tmp_path / "start.pt"), classes=["a", "b", "d"]
    )
    assert not torch.equal(model.state_dict()["head.weight"], state["model"]["head.weight"])
    assert load_weights(model, tmp_path / "start.pt", load_checkpoint(tmp_path / "start.pt"), classes=["a", "b", "c"])
    assert torch.equal(model.state_dict()["head.weight"], state["model"]["head.weight"])


def test_names_of_classes_must_be_as_many_as_outputs_and_differ(tmp_path: Path) -> None:
    path = written(tmp_path, TorchvisionForward("r3d_18"))
    (tmp_path / "classes.txt").write_text("walk\n\n jump ü\nrun\n", encoding="utf-8")
    assert read_classes(tmp_path / "classes.txt") == ["walk", "jump ü", "run"]
    with pytest.raises(ImportFailed, match="^classes: 2 names for the 3 outputs of .*theirs.pth; give one for each"):
        import_weights(path, source="torchvision", model="r3d_18", classes=["a", "b"])
    with pytest.raises(ImportFailed, match="^classes: a is there twice; give each class a name of its own"):
        import_weights(path, source="torchvision", model="r3d_18", classes=["a", "b", "a"])


def test_files_that_are_not_the_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"

    def refused(message: str, *, source: str = "torchvision", model: str = "r3d_18") -> None:
        with pytest.raises(ValueError, match=message) as caught:
            import_weights(path, source=source, model=model)
        assert "\n" not in str(caught.value)

    refused("x.pth: does not exist; give a file of weights")
    path.write_bytes(b"PK\x03\x04 cut off")
    refused("x.pth: cannot be read .*; save model.state_dict")
    refused("x.pth: is no .npz of blobs", source="caffe", model="res3d18")
    torch.save({"fc.weight": Path("x")}, path)  # would run code
    refused("x.pth: cannot be read")
    torch.save({"model": {"fc.weight": torch.zeros(3, 32)}, "epoch": 4}, path)
    refused(r"x.pth: cannot be read \(not a dict of weights by name\); save model.state_dict")
    torch.save({"blocks.0.weight": torch.zeros(3, 3)}, path)
    refused("x.pth: has no weights of the fc under torchvision's name")
    torch.save({"fc.weight": torch.zeros(3, 33)}, path)
    refused("x.pth: the fc has 33 inputs, which no r3d_18 has")
    torch.save({"fc.weight": torch.zeros(3, 32)}, path)
    refused("stem.0.weight is missing")
    refused("model: torchvision has no c3d; choose one of r3d_18, mc3_18, r2plus1d_18", model="c3d")
    path = written(tmp_path, CaffeForward())
    refused("res2a_branch2c|has no place|is missing", source="caffe", model="res3d34")


def test_an_imported_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    state = import_weights(written(tmp_path, TorchvisionForward("r3d_18")), source="torchvision", model="r3d_18")
    save_checkpoint(tmp_path / "start.pt", state)
    other = build_model(from_dict({"model": {"name": "res3d18", "width": WIDTH}}).model, num_classes=CLASSES)
    with pytest.raises(CheckpointError, match=r"holds r3d_18 of width 4, whose stages\.0\.0\.shortcut\.conv\.weight"):
        load_weights(other, tmp_path / "start.pt", load_checkpoint(tmp_path / "start.pt"), classes=[])
