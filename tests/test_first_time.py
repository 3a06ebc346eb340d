"""What a first-time user gets wrong: one line on stderr that names the way out, and the right exit code."""

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_ucf101
from res3d_video.pipeline.errors import nearest
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.tools import evaluate, make_shards
from res3d_video.train.main import main as train
from res3d_video.train.presets import PRESETS

SMALL = "--model res3d10 --width 4 --num-frames 4 --crop-size 32 --resize 32 --eval-every 0 --eval-clips 1 --device cpu"


@pytest.fixture(scope="module")
def shards(ucf_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Four videos to train on, two to test."""
    folder = tmp_path_factory.mktemp("shards")
    build_shards(list_ucf101(ucf_raw), folder, BuildSettings(), workers=1)
    return open_index(folder)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that should fail and does not must not write into the checkout."""
    monkeypatch.chdir(tmp_path)


def complaint(command: object, *words: object, exit_code: int) -> str:
    """What a command says on stderr, which must be one line."""
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr.strip()


@pytest.mark.parametrize(
    ("dataset", "wanted"),
    [
        ("ucf101", "put UCF-101/<Class>/*.avi (UCF101.rar) and ucfTrainTestlist/*.txt (UCF101TrainTestSplits-"
         "RecognitionTask.zip) of https://www.crcv.ucf.edu/data/UCF101.php there, unpacked"),
        ("hmdb51", "put <class>/*.avi (each class's .rar of hmdb51_org.rar) and testTrainMulti_7030_splits/*.txt "
         "(test_train_splits.rar) of https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database "
         "there, unpacked"),
        ("sports1m", "put videos/<YouTube id>.mp4, labels.txt and original/{train,test}_partition.txt "
         "(github.com/gtoderici/sports-1m-dataset, gunzipped) there"),
        ("folder", "put <class>/<video>, one folder a class, there"),
    ],
)  # fmt: skip
def test_a_missing_raw_folder_is_named_with_what_belongs_there_and_where_it_comes_from(
    dataset: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = complaint(make_shards.main, dataset, exit_code=2)
    assert said == f"error: data/{dataset}: no such folder; {wanted}, or name your folder with --raw"
    said = complaint(make_shards.main, dataset, "--raw", "here", exit_code=2)
    assert said == f"error: here: no such folder; {wanted}"


@pytest.fixture
def ucf(ucf_raw: Path, tmp_path: Path) -> Path:
    """A UCF101 of two classes that a test may spoil."""
    return shutil.copytree(ucf_raw, tmp_path / "ucf101")


@pytest.mark.parametrize("name", ["Handstand_Pushup", "Holidays"])
def test_a_folder_of_videos_that_is_no_class_is_named_and_left_out(name: str, ucf: Path) -> None:
    (ucf / "UCF-101/HandstandPushups").rename(ucf / "UCF-101" / name)
    listing = list_ucf101(ucf)
    assert {record.class_name for record in listing.records} == {"ApplyEyeMakeup"}
    assert [line for line in listing.warnings if f"are in no list and left out, first UCF-101/{name}/v_" in line]


def test_a_list_that_names_a_class_that_is_not_there_is_told_the_nearest(ucf: Path) -> None:
    path = ucf / "ucfTrainTestlist/trainlist02.txt"
    path.write_text(path.read_text().replace("ApplyEyeMakeup/", "ApplyEyeMakup/"))
    said = complaint(make_shards.main, "ucf101", "--raw", ucf, exit_code=2)
    assert said.endswith("'ApplyEyeMakup' is not in classInd.txt; did you mean ApplyEyeMakeup? correct either")


def test_a_split_file_that_names_a_video_that_is_not_there_is_told_the_nearest(ucf: Path, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("path,subset\nHandstandPushup/v_HandStandPushups_g01_c01.avi,train\n")
    words = ["folder", "--raw", ucf / "UCF-101", "--split-file", tmp_path / "split.csv"]
    said = complaint(make_shards.main, *words, exit_code=2)
    assert said.endswith(
        "'HandstandPushup/v_HandStandPushups_g01_c01.avi' is no video below the root; did you mean "
        "HandstandPushups/v_HandStandPushups_g01_c01.avi? correct or remove the line"
    )


def test_videos_that_lie_in_no_class_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    said = complaint(make_shards.main, "folder", "--raw", tmp_path, exit_code=2)
    assert said == f"error: {tmp_path}: a.mp4 lies in no class folder; put <class>/<video>, one folder a class, there"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named_with_the_way_out(shards: ShardIndex, tmp_path: Path) -> None:
    asked = ["--data", shards.data_dir, "--device", "cuda"]
    said = complaint(train, *asked, "--preset", "tiny", "--out", tmp_path / "run", exit_code=1)
    assert "device: cuda needs an NVIDIA GPU, but torch " in said
    assert said.endswith("; use --device cpu, or install what is missing")
    checkpoint = tmp_path / "a.pt"
    checkpoint.touch()
    assert "use --device cpu" in complaint(evaluate.main, *asked, "--checkpoint", checkpoint, exit_code=1)


@pytest.mark.parametrize(
    ("typed", "meant"), [("ucf101-serach", "ucf101-search"), ("UCF101_search", "ucf101-search"), ("tinny", "tiny")]
)
def test_a_typo_in_a_preset_is_told_the_preset_that_was_meant_and_all_of_them(
    typed: str, meant: str, tmp_path: Path
) -> None:
    said = complaint(train, "--data", tmp_path, "--out", tmp_path / "run", "--preset", typed, exit_code=2)
    assert said == f"error: --preset: {typed} does not exist; did you mean {meant}? choose {', '.join(PRESETS)}"


def test_a_preset_unlike_any_is_told_all_of_them(tmp_path: Path) -> None:
    said = complaint(train, "--data", tmp_path, "--out", tmp_path / "run", "--preset", "resnet", exit_code=2)
    assert said == f"error: --preset: resnet does not exist; choose {', '.join(PRESETS)}"


def test_the_nearest_name_ignores_case_blanks_and_punctuation_and_is_never_far() -> None:
    names = ["Basketball", "BasketballDunk", "BasketballShooting"]
    assert nearest("basketball-shooting", names) == "BasketballShooting"
    assert nearest("Baskettball", names) == "Basketball"
    assert [nearest(name, names) for name in ("", "Ball", "Football", "?")] == [None] * 4
