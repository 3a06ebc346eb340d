"""Hundreds of hostile frames with right checksums: no engine crashes on one or takes memory for it, the other frames of
their samples are delivered as they are, and the check names all that can be told from right ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import res3d_video.pipeline.codecs.filmstrip
from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.codecs.filmstrip import DRI, SOF0, SOS, FilmstripCodec, segments
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardError, ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan
from tests.hostile.pictures import (
    BAD_TILE,
    NUM_TILES,
    STRIPS,
    Case,
    exif_segment,
    good_sample,
    hostile_headers,
    write,
)

CHECKOUT = Path(__file__).resolve().parents[2]
REPLACED = {"row", "place", "form"}  # kinds of cases that no engine is given to decode
NAMED = {"marker", "strip", "twin"} | REPLACED  # that a check names without decoding
AT_LEAST = {"filmstrip": {"marker": 250, "nonsense": 40, "strip": 35, "row": 20}, "h264": {"form": 120, "row": 20}}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of them in a process of its own, by codec."""
    command = [sys.executable, "-m", "tests.hostile.pictures", str(tmp_path_factory.mktemp("pictures"))]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(params=["filmstrip", "h264"])
def found(request: pytest.FixtureRequest, outcomes: dict[str, Any]) -> dict[str, Any]:
    """Of one codec; samples by their keys."""
    return {"codec": request.param, **outcomes[request.param]}


def of_kinds(found: dict[str, Any], kinds: set[str]) -> set[str]:
    """Keys of the hostile samples of some kinds."""
    return {key for key, (kind, _) in found["cases"].items() if kind in kinds}


def test_there_are_hundreds_each_once(found: dict[str, Any]) -> None:
    assert len(set(map(tuple, found["cases"].values()))) == len(found["cases"])
    for kind, least in AT_LEAST[found["codec"]].items():
        assert len(of_kinds(found, {kind})) >= least


def test_every_engine_replaces_what_is_not_where_the_index_says_or_not_a_packet(found: dict[str, Any]) -> None:
    bad = of_kinds(found, REPLACED)
    for outcome in found["engines"]:
        assert bad <= set(outcome["weightless"]), "in evaluation they get no weight"
        assert bad <= set(outcome["why"]), "in training another stands in, and the batch says why"
        assert not bad & set(outcome["trained"])
        assert outcome["num_replaced"] >= len(outcome["why"])
        assert sorted(outcome["weightless"]) == outcome["bad"]


def test_what_is_damaged_has_one_reason_for_all_engines(found: dict[str, Any]) -> None:
    reasons = [outcome["why"] for outcome in found["engines"]]
    assert all(why.startswith("a frame ") for why in reasons[0].values())
    assert all(other == reasons[0] for other in reasons)


def test_a_hostile_frame_costs_the_clips_that_need_it_and_no_others(found: dict[str, Any]) -> None:
    """Clips of one frame each, of every sample: only those of a hostile frame differ or lose their weight."""
    bad_frame = BAD_TILE if found["codec"] == "filmstrip" else 0
    touched = {"marker", "nonsense", "other", "row", "twin", "form"}
    for outcome in found["engines"]:
        for key, frames in [*outcome["weightless"].items(), *outcome["changed"].items()]:
            assert key in found["cases"], "a good sample"
            kind, name = found["cases"][key]
            if kind == "place":  # the whole sample is elsewhere
                assert len(frames) == (NUM_TILES if found["codec"] == "filmstrip" else 1)
            else:
                assert kind in touched, name
                assert frames == [bad_frame], name


def test_what_holds_tiles_together_in_the_tar_does_not_matter_to_a_loader(found: dict[str, Any]) -> None:
    strips = of_kinds(found, {"strip"})
    for outcome in found["engines"]:
        assert not strips & (set(outcome["weightless"]) | set(outcome["changed"]) | set(outcome["why"]))
        assert strips <= set(outcome["trained"])


def test_a_check_names_all_but_tiles_that_are_right_in_form(found: dict[str, Any]) -> None:
    """Markers and places without decoding, nonsense by decoding; another frame or quality is told by nothing."""
    checked, decoded = set(found["checked"]), set(found["decoded"])
    assert checked >= of_kinds(found, NAMED)
    assert decoded == of_kinds(found, NAMED | {"nonsense"})
    assert decoded >= checked


def test_no_frame_costs_memory(found: dict[str, Any]) -> None:
    assert found["memory_mb"] < 400


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """A dataset of two good samples."""
    return write(tmp_path_factory.mktemp("good") / "shards", STRIPS, [Case("good", "good", good_sample(STRIPS))])


def rewrite(index: ShardIndex, **codec: Any) -> None:
    """Let dataset.json say other things of its codec."""
    info = dict(index.info) | {"codec": index.info["codec"] | codec}
    (index.data_dir / "dataset.json").write_text(json.dumps(info))


def test_a_dataset_with_another_header_is_refused_in_one_line(good: ShardIndex) -> None:
    headers = dict(hostile_headers())
    assert len(headers) >= 200
    for name, header in headers.items():
        rewrite(good, header=header.hex())
        with pytest.raises(ShardError, match=r"^[^\n]*dataset.json: codec.header: .*; build the shards again$"):
            open_index(good.data_dir)
            pytest.fail(f"{name} was opened")


@pytest.mark.parametrize("blank", [b"\xff\xd9", STRIPS.blank + b"\xff\xd0" + STRIPS.blank, STRIPS.blank[:1]])
def test_a_dataset_with_another_blank_tile_is_refused(good: ShardIndex, blank: bytes) -> None:
    rewrite(good, blank=blank.hex())
    said = r"dataset.json: codec.(blank: holds a marker|header: does not decode .*); build the shards again$"
    with pytest.raises(ShardError, match=said):
        open_index(good.data_dir)


def test_a_header_that_is_accepted_differs_in_tables_alone_and_no_strip_has_it() -> None:
    accepted, sample = 0, good_sample(STRIPS)
    files = {name: (0, content) for name, content in sample.files.items()}
    rows = np.array([record[1:] for record in sample.frames], np.uint32)

    def form(header: bytes) -> list[tuple[int, bytes]]:
        return [(marker, body) for marker, _, body in segments(header) if marker in (SOF0, DRI, SOS)]

    assert list(STRIPS.segment_faults(files, rows, decode=True)) == []
    for place in range(len(STRIPS.header)):
        header = bytearray(STRIPS.header)
        header[place] ^= 1 << place % 8
        try:
            codec = FilmstripCodec.of(STRIPS.describe() | {"header": header.hex()})
        except UserError:
            continue
        accepted += 1
        assert form(codec.header) == form(STRIPS.header)
        assert list(codec.segment_faults(files, rows, decode=False))
    assert accepted >= 64, "quantization tables"


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("engine", ["dali", "simple"])
def test_no_picture_is_turned_where_one_gets_as_far_as_a_decoder(
    good: ShardIndex, monkeypatch: pytest.MonkeyPatch, engine: str, orientation: int
) -> None:
    def clips() -> torch.Tensor:
        index = open_index(good.data_dir)
        plan = EvalPlan(index, np.arange(2), ClipSpec(NUM_TILES, 1, crop_size=32), global_batch_size=2)
        with ClipLoader(index, plan, settings=LoaderSettings(engine=engine)) as loader:
            (batch,) = loader
        assert batch.weights.tolist() == [1, 1]
        return batch.clips

    rewrite(good)
    plain = clips()
    monkeypatch.setattr(res3d_video.pipeline.codecs.filmstrip, "header_fault", lambda header, **size: None)
    rewrite(good, header=(STRIPS.header[:2] + exif_segment(orientation) + STRIPS.header[2:]).hex())
    assert torch.equal(clips(), plain)


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        ({"strip_frames": 256, "tile_height": 4096}, "strips are 48×1048576"),
        ({"strip_frames": 8, "tile_height": 8000, "tile_width": 8192}, "strips are 8192×64000"),
        ({"tile_height": 65_520, "tile_width": 65_520}, "tiles are 65520×65520"),
        ({"quality": 101}, "codec.quality: expected `int` <= 100"),
        ({"quality": None}, "codec.quality: expected `int`, got `null`"),
    ],
)
def test_a_dataset_of_huge_strips_is_refused(good: ShardIndex, codec: dict[str, Any], said: str) -> None:
    rewrite(good, **codec)
    with pytest.raises(ShardError, match=f"dataset.json: {said}.*; build the shards again"):
        open_index(good.data_dir)
