"""tools/import_weights.py: from a file of others to a checkpoint that evaluation and extraction take."""

from pathlib import Path

import pytest
import torch

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.evaluate import main as evaluate_main
from res3d_video.tools.extract_features import main as extract_main
from res3d_video.tools.import_weights import main
from res3d_video.train.evaluation.features import load_features
from tests.foreign_weights import CaffeForward, TorchvisionForward, written
from tests.tools.commands import run


def test_an_imported_checkpoint_gives_features(numbered: ShardIndex, tmp_path: Path) -> None:
    blobs, checkpoint, out = written(tmp_path, CaffeForward()), tmp_path / "w" / "res3d.pt", tmp_path / "f.parquet"
    (tmp_path / "classes.txt").write_text("even\n\n odd ü\nnone\n", encoding="utf-8")
    words = ["--from", "caffe", blobs, "--model", "res3d18", "--classes", tmp_path / "classes.txt", "--out", checkpoint]
    assert run(main, *words).stdout.splitlines() == [
        f"weights     res3d18 of width 4, {blobs}",
        "classes     3: even, odd ü, none",
        "clips       8 frames at stride 2, 112 pixels",
        "pixels      (R G B - 128.00 128.00 128.00) / 1.00 1.00 1.00",
        f"checkpoint  {checkpoint}",
    ]
    common = ["--checkpoint", checkpoint, "--data", numbered.data_dir, "--device", "cpu"]
    run(extract_main, *common, "--layers", "res5b,pool5,prob", "--clips", "1", "--out", out)
    found = load_features(out, ["res5b", "pool5", "prob"]).layers
    sizes = {"res5b": (11, 32 * 49), "pool5": (11, 32), "prob": (11, 3)}
    assert {name: values.shape for name, values in found.items()} == sizes
    refused = run(evaluate_main, *common, code=1)
    assert "trained on 3 classes (even, odd ü, none, …), numbered has 2" in refused.stderr


def test_with_the_names_of_the_datasets_classes_it_can_be_scored(numbered: ShardIndex, tmp_path: Path) -> None:
    theirs = TorchvisionForward("r3d_18")
    weights = written(tmp_path, theirs)
    torch.save({n: v[:2] if n.startswith("fc.") else v for n, v in theirs.state.items()}, weights)  # two of its classes
    (tmp_path / "classes.txt").write_text("\n".join(numbered.classes))
    words = ["--from", "torchvision", weights, "--model", "r3d_18", "--classes", tmp_path / "classes.txt"]
    run(main, *words, "--out", tmp_path / "r3d.pt")
    command = ["--checkpoint", tmp_path / "r3d.pt", "--data", numbered.data_dir, "--device", "cpu"]
    scored = run(evaluate_main, *command, "--clips", "1")
    assert "(step 0) on numbered, split 1, test" in scored.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--out", "{}/theirs.pth"], 2, "theirs.pth already exists; choose another name or remove it"),
        (["--model", "mc3_18"], 1, "error: convert: layer2.0.conv1.0.weight is [8, 4, 3, 3, 3], the model has"),
        (["--classes", "{}/nowhere.txt"], 2, "nowhere.txt' does not exist"),
    ],
)
def test_errors_are_one_line_that_names_the_value(tmp_path: Path, options: list[str], code: int, message: str) -> None:
    weights = written(tmp_path, TorchvisionForward("r3d_18"))
    words = ["--from", "torchvision", weights, "--model", "r3d_18", "--out", tmp_path / "r3d.pt"]
    assert message in run(main, *words, *(option.format(tmp_path) for option in options), code=code).stderr
    assert not (tmp_path / "r3d.pt").exists()
