"""What a first-time user gets wrong: one line on stderr that names the way out, and the right exit code."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools import evaluate, make_shards
from res3d_video.train.main import main as train
from res3d_video.train.presets import PRESETS


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
    ("dataset", "layout", "origin"),
    [
        ("ucf101", "UCF-101/<Class>/*.avi", "of https://www.crcv.ucf.edu/data/UCF101.php"),
        ("hmdb51", "<class>/*.avi", "of https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database"),
        ("sports1m", "videos/<YouTube id>.mp4", "(github.com/gtoderici/sports-1m-dataset, gunzipped)"),
        ("folder", "<class>/<video>", ""),
    ],
)
def test_a_missing_raw_folder_is_named_with_what_belongs_there_and_where_it_comes_from(
    dataset: str, layout: str, origin: str
) -> None:
    named = complaint(make_shards.main, dataset, "--raw", "x", exit_code=2)
    assert named.startswith(f"error: x: no such folder; put {layout}")
    assert origin in named
    said = complaint(make_shards.main, dataset, exit_code=2)
    assert said == named.replace("x:", f"data/{dataset}:", 1) + ", or name your folder with --raw"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named_with_the_way_out(numbered: ShardIndex, tmp_path: Path) -> None:
    asked = ["--data", numbered.data_dir, "--device", "cuda"]
    said = complaint(train, *asked, "--preset", "tiny", "--out", tmp_path / "run", exit_code=1)
    assert "device: cuda needs an NVIDIA GPU, but torch " in said
    assert said.endswith("; use --device cpu, or install what is missing")
    checkpoint = tmp_path / "a.pt"
    checkpoint.touch()
    assert "use --device cpu" in complaint(evaluate.main, *asked, "--checkpoint", checkpoint, exit_code=1)


def test_a_typo_in_a_preset_is_told_the_preset_that_was_meant_and_all_of_them(tmp_path: Path) -> None:
    for typed, meant in {"ucf101-serach": "ucf101-search", "UCF101_search": "ucf101-search", "resnet": None}.items():
        said = complaint(train, "--data", tmp_path, "--out", tmp_path / "run", "--preset", typed, exit_code=2)
        nearest = f"did you mean {meant}? " if meant else ""
        assert said == f"error: --preset: {typed} does not exist; {nearest}choose {', '.join(PRESETS)}"
