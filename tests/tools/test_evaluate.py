"""tools/evaluate.py: the trainer's numbers again, a table for people, a file for machines."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from res3d_video.pipeline.clip import uniform_starts
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.evaluate import main
from res3d_video.train.checkpoint import load_model
from tests.schemas import check_schema
from tests.tools.commands import run
from tests.train.conftest import build_squares, read_metrics
from tests.warm import run_warm


def evaluate(folder: Path, data: Path, *options: object, code: int = 0) -> Result:
    command = ["--checkpoint", folder / "latest.pt", "--data", data, "--device", "cpu", "--num-threads", "1"]
    return run(main, *command, *options, code=code)


def test_the_numbers_are_those_at_the_end_of_training(squares: ShardIndex, trained: Path, tmp_path: Path) -> None:
    result = evaluate(trained, squares.data_dir, "--clips", "3", "--json", tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text())
    check_schema("evaluate", found)
    (final,) = read_metrics(trained, "final")
    both = set(final) & set(found)
    assert {"clip_at_1", "video_at_1", "video_at_5", "chance", "num_videos"} <= both
    assert {name: found[name] for name in both} == {name: final[name] for name in both}
    table = result.stdout.splitlines()[-4:-1]
    assert [line.split()[0] for line in table] == ["class", "left", "right"]


def test_the_file_has_a_prediction_for_each_video(squares: ShardIndex, trained: Path, tmp_path: Path) -> None:
    evaluate(trained, squares.data_dir, "--subset", "train", "--json", tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text())
    rows = squares.samples_of("1", "train")
    assert sorted(p["source"] for p in found["predictions"]) == sorted(squares.source(row) for row in rows)
    assert sum(map(sum, found["confusion"])) == len(rows)
    for prediction in found["predictions"]:
        assert sum(prediction["top5"].values()) == pytest.approx(1, abs=1e-5)
        assert prediction["predicted"] == max(prediction["top5"], key=prediction["top5"].get)


def test_shards_of_other_classes_are_refused(squares: ShardIndex, trained: Path, tmp_path: Path) -> None:
    other = build_squares(tmp_path, classes={"down": -3, "up": 3}, num_groups=2)
    message = "trained on 2 classes (left, right, …), squares has 2 (down, up, …)"
    assert message in evaluate(trained, other.data_dir, code=1).stderr


def test_nine_views_are_three_clips_in_three_crops_each(squares: ShardIndex, trained: Path, tmp_path: Path) -> None:
    evaluate(trained, squares.data_dir, "--clips", "3", "--crops", "3", "--json", tmp_path / "e.json")
    found, model = json.loads((tmp_path / "e.json").read_text()), load_model(trained / "latest.pt")
    assert {one["num_clips"] for one in found["predictions"]} == {9}
    rows = squares.samples_of("1", "test").tolist()
    assert [one["source"] for one in found["predictions"]] == sorted(squares.source(row) for row in rows)
    clip, by_source = model.clip, {squares.source(row): row for row in rows}
    for one in found["predictions"]:
        row = by_source[one["source"]]
        left, top, width, _ = squares.content[row].tolist()
        starts = uniform_starts(3, clip, video_frames=int(squares.num_frames[row])).tolist()
        lefts = [left, left + (width - clip.crop_size) // 2, left + width - clip.crop_size]
        frames = decode_frames(squares, row)[:, top : top + clip.crop_size]
        views = [
            frames[start : start + clip.span : clip.frame_stride, :, x : x + clip.crop_size]
            for start in starts
            for x in lefts
        ]
        clips = torch.from_numpy(np.stack(views).transpose(0, 4, 1, 2, 3) - np.float32(model.mean))
        with torch.no_grad():
            expected = model.network(clips).softmax(dim=1).mean(dim=0)
        assert [one["top5"][name] for name in model.classes] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(squares: ShardIndex, trained: Path, tmp_path: Path) -> None:
    options = ["--subset", "train", "--clips", "3", "--crops", "3", "--batch-size", "10"]
    evaluate(trained, squares.data_dir, *options, "--json", tmp_path / "one.json")
    words = ["--checkpoint", str(trained / "latest.pt"), "--data", str(squares.data_dir)]
    to_file = ["--device", "cpu", "--json", str(tmp_path / "two.json")]
    done = run_warm([sys.executable, "tools/evaluate.py", *words, *options, *to_file], world_size=2)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert len(two["predictions"]) == len(squares.samples_of("1", "train"))
    for a, b in zip(one["predictions"], two["predictions"], strict=True):
        assert a["key"] == b["key"]
        assert b["top5"] == pytest.approx(a["top5"], abs=1e-5)
