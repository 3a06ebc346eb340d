"""Exported networks give the probabilities of the checkpoint, whatever the batch."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.tools.export import main
from res3d_video.train.checkpoint import TrainedModel, save_checkpoint
from res3d_video.train.export import METADATA, FrameClassifier, export_model, noise, read_onnx, read_torch, resized_of
from res3d_video.train.models import ModelConfig, build_model
from tests.checkpoints import tiny_state
from tests.schemas import check_schema
from tests.tools.commands import run


def model_of(name: str, *, num_frames: int, **settings: object) -> TrainedModel:
    torch.manual_seed(0)
    network = build_model(ModelConfig(name, width=4), num_classes=3).eval()
    clip = ClipSpec(num_frames=num_frames, crop_size=56, resize=64)
    return TrainedModel(network, ["a", "b", "c"], clip, (120.0, 110.0, 100.0), 58.0, {"size": 128} | settings, step=7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "num_frames"),
    [
        ("torch", "res2d18", 1),
        ("onnx", "res3d10", 4),
        pytest.param("torch", "res3d10", 4, marks=pytest.mark.long),
        pytest.param("onnx", "res2d18", 1, marks=pytest.mark.long),
    ],
)
def test_a_file_gives_the_networks_probabilities(kind: str, name: str, num_frames: int, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    model, path = model_of(name, num_frames=num_frames), tmp_path / f"m.{kind}"
    about = export_model(model, path, kind=kind, height=72, width=100)
    classifier = FrameClassifier(model, resized=(64, 85)).eval()
    exported = (read_torch if kind == "torch" else read_onnx)(path)
    for batch in (1, 3, 8):
        frames = noise(batch, about)
        assert np.allclose(exported(frames), classifier(torch.from_numpy(frames)).detach().numpy(), atol=1e-4)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_frames_are_prepared_as_for_training() -> None:
    assert resized_of(model_of("res3d10", num_frames=4), height=240, width=320) == (64, 85)  # stretched, as the paper
    assert resized_of(model_of("res3d10", num_frames=4, keep_aspect=True), height=320, width=240) == (85, 64)
    model = model_of("res3d10", num_frames=4, size=112)  # of which 61/112 is not exact
    assert resized_of(replace(model, clip=ClipSpec(crop_size=56, resize=61)), height=240, width=320) == (61, 81)
    model = model_of("res3d10", num_frames=4)
    seen = []
    model.network.register_forward_pre_hook(lambda network, given: seen.append(given[0]))
    frames = torch.full((2, 4, 72, 100, 3), 168, dtype=torch.uint8)
    FrameClassifier(model, resized=(64, 85))(frames)
    assert seen[0].shape == (2, 3, 4, 56, 56)
    expected = (168 - torch.tensor([120.0, 110.0, 100.0])) / 58
    assert torch.allclose(seen[0], expected[:, None, None, None].expand(2, 3, 4, 56, 56))


def test_the_command_writes_a_file_that_says_what_it_takes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "latest.pt", tiny_state())
    words = ["--checkpoint", tmp_path / "latest.pt", "--format", "torch", "--out", tmp_path / "new/m.pt2", "--json"]
    check_schema("export", json.loads(run(main, *words).stdout))
    extra = {METADATA: ""}
    torch.export.load(tmp_path / "new/m.pt2", extra_files=extra)
    about = json.loads(extra[METADATA])
    assert (about["classes"], about["num_frames"], about["height"], about["width"]) == (["a", "b", "c"], 16, 240, 320)


def test_a_name_of_the_other_format_is_refused_before_the_work(tmp_path: Path) -> None:
    for kind, name, suffix in (("torch", "m.onnx", ".pt2"), ("onnx", "m.pt2", ".onnx")):
        done = run(main, "--checkpoint", "nowhere.pt", "--format", kind, "--out", tmp_path / name, code=2)
        assert done.stderr == f"error: --out: {tmp_path / name} must end in {suffix} for --format {kind}\n"
