"""Hundreds of hostile pictures with right checksums: none is decoded, each is replaced, and the check says the same."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline.picture_reader
from pipeline.clip import ClipSpec
from pipeline.loader import ClipLoader
from pipeline.plan import EvalPlan
from pipeline.reference import decode_sample
from pipeline.shard import ShardError, open_index
from tests.hostile.pictures import good_strip, write

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=["filmstrip", "h264"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of them, in a process of its own; samples by what makes them hostile."""
    folder = tmp_path_factory.mktemp("pictures") / "shards"
    command = [sys.executable, "-m", "tests.hostile.pictures", request.param, str(folder)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    return {
        key: [found["names"].get(one, one) for one in value] if isinstance(value, list) else value
        for key, value in found.items()
    }


def test_there_are_hundreds(found: dict[str, Any]) -> None:
    assert len(found["bad"]) == len(set(found["bad"])) >= {"strip": 300, "packet": 120}[found["picture"]]


def test_a_loader_replaces_each_of_them_and_no_other(found: dict[str, Any]) -> None:
    bad = set(found["bad"])
    assert set(found["replaced"]) == set(found["evaluated"]) == set(found["weightless"]) == bad
    assert found["num_evaluated"] == len(bad)
    assert found["num_replaced"] >= len(bad)
    assert not set(found["trained"]) & bad


def test_batches_say_why(found: dict[str, Any]) -> None:
    assert len(found["reasons"]) == len(found["bad"])
    assert all(why.startswith(f"a {found['picture']} ") for why in found["reasons"].values())
    assert len(set(found["reasons"].values())) >= 2


def test_a_check_names_what_a_loader_replaces(found: dict[str, Any]) -> None:
    assert set(found["checked"]) == set(found["replaced"])
    assert set(found["decoded"]) >= set(found["replaced"])


def test_what_a_decoder_fills_in_is_delivered_and_named_only_by_decoding(found: dict[str, Any]) -> None:
    strange = set(found["names"].values()) - set(found["bad"])
    assert strange <= set(found["trained"])
    assert set(found["decoded"]) - set(found["replaced"]) <= strange


@pytest.mark.parametrize("orientation", range(1, 9))
def test_no_picture_is_turned_where_one_gets_as_far_as_a_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int
) -> None:
    monkeypatch.setattr(pipeline.picture_reader, "strip_fault", lambda jpeg, header: None)
    exif = Image.Exif()
    exif[0x112] = orientation
    good, segment = good_strip(), b"Exif\0\0" + exif.tobytes()[6:]
    turned = good[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + good[2:]
    assert Image.open(io.BytesIO(turned)).getexif()[0x112] == orientation
    index = write(tmp_path / "shards", "filmstrip", [("turned", turned)])
    plan = EvalPlan(index, np.arange(2), ClipSpec(1, 1, crop_size=32), global_batch_size=2)
    with ClipLoader(index, plan) as loader:
        (batch,) = loader
    assert batch.weights.tolist() == [1, 1]
    assert torch.equal(batch.clips[0], batch.clips[1])
    assert np.array_equal(decode_sample(index, 0), decode_sample(index, 1))


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        ({"strip_frames": 256, "tile_height": 4096}, "strips are 48×1048576"),
        ({"strip_frames": 8, "tile_height": 8000, "tile_width": 8192}, "strips are 8192×64000"),
        ({"quality": 101}, "quality is 101; it must be a whole number from 1 to 100"),
        ({"quality": None}, "quality is None"),
    ],
)
def test_a_dataset_of_huge_strips_is_refused(tmp_path: Path, codec: dict[str, Any], said: str) -> None:
    info = dict(write(tmp_path / "shards", "filmstrip", []).info)
    (tmp_path / "shards/dataset.json").write_text(json.dumps(info | {"codec": info["codec"] | codec}))
    with pytest.raises(ShardError, match=f"dataset.json: {said}.*; build the shards again"):
        open_index(tmp_path / "shards")


def test_no_header_costs_memory(found: dict[str, Any]) -> None:
    assert found["memory_mb"] < 300
