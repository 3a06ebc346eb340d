"""python -m res3d_video.train.models: the numbers beside the paper's, and what is measured."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from res3d_video.train.models import MODELS
from res3d_video.train.models.__main__ import main
from res3d_video.train.models.table import PRINTED, cost_of
from tests.schemas import check_schema
from tests.terminal import CHECKOUT


def run(*options: str) -> Result:
    return CliRunner().invoke(main, options)


def test_every_model_but_plain_depths_has_a_printed_row_or_a_note() -> None:
    plain = {"res3d10", "res3d16", "res3d26"}
    assert set(PRINTED) == (set(MODELS) - plain - {"r2plus1d34"})


@pytest.mark.parametrize(
    "name", ["res3d18", "res3d34", "sr18", "sr18-56-table5", "sr18-224-table5", "res2d18", "res2d34"]
)
def test_counts_are_those_printed_or_what_the_note_says(name: str) -> None:
    cost, printed = cost_of(name, num_classes=101), PRINTED[name]
    if name != "res2d34":  # printed 21.5
        assert round(cost.parameters / 1e6, 1) == printed.parameters_m
    low = 1 - printed.multiply_adds_g / (cost.multiply_adds / 1e9)
    assert f"are {100 * low:.0f} % low" in printed.note


def test_the_printed_size_of_c3d_is_one_convolution_short() -> None:
    cost = cost_of("c3d", num_classes=487)
    assert round((cost.parameters - 512 * 512 * 27) / 1e6, 1) == cost.printed.parameters_m == 72.9
    assert round(cost.multiply_adds / 1e9, 1) == cost.printed.multiply_adds_g


def test_at_another_width_nothing_printed_is_shown() -> None:
    assert cost_of("res3d18", num_classes=101, width=32).printed.parameters_m is None


def test_the_table_has_a_line_a_model_and_a_reason_for_each_difference() -> None:
    shown = run("--model", "res3d18", "--model", "c3d", "--classes", "487")
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["model", "width", "clip", "parameters", "printed", "multiply-adds", "printed"]
    assert lines[1].split() == ["res3d18", "64", "8x112x112", "33,420,327", "33.2M", "20.451", "G", "19.3", "G"]
    assert lines[2].split() == ["c3d", "64", "16x112x112", "79,991,015", "72.9M", "38.549", "G", "38.5", "G"]
    assert any(line.startswith("c3d: Printed for 487 classes") for line in lines)


def test_json_has_exact_numbers() -> None:
    (row,) = json.loads(run("--model", "res3d18", "--json").stdout)
    check_schema("models", [row])
    assert (row["parameters"], row["num_frames"], row["printed"]["parameters_m"]) == (33_222_309, 8, 33.2)


def test_measuring_adds_speeds_and_memory() -> None:
    options = ["--model", "res2d18", "--width", "8", "--measure", "--batch-size", "2", "--repeats", "1"]
    (row,) = json.loads(run(*options, "--device", "cpu", "--json").stdout)
    assert row["forward_clips_per_s"] > 0
    assert row["step_clips_per_s"] > 0
    assert "forward clips/s" in run(*options, "--device", "cpu").stdout


PEAKS = """
import torch
from res3d_video.train.models.table import read_peak, start_peak
cpu = torch.device("cpu")
before = start_peak(cpu)
torch.ones(16, 2**20)  # 64 MiB
print(before or 0, read_peak(cpu) or 0, start_peak(cpu) or 0, read_peak(cpu) or 0)
"""


def test_the_peak_sees_memory_that_is_free_again_and_forgets_it() -> None:
    done = subprocess.run([sys.executable, "-c", PEAKS], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    before, peak, then, later = map(int, done.stdout.split())
    if not before or not peak:
        pytest.skip("this system does not let a process read its peak")
    assert 60 * 2**20 < peak - before < 100 * 2**20
    assert later - then < 20 * 2**20


def test_wrong_usage_is_told_in_a_line() -> None:
    unknown = run("--model", "vgg")
    assert unknown.exit_code == 2
    assert "'vgg' is not one of" in unknown.output
