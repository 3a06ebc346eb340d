"""tools/thumos14.py as a user types it: from a checkpoint to windows' features, detections and mAP."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.thumos14 import main
from res3d_video.train.evaluation.features import load_features, save_features
from res3d_video.train.paper.thumos14 import list_windows, read_lengths
from tests.features import made_features
from tests.schemas import check_schema
from tests.tools.commands import run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two videos at 10 frames/s with a dive of 3.2 s each, and features of their windows that show where it is."""
    for subset, starts in (("val", (3.2, 16.0)), ("test", (9.6, 22.4))):
        dives = {f"video_{subset}_{i}": start for i, start in enumerate(starts)}
        (tmp_path / subset).mkdir()
        lines = [f"{video}  {start} {start + 3.2:.1f}\n" for video, start in dives.items()]
        (tmp_path / subset / f"Diving_{subset}.txt").write_text("".join(lines))
        (tmp_path / f"{subset}.txt").write_text("".join(f"{video} 320 10\n" for video in dives))
        listed = list_windows(read_lengths(tmp_path / f"{subset}.txt"))
        features = np.random.default_rng(0).uniform(0, 0.05, (len(listed), 6))
        features[:, 0] += 1
        for video, (start, end), values in zip(listed.videos.tolist(), listed.times, features, strict=True):
            both = max(0, min(end, dives[video] + 3.2) - max(start, dives[video]))
            values[1:3] += both / (end - start), both / 3.2
        order = np.random.default_rng(1).permutation(len(listed))
        keys = np.array(listed.keys)[order].tolist()
        save_features(tmp_path / f"{subset}.parquet", made_features(keys, {"pool5": features[order]}))
    return tmp_path


def detect(folder: Path, *, code: int = 0, **changes: object) -> Result:
    options = {
        "videos": folder / "test.txt", "features": folder / "test.parquet", "train-videos": folder / "val.txt",
        "train-features": folder / "val.parquet", "annotations": folder / "val", "out": folder / "d.txt",
    }  # fmt: skip
    words = (word for name, value in (options | changes).items() for word in (f"--{name}", value))
    return run(main, "detect", *words, code=code)


def evaluate(files: Path, *options: object) -> Result:
    return run(main, "evaluate", "--detections", files / "d.txt", "--annotations", files / "test", *options)


def test_features_become_detections_become_a_score(files: Path) -> None:
    assert "detections of 1 classes in 280 windows" in detect(files, c=100).stdout
    best = (files / "d.txt").read_text().splitlines()[:2]
    assert sorted(line.split()[:4] for line in best) == [
        ["video_test_0", "9.600", "12.800", "26"],
        ["video_test_1", "22.400", "25.600", "26"],
    ]
    evaluate(files, "--json", files / "r.json")
    found = json.loads((files / "r.json").read_text())
    check_schema("thumos14 evaluate", found)
    assert found["mean_average_precision"] == [1.0] * 7
    assert found["num_truths"] == {"Diving": 2}
    # S-CNN's protocol keeps all windows and drops them anew for each IoU.
    assert "280 detections" in detect(files, **{"c": 100, "nms-iou": 1}).stdout
    evaluate(files, "--scnn-nms", "--json", files / "r.json")
    found = json.loads((files / "r.json").read_text())
    assert (found["num_detections"], found["mean_average_precision"][4]) == (280, 1.0)


def test_windows_without_features_are_counted_and_named(files: Path) -> None:
    whole = load_features(files / "test.parquet", ["pool5"])
    first = "video_test_0/000000-000016"
    kept = whole.keys != first
    save_features(files / "test.parquet", made_features(whole.keys[kept], {"pool5": whole.layers["pool5"][kept]}))
    assert f"note: nothing for 1 of 280 windows, such as {first}" in detect(files).stdout


def test_the_table_is_aligned_and_what_is_missing_is_said(files: Path) -> None:
    (files / "d.txt").write_text("video_test_0 9.6 12.8 26 0.9\nvideo_test_0 0 1 1 0.9\n")
    header, diving, mean, *notes = evaluate(files).stdout.splitlines()
    assert header.split() == ["IoU", "segments", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"]
    assert diving.split() == ["Diving", "2", *["50.0"] * 7]
    assert mean.split() == ["mAP", "2", *["50.0"] * 7]
    assert notes == [
        "note: mAP is of 1 of the 20 classes: the others have no list",
        "note: no Ambiguous_test.txt: detections of ambiguous segments count as wrong",
        "note: 1 detections are of other classes and skipped",
    ]


def test_features_of_other_videos_are_refused(files: Path) -> None:
    message = "nothing for any of 280 windows, the first is video_val_0/000000-000016; give their"
    assert message in detect(files, videos=files / "val.txt", code=1).stderr


def test_from_a_checkpoint_to_features_that_are_made_once(squares: ShardIndex, trained: Path, tmp_path: Path) -> None:
    out, videos = tmp_path / "f.parquet", tmp_path / "videos.txt"
    names = sorted(Path(squares.source(row)).stem for row in range(squares.num_samples))
    videos.write_text("".join(f"{name} 20 10\n" for name in names))
    words = ["features", "--checkpoint", trained / "latest.pt", "--data", squares.data_dir, "--videos", videos]
    words += ["--device", "cpu", "--num-threads", 1, "--batch-size", 5, "--out", out]
    assert run(main, *words).stdout == f"pool5 of 24 windows: {out}\n"
    assert load_features(out, ["pool5"]).keys.tolist() == list_windows(read_lengths(videos)).keys
    before = (out / "000000.parquet").stat().st_mtime_ns
    assert run(main, *words).stdout == f"pool5 of 24 windows: {out}, there already, made in the same way\n"
    assert (out / "000000.parquet").stat().st_mtime_ns == before
