"""Videos with several labels: binary cross-entropy, average precision; and best.pt chosen on a validation side."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_table
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.tools import evaluate, report
from res3d_video.tools.numbered import write_video
from res3d_video.train.checkpoint import load_checkpoint, load_model
from res3d_video.train.evaluation.prediction import predict
from res3d_video.train.evaluation.video_level import VideoScores, average_precision
from res3d_video.train.main import main
from res3d_video.train.step import losses_of
from tests.tools.commands import run
from tests.train.conftest import SMALL, moving_square, read_metrics


@given(data=st.data(), num=st.integers(1, 40), levels=st.sampled_from([2, 5, 1000]))
def test_average_precision_is_scikit_learns(data: st.DataObject, num: int, levels: int) -> None:
    scores = np.array(data.draw(st.lists(st.integers(0, levels), min_size=num, max_size=num))) / levels  # with ties
    right = np.array(data.draw(st.lists(st.booleans(), min_size=num, max_size=num)))
    right[data.draw(st.integers(0, num - 1))] = True
    assert average_precision(scores, right) == pytest.approx(average_precision_score(right, scores), abs=1e-9)


def test_mean_average_precision_is_of_the_classes_that_occur() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((30, 4)).astype(np.float32)
    labels = np.stack([np.arange(30) % 2, np.where(np.arange(30) % 3 == 0, 2, -1)], axis=1)  # of class 3 there is none
    right = (labels[:, :, None] == np.arange(4)).any(axis=1)
    names, votes = [str(n) for n in range(30)], np.ones((30, 4), np.int64)
    scores = VideoScores(list("abcd"), names, names, labels, probabilities, votes, labels, labels[:, 0], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = average_precision_score(right[:, :3], probabilities[:, :3], average="macro")
    assert scores.mean_ap == pytest.approx(expected, abs=1e-9)
    assert scores.class_ap is not None
    assert scores.class_ap["d"] is None


def test_float_labels_are_binary_cross_entropy() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([[0.0, 1, 1]] * 5)
    expected = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)
    assert torch.equal(losses_of(logits, labels, label_smoothing=0.0), expected)
    smooth = F.binary_cross_entropy_with_logits(logits, labels * 0.9 + 0.05, reduction="none").mean(dim=1)
    assert torch.allclose(losses_of(logits, labels, label_smoothing=0.1), smooth)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Squares that move left or right, some of them fast as well; with a validation side."""
    root = tmp_path_factory.mktemp("labeled")
    lines = ["path,labels,subset"]
    for step in (-6, -3, 3, 6):
        for group, side in enumerate(["train"] * 4 + ["val", "test"]):
            name = f"{step}_{group}.mp4"
            write_video(root / name, moving_square(step=step, top=5 * group), vcodec="libx264", pix_fmt="yuv420p")
            labels = ("left" if step < 0 else "right") + (";fast" if abs(step) > 3 else "")
            lines.append(f"{name},{labels},{side}")
    (root / "squares.csv").write_text("\n".join(lines))
    build_shards(list_table(root, table=root / "squares.csv"), root / "shards", BuildSettings(size=32), workers=1)
    return open_index(root / "shards")


def test_a_run_with_several_labels_reports_map_and_chooses_by_validation(labeled: ShardIndex, tmp_path: Path) -> None:
    options = ["--data", labeled.data_dir, "--out", tmp_path, *SMALL, "--loss", "bce", "--steps", 6, "--eval-every", 2]
    result = CliRunner().invoke(main, [str(option) for option in options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "best.pt is chosen on the validation side" in result.output
    assert "mAP" in result.output
    evals, (final,) = read_metrics(tmp_path, "eval"), read_metrics(tmp_path, "final")
    scored = [(event["step"], event["subset"], event["num_videos"]) for event in (*evals, final)]
    assert scored == [(2, "val", 4), (4, "val", 4), (6, "val", 4), (6, "test", 4)]
    assert load_checkpoint(tmp_path / "best.pt")["best_accuracy"] == max(event["mean_ap"] for event in evals)
    model, video = load_model(tmp_path / "latest.pt"), labeled.data_dir.parent / "-6_5.mp4"
    (found,) = predict(model, [video], num_clips=1, workers=1)
    assert ((found.probabilities > 0) & (found.probabilities < 1)).all()
    assert found.probabilities.sum() != pytest.approx(1.0, abs=1e-4)
    told = run(evaluate.main, "--checkpoint", tmp_path / "latest.pt", "--data", labeled.data_dir, "--quiet").stdout
    table = [line.split()[:2] for line in told.splitlines()[-4:]]
    assert table == [["class", "videos"], ["fast", "2"], ["left", "2"], ["right", "2"]]
    run(report.main, "run", tmp_path, "--data", labeled.data_dir, "--out", tmp_path / "page.html", "--quiet")
    page = (tmp_path / "page.html").read_text()
    assert "Average precision of each class" in page
    assert "Confusion matrix" not in page
