"""Hundreds of ways to damage a dataset folder: training goes on, or opening it fails in one line; nothing crashes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from res3d_video.tools.numbered import write_numbered_video
from tests.conftest import build_numbered

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    for i in range(6):
        path = root / ("even", "odd")[i % 2] / f"g{i:02d}_x.mp4"
        path.parent.mkdir(exist_ok=True)
        write_numbered_video(path, 20 + i, width=172, height=96)
    return root


@pytest.mark.parametrize(
    ("codec", "step", "at_least"),
    [
        ("filmstrip", 41, 25),
        pytest.param("filmstrip", 3, 300, marks=pytest.mark.long),
        pytest.param("h264", 4, 200, marks=pytest.mark.long),
    ],
)
def test_damage_ends_in_batches_or_in_one_line(raw: Path, tmp_path: Path, codec: str, step: int, at_least: int) -> None:
    build_numbered(raw, tmp_path / "whole", samples_per_shard=3, size=32, codec=codec)
    command = [sys.executable, "-m", "tests.hostile.damage", tmp_path / "whole", tmp_path / "damaged", str(step)]
    done = subprocess.run(list(map(str, command)), cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1]['name']}: ended with {done.returncode}\n{done.stderr[-2000:]}"
    found = {line["name"]: line for line in lines if len(line) > 1}
    assert len(found) == len(lines) // 2 >= at_least
    assert not {name: line["crashed"] for name, line in found.items() if "crashed" in line}
    refused = {name: line["refused"] for name, line in found.items() if "refused" in line}
    assert not [said for said in refused.values() if "\n" in said or len(said) > 600]
    assert not [name for name in refused if ".tar" in name or ".idx" in name], "one tar of two is never missed"
    damaged = {
        name: line for name, line in found.items() if ".tar is" in name and not name.endswith(("byte", "longer"))
    }
    assert damaged
    assert all(line["bad"] and line["replaced"] for line in damaged.values()), "and what was damaged is counted"
