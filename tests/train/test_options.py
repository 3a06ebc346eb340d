"""The trainer's options: defaults by dataset and device, and every number within bounds."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.main import main
from res3d_video.train.resolve import defaults
from tests.train.conftest import Trainer, command_line, run_program, values_in

NUMBERS = {
    param.opts[0]: param
    for param in main.params
    if isinstance(param, click.Option) and isinstance(param.type, click.types.IntParamType | click.types.FloatParamType)
}


@pytest.mark.parametrize(
    ("name", "device", "size", "preset", "why"),
    [
        ("sports1m", "cuda", 128, "sports1m", "the recipe for sports1m"),
        ("../../mine of theirs", "cuda", 128, "ucf101-search", "the recipe for ../../mine of theirs"),
        ("ucf101", "cuda", 64, "tiny", "the recipe for pictures of 64 pixels"),
        ("ucf101", "cpu", 128, "tiny", "the recipe for CPUs"),
    ],
)
def test_a_dataset_has_a_preset_and_a_folder(name: str, device: str, size: int, preset: str, why: str) -> None:
    index: Any = SimpleNamespace(name=name, size=size)
    chosen, out, line = defaults(None, None, index=index, device=torch.device(device))
    assert (chosen, out.parent, out.name.endswith(f"-{preset}")) == (preset, Path("runs"), True)
    assert line == f"taking --preset {preset} ({why}) and --out {out}"
    assert defaults("modern", Path("x"), index=index, device=torch.device(device)) == ("modern", Path("x"), "")


def test_data_alone_trains_and_goes_on(squares: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(squares.data_dir), "--eval-every", "0", "--eval-clips", "1", "--num-threads", "1"]
    words += ["--device", "cpu", "--batch-size", "2", "--width", "4"]
    taken = "taking --preset tiny (the recipe for CPUs) and --out runs/squares-tiny"
    for steps, line in (("1", taken), ("2", "going on from runs/squares-tiny/latest.pt at step 1")):
        done = CliRunner().invoke(main, [*words, "--steps", steps], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert line in done.stdout.splitlines()
    assert values_in(Path("runs/squares-tiny"), "step") == [1, 2]


@pytest.mark.parametrize("option", NUMBERS)
@pytest.mark.parametrize("value", ["inf", "nan", str(10**30), str(-(10**30))])
def test_no_option_takes_a_number_beyond_reason(run_main: Trainer, tmp_path: Path, option: str, value: str) -> None:
    said = run_main(tmp_path / "run", option, value, exit_code=2).stderr.splitlines()[-1]
    assert option in said or str(NUMBERS[option].name) in said, said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_of_two_processes_one_says_a_mistake(squares: ShardIndex, tmp_path: Path) -> None:
    done = run_program(command_line(squares, tmp_path / "run", "--split", "7", processes=2))
    assert done.returncode == 1
    mistake = "squares: split 7 does not exist; choose 1"
    assert done.stderr.splitlines()[0] == f"error: {mistake}"
    assert done.stderr.count(f"error: {mistake}") == 1, done.stderr
