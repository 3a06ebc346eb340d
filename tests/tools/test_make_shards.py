"""The commands make_shards and check_shards, as a user types them."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.shard import open_index
from tests.numbered import write_numbered_video
from tests.schemas import check_schema
from tools import check_shards, make_shards


def run(command: object, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def test_ucf101_is_stored_once_with_its_splits_as_columns(ucf_raw: Path, tmp_path: Path) -> None:
    result = run(make_shards.main, "ucf101", "--raw", ucf_raw, "--out", tmp_path / "s")
    assert result.exit_code == 0, result.output
    assert "6 samples in 1 shards" in result.output
    assert "split 3: 4 train, 2 test" in result.output
    assert "0 videos failed, 1 are named in the lists but absent" in result.output
    index = open_index(tmp_path / "s")
    assert index.split_names == ["1", "2", "3"]
    assert sorted(index.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert sorted(index.num_frames.tolist()) == [21, 21, 22, 22, 23, 23]


def test_check_shards_says_whole_and_then_what_is_damaged(ucf_raw: Path, tmp_path: Path) -> None:
    run(make_shards.main, "ucf101", "--raw", ucf_raw, "--out", tmp_path / "s", "--quiet")
    whole = run(check_shards.main, tmp_path / "s", "--decode")
    assert whole.exit_code == 0, whole.output
    assert "6 samples of 2 classes in 1 shards: whole" in whole.output
    tar = next((tmp_path / "s").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-20000])
    damaged = run(check_shards.main, tmp_path / "s", "--json")
    assert damaged.exit_code == 1
    check_schema("check_shards", json.loads(damaged.stdout))
    faults = json.loads(damaged.stdout)["faults"]
    assert any("bytes, dataset.json says" in fault for fault in faults)


def test_defaults_are_data_name_and_shards_name(ucf_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ucf101").symlink_to(ucf_raw)
    monkeypatch.chdir(tmp_path)
    quiet = run(make_shards.main, "ucf101", "--quiet")
    assert quiet.stderr == ""
    assert quiet.stdout.startswith("1 shards written")
    assert open_index(tmp_path / "shards" / "ucf101").num_samples == 6


def test_one_split_and_a_limit_can_be_asked_for(ucf_raw: Path, tmp_path: Path) -> None:
    result = run(
        make_shards.main, "ucf101", "--raw", ucf_raw, "--out", tmp_path, "--split", "2", "--limit", 3, "--json"
    )
    check_schema("make_shards", json.loads(result.stdout))
    assert json.loads(result.stdout)["num_samples"] == 3
    assert open_index(tmp_path).split_names == ["2"]


def test_every_setting_reaches_dataset_json(ucf_raw: Path, tmp_path: Path) -> None:
    words = "--size 64 --quality 70 --drop-odd --fps 10 --keep-aspect --samples-per-shard 2 --seed 5 --workers 1"
    result = run(make_shards.main, "ucf101", "--raw", ucf_raw, "--out", tmp_path, *words.split())
    assert result.exit_code == 0, result.output
    info = json.loads((tmp_path / "dataset.json").read_text())
    assert info["settings"] == {
        "size": 64,
        "quality": 70,
        "drop_odd": True,
        "fps": 10.0,
        "keep_aspect": True,
        "samples_per_shard": 2,
        "seed": 5,
    }
    assert info["codec"]["frame_step"] == 2
    assert info["tools"]["ffmpeg"].startswith("ffmpeg version")
    assert len(info["shards"]) == 3
    assert np.all(open_index(tmp_path).num_frames <= 10)


def test_h264_shards_are_made_and_checked_by_the_same_commands(ucf_raw: Path, tmp_path: Path) -> None:
    words = "--codec h264 --gop 4 --crf 23 --seed 5 --workers 1"
    result = run(make_shards.main, "ucf101", "--raw", ucf_raw, "--out", tmp_path, *words.split())
    assert result.exit_code == 0, result.output
    assert "6 samples in 1 shards" in result.output
    info = json.loads((tmp_path / "dataset.json").read_text())
    assert (info["codec"]["name"], info["codec"]["gop_size"], info["codec"]["crf"]) == ("h264", 4, 23)
    assert info["settings"] == {
        "size": 128,
        "codec": "h264",
        "gop_size": 4,
        "crf": 23,
        "drop_odd": False,
        "fps": None,
        "keep_aspect": False,
        "samples_per_shard": 64,
        "seed": 5,
    }
    checked = run(check_shards.main, tmp_path, "--decode")
    assert checked.exit_code == 0, checked.output
    assert "6 samples of 2 classes in 1 shards: whole" in checked.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ucf101", "--raw", "/nowhere"], "/nowhere"),
        (["ucf101", "--split", "4"], "ucf101: split 4 does not exist; choose 1, 2 or 3"),
        (["ucf101", "--size", "7"], "size: 7 is not possible"),
        (["folder", "--raw", "{raw}/UCF-101", "--group-pattern", "("], "group_pattern"),
        (["ucf101", "--codec", "h264", "--quality", "85"], "--quality is of --codec filmstrip, not of h264; leave it"),
        (["ucf101", "--gop", "8"], "--gop is of --codec h264, not of filmstrip; leave it out"),
        (["ucf101", "--crf", "20"], "--crf is of --codec h264, not of filmstrip; leave it out"),
        (["ucf101", "--codec", "h264", "--gop", "1"], "gop_size: 1 is not possible; choose 2 to 250"),
        (["ucf101", "--codec", "av1"], "'av1' is not one of 'filmstrip', 'h264'"),
        (["ucf101", "--workers", "0"], "0 is not in the range"),
        (["imagenet"], "No such command 'imagenet'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(ucf_raw: Path, tmp_path: Path, words: list[str], said: str) -> None:
    words = [word.replace("{raw}", str(ucf_raw)) for word in words]
    if "--raw" not in words and words[0] == "ucf101":
        words += ["--raw", str(ucf_raw)]
    result = run(make_shards.main, *words, *(["--out", tmp_path / "s"] if words[0] != "imagenet" else []))
    assert result.exit_code == 2, result.output
    line = result.output.strip().splitlines()[-1]
    assert said in line
    assert not (tmp_path / "s").exists()


def test_other_settings_on_the_same_folder_are_a_failure_not_a_rewrite(ucf_raw: Path, tmp_path: Path) -> None:
    run(make_shards.main, "ucf101", "--raw", ucf_raw, "--out", tmp_path)
    result = run(make_shards.main, "ucf101", "--raw", ucf_raw, "--out", tmp_path, "--size", "64")
    assert result.exit_code == 1
    assert "made with another size; choose another --out" in result.output


def test_a_folder_of_videos_is_split_by_group(numbered_raw: Path, tmp_path: Path) -> None:
    words = ["--raw", numbered_raw, "--out", tmp_path, "--group-pattern", r"^(g\d+)_", "--test-fraction", "0.3"]
    result = run(make_shards.main, "folder", *words)
    assert result.exit_code == 0, result.output
    index = open_index(tmp_path)
    assert len(index.samples_of("1", "test")) >= 2
    assert index.name == numbered_raw.name


@pytest.fixture
def sports_raw(tmp_path: Path) -> Path:
    """Two videos of 70 frames, one to train on and one to test; a third is missing."""
    raw = tmp_path / "sports1m"
    (raw / "videos").mkdir(parents=True)
    (raw / "labels.txt").write_text("boomerang\nboxing\n")
    for name in ("first______", "second_____"):
        write_numbered_video(raw / f"videos/{name}.mp4", 70, height=64, width=96)
    (raw / "train_partition.txt").write_text("https://www.youtube.com/watch?v=first______ 1,0\n")
    (raw / "test_partition.txt").write_text("https://www.youtube.com/watch?v=second_____ 0\nthird______ 1\n")
    return raw


def test_sports1m_is_cut_into_segments_and_counted(sports_raw: Path, tmp_path: Path) -> None:
    result = run(make_shards.main, "sports1m", "--raw", sports_raw, "--out", tmp_path / "s")
    assert result.exit_code == 0, result.output
    assert "15 samples in 1 shards" in result.output
    assert "split 1: 5 train, 10 test" in result.output
    assert "listed videos: 2 present, 0 too short, 0 broken, 1 missing; see" in result.output
    assert "warning: test: 1 of 2 listed videos are there" in result.output
    assert len((tmp_path / "s/manifest.jsonl").read_text().splitlines()) == 3
    assert set(open_index(tmp_path / "s").num_frames) == {50}
    assert run(check_shards.main, tmp_path / "s", "--decode").exit_code == 0


def test_length_and_number_of_segments_can_be_chosen(sports_raw: Path, tmp_path: Path) -> None:
    words = ["--segment-s", "1", "--train-segments", "2", "--test-segments", "3", "--json"]
    result = run(make_shards.main, "sports1m", "--raw", sports_raw, "--out", tmp_path / "s", *words)
    assert json.loads(result.stdout)["videos"] == {"present": 2, "too short": 0, "broken": 0, "missing": 1}
    index = open_index(tmp_path / "s")
    assert index.num_frames.tolist() == [25] * 5
    assert {k: index.info["settings"][k] for k in ("segment_s", "train_segments", "test_segments")} == {
        "segment_s": 1.0,
        "train_segments": 2,
        "test_segments": 3,
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--fps 10", "fps: 10.0 does not go with segments, which are the source's frames; leave it out"),
        ("--segment-s 0", "segment_s: 0.0 is not possible"),
        ("--test-segments 0", "test_segments: 0 is not possible; choose 1 to 100"),
        ("--raw /nowhere", "/nowhere: no such folder; put videos/<YouTube id>.mp4"),
    ],
)
def test_wrong_usage_of_sports1m_is_one_line_and_exit_code_2(
    sports_raw: Path, tmp_path: Path, words: str, said: str
) -> None:
    result = run(make_shards.main, "sports1m", "--raw", sports_raw, "--out", tmp_path / "s", *words.split())
    assert result.exit_code == 2, result.output
    assert said in result.output.strip().splitlines()[-1]
    assert not (tmp_path / "s").exists()
