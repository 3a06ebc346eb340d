"""tools/thumos14.py: windows, detections and mAP, as a user types them."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from res3d_video.tools.thumos14 import main
from tests.parquet import write_parquet
from tests.schemas import check_schema


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two videos at 10 frames/s with a dive of 3.2 s each, windows, and features that show where it is."""
    for subset, starts in (("val", (3.2, 16.0)), ("test", (9.6, 22.4))):
        videos = [f"video_{subset}_{i}" for i in range(2)]
        folder = tmp_path / subset
        folder.mkdir()
        dives = dict(zip(videos, starts, strict=True))
        lines = [f"{video}  {start} {start + 3.2:.1f}\n" for video, start in dives.items()]
        (folder / f"Diving_{subset}.txt").write_text("".join(lines))
        (tmp_path / f"{subset}.txt").write_text("".join(f"{video} 320 10\n" for video in videos))
        words = ("--length", 16, "--length", 32, "--length", 64, "--out", tmp_path / f"{subset}.jsonl")
        result = run("windows", "--videos", tmp_path / f"{subset}.txt", *words)
        assert result.exit_code == 0, result.output
        rows = [json.loads(line) for line in (tmp_path / f"{subset}.jsonl").read_text().splitlines()]
        features, keys = np.random.default_rng(0).uniform(0, 0.05, (len(rows), 6)), []
        features[:, 0] += 1
        for row, values in zip(rows, features, strict=True):
            start, end = dives[row["video"]], dives[row["video"]] + 3.2
            both = max(0, min(row["end_s"], end) - max(row["start_s"], start))
            values[1:3] += both / (row["end_s"] - row["start_s"]), both / 3.2
            keys.append(row["key"])
        order = np.random.default_rng(1).permutation(len(keys))
        write_parquet(tmp_path / f"{subset}.parquet", key=np.array(keys)[order], pool5=features[order])
        scores = {"Diving": features[:, 1] * features[:, 2], "Background": np.full(len(keys), 0.3)}
        write_parquet(tmp_path / f"{subset}_scores.parquet", key=keys, **scores)
    return tmp_path


def test_windows_are_listed_with_their_frames(files: Path) -> None:
    (files / "l.txt").write_text("long 64 25\nshort 15 25\n")
    result = run("windows", "--videos", files / "l.txt", "--out", files / "w.jsonl")
    assert result.exit_code == 0, result.output
    # 16 frames: (64 - 16) / 4 + 1 = 13; 32: (64 - 32) / 8 + 1 = 5; 64: 1
    assert "19 windows of 2 videos" in result.stdout
    assert "1 videos are shorter than every window, such as short" in result.stdout
    lines = [json.loads(line) for line in (files / "w.jsonl").read_text().splitlines()]
    check_schema("thumos14 windows", lines)
    assert lines[-1]["frames"] == list(range(0, 64, 4))
    assert (lines[-1]["start_s"], lines[-1]["end_s"]) == (0, 2.56)


def detect_with_features(files: Path, *options: object) -> Result:
    return run(
        "detect", "--windows", files / "test.jsonl", "--features", files / "test.parquet", "--train-windows",
        files / "val.jsonl", "--train-features", files / "val.parquet", "--annotations", files / "val", "--c", 100,
        "--out", files / "d.txt", *options,
    )  # fmt: skip


def evaluate(files: Path, *options: object) -> Result:
    return run("evaluate", "--detections", files / "d.txt", "--annotations", files / "test", *options)


def test_features_become_detections_become_a_score(files: Path) -> None:
    result = detect_with_features(files)
    assert result.exit_code == 0, result.output
    assert "detections of 1 classes in 262 windows" in result.stdout
    best = (files / "d.txt").read_text().splitlines()[:2]
    assert sorted(line.split()[:4] for line in best) == [
        ["video_test_0", "9.600", "12.800", "26"],
        ["video_test_1", "22.400", "25.600", "26"],
    ]
    result = evaluate(files, "--json", files / "r.json")
    assert result.exit_code == 0, result.output
    found = json.loads((files / "r.json").read_text())
    check_schema("thumos14 evaluate", found)
    assert found["mean_average_precision"] == [1.0] * 7
    assert found["num_truths"] == {"Diving": 2}


def test_scores_become_detections_of_the_windows_that_are_not_background(files: Path) -> None:
    words = ("--windows", files / "test.jsonl", "--scores", files / "test_scores.parquet", "--out", files / "d.txt")
    result = run("detect", *words, "--nms-iou", 1)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in (files / "d.txt").read_text().splitlines()]
    assert all(float(row[4]) > 0.3 for row in rows)
    assert len(rows) > 2
    scores = evaluate(files, "--scnn-nms", "--iou", 0.5, "--json", files / "r.json")
    assert scores.exit_code == 0, scores.output
    assert json.loads((files / "r.json").read_text())["mean_average_precision"] == [1.0]
    # Dives of 3 s count for windows of 1.6 and 3.2 s, a half each; those of 6.4 s want 3.2 s at least.
    (files / "val" / "Diving_val.txt").write_text("video_val_0 1 4\n")
    weighed = run("detect", *words, "--nms-iou", 1, "--annotations", files / "val")
    assert weighed.exit_code == 0
    again = {tuple(row[:3]): float(row[4]) for row in map(str.split, (files / "d.txt").read_text().splitlines())}
    for video, start, end, _, score in rows:
        weight = 0 if float(end) - float(start) > 6 else 0.5
        assert again[video, start, end] == pytest.approx(weight * float(score))
    assert 0 in again.values()


def test_the_table_is_aligned_and_what_is_missing_is_said(files: Path) -> None:
    (files / "d.txt").write_text("video_test_0 9.6 12.8 26 0.9\nvideo_test_0 0 1 1 0.9\n")
    result = evaluate(files)
    assert result.exit_code == 0, result.output
    header, diving, mean, *notes = result.stdout.splitlines()
    assert header.split() == ["IoU", "segments", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"]
    assert diving.split() == ["Diving", "2", *["50.0"] * 7]
    assert mean.split() == ["mAP", "2", *["50.0"] * 7]
    assert len({len(line) for line in (header, diving, mean)}) == 1
    assert notes == [
        "note: mAP is of 1 of the 20 classes: the others have no list",
        "note: no Ambiguous_test.txt: detections of ambiguous segments count as wrong",
        "note: 1 detections are of other classes and skipped",
    ]


def test_the_real_annotations_are_evaluated(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "thumos14" / "temporal_annotations_test"
    lines = [f"{line.rstrip()} 9 0.5\n" for line in (folder / "BasketballDunk_test.txt").read_text().splitlines()]
    (tmp_path / "d.txt").write_text("".join(lines))
    result = run("evaluate", "--detections", tmp_path / "d.txt", "--annotations", folder)
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert rows["BasketballDunk"] == ["488", *["100.0"] * 7]
    assert rows["Diving"] == ["388", *["0.0"] * 7]
    assert rows["mAP"] == ["1093", *["33.3"] * 7]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["windows", "--videos", "{}/val/Diving_val.txt", "--out", "{}/w"], 1, "line 1: "),
        (["windows", "--videos", "{}/val.txt", "--length", "20", "--out", "{}/w"], 1, "choose a multiple of 16"),
        (["windows", "--videos", "{}/none.txt", "--out", "{}/w"], 2, "none.txt"),
        (["detect", "--windows", "{}/val.jsonl", "--out", "{}/d"], 2, "give either --scores or --features"),
        (
            ["detect", "--windows", "{}/val.jsonl", "--features", "{}/val.parquet", "--out", "{}/d"],
            2,
            "--features needs --train-windows, --train-features and --annotations",
        ),
        (
            ["detect", "--windows", "{}/val.jsonl", "--scores", "{}/test_scores.parquet", "--out", "{}/d"],
            1,
            "nothing for any of 262 windows, the first is video_val_0/000000-000016; give their file",
        ),
        (
            ["detect", "--windows", "{}/val.jsonl", "--scores", "{}/val.parquet", "--out", "{}/d"],
            1,
            "val.parquet: no column is named like a class; give one for each, such as Diving",
        ),
        (["evaluate", "--detections", "{}/val.txt", "--annotations", "{}/test"], 1, "is not of the form"),
        (["evaluate", "--detections", "{}/val.txt", "--annotations", "{}/val"], 1, "no annotated class"),
    ],
)
def test_errors_are_one_line_that_names_the_value(files: Path, words: list[str], code: int, message: str) -> None:
    result = run(*(word.format(files) for word in words))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
