"""Millions of samples (Sports-1M has 5.5): what a rank pays to open their index and to plan with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.large_index import make

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=[2_000_000, pytest.param(5_500_000, marks=pytest.mark.long)])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An index, and how many samples it has."""
    folder = tmp_path_factory.mktemp("large") / "set"
    make(folder, request.param)
    return folder, request.param


@pytest.mark.slow
@pytest.mark.parametrize("order", [(), ("4", "512"), pytest.param(("64",), marks=pytest.mark.long)])
def test_an_index_of_millions_opens_at_once_and_is_planned_in_little_memory(
    large: tuple[Path, int], order: tuple
) -> None:
    folder, num_samples = large
    share = num_samples / 5_500_000
    command = [sys.executable, "-m", "tests.pipeline.large_index", "measure", str(folder), *order]
    found = json.loads(subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout)
    assert found["open_cpu_s"] < 2 * share
    assert found["first_batch_cpu_s"] < 5 * share, "the order of an epoch"
    assert found["resident_mb"] < 80 + 220 * share, "own and mapped pages, above those of an empty process"
    assert found["step_cpu_ms"] < 2
    assert found["own_mb_grew"] < 5
