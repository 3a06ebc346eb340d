"""The commands make_shards and check_shards, as a user types them."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from res3d_video.pipeline.index import open_index
from res3d_video.tools import check_shards, make_shards
from res3d_video.tools.numbered import write_numbered_video
from tests.raw_sets import small_hmdb51, small_sports1m
from tests.schemas import check_schema
from tests.tools.commands import run


def test_ucf101_is_stored_once_with_its_splits_as_columns(ucf_raw: Path, tmp_path: Path) -> None:
    result = run(make_shards.main, "ucf101", "--raw", ucf_raw, "--out", tmp_path / "s")
    assert "6 samples in 1 shards" in result.output
    assert "split 3: 4 train, 2 test" in result.output
    assert "0 videos failed, 1 are named in the lists but absent" in result.output
    index = open_index(tmp_path / "s")
    assert index.split_names == ["1", "2", "3"]
    assert sorted(index.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert sorted(index.num_frames.tolist()) == [21, 21, 22, 22, 23, 23]


def test_a_video_may_be_on_no_side_of_a_split(ucf_raw: Path, tmp_path: Path) -> None:
    small_hmdb51(tmp_path / "raw", ucf_raw / "UCF-101")
    run(make_shards.main, "hmdb51", "--raw", tmp_path / "raw", "--out", tmp_path / "s", "--size", 32)
    index = open_index(tmp_path / "s")
    first = ["g01" in index.source(row) for row in range(6)]
    assert index.subsets.tolist() == [[2, 2, 0] if is_first else [1, 1, 1] for is_first in first]
    assert index.info["splits"]["3"] == {"train": 4, "test": 0}
    assert list(index.info["class_counts"].values()) == [3, 3]


def test_check_shards_says_whole_and_then_what_is_damaged(ucf_raw: Path, tmp_path: Path) -> None:
    run(make_shards.main, "ucf101", "--raw", ucf_raw, "--out", tmp_path / "s", "--quiet")
    assert "6 samples of 2 classes in 1 shards: whole" in run(check_shards.main, tmp_path / "s", "--decode").output
    tar = next((tmp_path / "s").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-20000])
    found = json.loads(run(check_shards.main, tmp_path / "s", "--json", code=1).stdout)
    check_schema("check_shards", found)
    assert any("bytes, dataset.json says" in fault for fault in found["faults"])


def test_defaults_are_data_name_and_shards_name(ucf_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ucf101").symlink_to(ucf_raw)
    monkeypatch.chdir(tmp_path)
    quiet = run(make_shards.main, "ucf101", "--quiet", "--limit", 3)
    assert (quiet.stderr, quiet.stdout[:16]) == ("", "1 shards written")
    assert open_index(tmp_path / "shards" / "ucf101").num_samples == 3


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("--size 64 --quality 70 --drop-odd --fps 10 --keep-aspect --samples-per-shard 2 --seed 5",
         {"size": 64, "quality": 70, "drop_odd": True, "fps": 10.0, "keep_aspect": True, "samples_per_shard": 2}),
        ("--codec h264 --gop 4 --crf 23 --no-keep-aspect --samples-per-shard 3 --seed 5",
         {"codec": "h264", "gop_size": 4, "crf": 23, "keep_aspect": False, "samples_per_shard": 3}),
    ],
)  # fmt: skip
def test_every_setting_reaches_dataset_json_and_the_shards_are_whole(
    ucf_raw: Path, tmp_path: Path, words: str, settings: dict
) -> None:
    run(make_shards.main, "ucf101", "--raw", ucf_raw, "--out", tmp_path, *words.split())
    info = json.loads((tmp_path / "dataset.json").read_text())
    assert info["settings"].items() >= {"seed": 5, **settings}.items()
    assert len(info["shards"]) == 6 / settings["samples_per_shard"]
    checked = run(check_shards.main, tmp_path, "--decode")
    assert f"6 samples of 2 classes in {len(info['shards'])} shards: whole" in checked.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("folder --group-pattern (", "group_pattern"),
        ("ucf101 --size 7", "size must be 16 to 1,024, got 7"),
        ("ucf101 --codec h264 --quality 85", "--quality is only for --codec filmstrip; leave it out"),
        ("ucf101 --gop 8", "--gop is only for --codec h264; leave it out"),
        ("ucf101 --crf 20", "--crf is only for --codec h264; leave it out"),
        ("ucf101 --codec av1", "'av1' is not one of 'filmstrip', 'h264'"),
        ("ucf101 --workers 0", "0 is not in the range"),
        ("imagenet", "no such command 'imagenet'; "),
        ("ucf101 --task 3", "--task must be I/N, such as 1/8 for the first of eight, got '3'"),
        ("ucf101 --task -1/2", "--task must be I/N, such as 1/8 for the first of eight, got '-1/2'"),
        ("ucf101 --task 0/2", "--task: 0/2 does not exist; choose 1/2 to 2/2"),
        ("ucf101 --task 3/2", "--task: 3/2 does not exist; choose 1/2 to 2/2"),
        ("ucf101 --task 1/2 --ray auto", "--task and --ray do not go together; leave one out"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(ucf_raw: Path, tmp_path: Path, words: str, said: str) -> None:
    dataset, *options = words.split()
    raw = ucf_raw / "UCF-101" if dataset == "folder" else ucf_raw
    common = ["--raw", raw, "--out", tmp_path / "s"]  # of an option given twice the last counts
    assert said in run(make_shards.main, dataset, *common, *options, code=2).output.strip().splitlines()[-1]
    assert not (tmp_path / "s").exists()


def test_sports1m_is_cut_into_segments_and_counted(ucf_raw: Path, tmp_path: Path) -> None:
    small_sports1m(tmp_path / "raw", ucf_raw / "UCF-101")
    with (tmp_path / "raw/original/test_partition.txt").open("a") as lists:
        lists.write("third______ 1\n")
    words = ["--segment-s", "0.4", "--train-segments", "2", "--test-segments", "3"]
    result = run(make_shards.main, "sports1m", "--raw", tmp_path / "raw", "--out", tmp_path / "s", *words)
    for said in (
        "10 samples in 1 shards", "split 1: 4 train, 6 test",
        "listed videos: 4 present, 0 too short, 0 broken, 1 missing; see",
    ):  # fmt: skip
        assert said in result.output
    assert len((tmp_path / "s/manifest.jsonl").read_text().splitlines()) == 5
    assert set(open_index(tmp_path / "s").num_frames) == {10}


def test_the_shape_of_pictures_is_kept_by_folder_and_not_by_the_papers_datasets(ucf_raw: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "a").mkdir(parents=True)
    for name, width, height in (("phone", 72, 128), ("wide", 128, 72)):
        write_numbered_video(raw / f"a/{name}.mp4", 2, width=width, height=height)
    for number, (command, expected) in enumerate((
        (["folder", "--raw", raw], [(128, 228), (228, 128)]),
        (["folder", "--raw", raw, "--no-keep-aspect"], [(171, 128), (171, 128)]),
        (["ucf101", "--raw", ucf_raw, "--limit", 1], [(171, 128)]),
    )):  # fmt: skip
        out = tmp_path / str(number)
        assert "longest picture" not in run(make_shards.main, *command, "--out", out).output
        assert sorted(map(tuple, open_index(out).content[:, 2:].tolist())) == expected


def test_one_long_picture_that_makes_all_tiles_large_is_named(tmp_path: Path) -> None:
    (tmp_path / "raw/a").mkdir(parents=True)
    for name, width in (("1", 64), ("2", 64), ("long", 384)):
        write_numbered_video(tmp_path / f"raw/a/{name}.mp4", 1, width=width, height=48)
    result = run(make_shards.main, "folder", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--size", 32)
    said = "warning: every frame takes 256×32 pixels, of which most fill 17%: a/long.mp4 has the longest"
    assert said in result.stderr


def test_failures_are_counted_by_reason(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "a").mkdir(parents=True)
    write_numbered_video(raw / "a/0.mp4", 2, width=64, height=48)
    (raw / "a/1.mp4").write_bytes(b"")
    for number in range(3):
        (raw / f"a/text{number}.mp4").write_text("no video")
    words = ["--raw", raw, "--out", tmp_path / "out"]
    assert run(make_shards.main, "folder", *words).stdout.splitlines()[-3:] == [
        f"4 videos failed: see {tmp_path / 'out/quarantine.jsonl'}",
        "  3 failed: Invalid data found when processing input",
        "  1 failed: is empty",
    ]
    again = json.loads(run(make_shards.main, "folder", *words, "--json").stdout)
    check_schema("make_shards", again)
    assert list(again["failures"].values()) == [3, 1]


def test_tasks_say_how_much_is_there_and_the_last_one_what_there_is(ucf_raw: Path, tmp_path: Path) -> None:
    words = ["ucf101", "--raw", ucf_raw, "--size", "32", "--samples-per-shard", "2", "--out", tmp_path]
    first = run(make_shards.main, *words, "--task", "2/2")
    assert f"1 shards written, 0 kept as they were; 1 of 3 are there: {tmp_path}" in first.output
    assert "samples in" not in first.output
    last = run(make_shards.main, *words, "--task", "1/2")
    assert "2 shards written, 0 kept as they were\n6 samples in 3 shards" in last.output
    (tmp_path / "dataset.json").unlink()
    again = json.loads(run(make_shards.main, *words, "--json", "--quiet").stdout)
    assert (again["num_shards_written"], again["num_shards_kept"], again["num_samples"]) == (0, 3, 6)


def test_a_cluster_that_is_not_there_is_one_line(ucf_raw: Path, tmp_path: Path) -> None:
    words = ["ucf101", "--raw", ucf_raw, "--out", tmp_path, "--quiet", "--ray", "127.0.0.1:1"]
    (line,) = run(make_shards.main, *words, code=1).output.strip().splitlines()
    assert line.startswith("error: ray")


LAYOUTS: dict[str, Callable[[Path, Path], object]] = {
    "folder": lambda ucf, raw: shutil.copytree(ucf / "UCF-101", raw),
    "ucf101": lambda ucf, raw: shutil.copytree(ucf, raw),
    "hmdb51": lambda ucf, raw: small_hmdb51(raw, ucf / "UCF-101"),
    "sports1m": lambda ucf, raw: small_sports1m(raw, ucf / "UCF-101"),
}


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_a_folder_or_list_that_cannot_be_read_is_one_line_and_never_passed_over(
    ucf_raw: Path, tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    LAYOUTS[dataset](ucf_raw, raw)
    hidden = raw / "videos" if dataset == "sports1m" else next(path.parent for path in sorted(raw.rglob("*.avi")))
    (hidden / "deep/er").mkdir(parents=True)

    def complaint() -> str:
        (line,) = run(make_shards.main, dataset, "--raw", raw, "--out", tmp_path / "out", code=2).stderr.splitlines()
        return line

    for folder in (hidden, hidden / "deep", hidden / "deep/er"):
        with monkeypatch.context() as patched:
            for function in ("scandir", "listdir"):
                patched.setattr(os, function, refusing(getattr(os, function), folder))
            assert f"{folder}: Permission denied; make it readable" in complaint()
    for path in sorted(raw.rglob("*.txt")):
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        complaint()  # at once: nobody waits for a writer
        path.unlink()
        path.write_bytes(content)
    assert not (tmp_path / "out").exists()


def refusing(real: Callable, folder: Path) -> Callable:
    """A function of the system that may not read one folder; tests may run as root, who may read all."""

    def refuse(path: object = ".") -> object:
        if Path(os.fspath(path)) == folder:  # type: ignore[call-overload]
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    return refuse


def test_a_linked_folder_is_named(ucf_raw: Path, tmp_path: Path) -> None:
    shutil.copytree(ucf_raw, tmp_path / "raw")
    (tmp_path / "raw/UCF-101/ApplyEyeMakeup/more").symlink_to(ucf_raw)
    words = ["--raw", tmp_path / "raw", "--out", tmp_path / "out", "--limit", 1, "--size", 32]
    assert "more: a linked folder is not followed" in run(make_shards.main, "ucf101", *words).stderr
