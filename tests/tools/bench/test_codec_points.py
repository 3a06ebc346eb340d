"""tools/bench/codec_points.py: facts of shards, rows, the chart's points, and the advice that follows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.reference import decode_sample
from pipeline.shard import ShardIndex
from tests.conftest import build_numbered
from tools.bench import codec_points
from tools.bench.codec_points import (
    HEADER,
    CodecPoint,
    Row,
    Stored,
    advice,
    bytes_per_frame,
    ceilings,
    cells_of,
    luma_psnr,
    mean_psnr,
    trade_offs,
    ways_to_store,
)
from tools.bench.measure import Spread
from tools.bench.sweep import Found

STRIPS, GOP_8, SNAPPED = Stored("filmstrip", 128), Stored("h264", 128, 8), Stored("h264", 128, 8, snapped=True)


def found(rate: float, *, kbytes: float = 0.0) -> Found:
    facts = {"bytes_per_frame": 1000 * kbytes, "psnr_db": 39.04, "decoded_to_used": 2.2} if kbytes else {}
    return Found(Spread(rate, rate - 1, rate + 1), cores=1.5, facts=facts)


@pytest.fixture
def rows() -> list[Row]:
    """At 128 pixels filmstrips are fast and large; at 64 one way is both fastest and smallest."""
    return [
        Row(Stored("filmstrip", 64), found(900, kbytes=1.0)),
        Row(Stored("h264", 64, 4), found(800, kbytes=2.0)),
        Row(STRIPS, found(700, kbytes=5.5), found(60)),
        Row(GOP_8, found(400, kbytes=1.1), found(50)),
        Row(SNAPPED, found(500, kbytes=1.1), found(55)),
    ]


def test_each_codec_is_stored_at_each_size_and_each_gop_with_free_and_snapped_starts() -> None:
    ways = ways_to_store((64, 128), (4, 8))
    assert len(ways) == len(set(ways)) == 2 * (1 + 2 * 2)
    assert ways[-1] == SNAPPED
    assert GOP_8.settings(quality=70, crf=23) == {"size": 128, "codec": "h264", "gop_size": 8, "crf": 23}
    assert STRIPS.settings(quality=70, crf=23) == {"size": 128, "quality": 70}


def test_points_of_every_way_and_measurement_have_keys_of_their_own() -> None:
    ways = ways_to_store((64, 128), (4, 8))
    points = [CodecPoint(8, 8, way.stored_size, 2, way, what) for way in ways for what in ("loader alone", "x")]
    assert len({point.key for point in points}) == len(points)


def test_bytes_are_those_of_the_tars(numbered: ShardIndex, numbered_h264: ShardIndex) -> None:
    for index in (numbered, numbered_h264):
        on_disk = sum((index.data_dir / tar).stat().st_size for tar in index.tars)
        assert bytes_per_frame(index) == on_disk / index.num_frames.sum()
    assert bytes_per_frame(numbered_h264) < bytes_per_frame(numbered) / 2


def test_psnr_falls_with_the_quality_of_either_codec(numbered_raw: Path, tmp_path: Path) -> None:
    folders = {"good": {"quality": 95}, "bad": {"quality": 40}}
    folders |= {name: {"codec": "h264", "crf": crf} for name, crf in (("fine", 10), ("coarse", 40))}
    found = {
        name: mean_psnr(build_numbered(numbered_raw, tmp_path / name, **settings), numbered_raw)
        for name, settings in folders.items()
    }
    assert 20 < found["bad"] < found["good"] - 3 < 60
    assert 20 < found["coarse"] < found["fine"] - 3 < 60


@pytest.mark.parametrize("codec", ["numbered", "numbered_h264"])
def test_the_psnr_is_that_of_the_pictures_luma(
    request: pytest.FixtureRequest, numbered_raw: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of 10 grey levels everywhere, on top of what the codec does, is near 28.1 dB."""
    index: ShardIndex = request.getfixturevalue(codec)
    (sample,) = np.flatnonzero(index.num_frames == 120)  # more than one block of frames
    path = numbered_raw / index.source(sample)
    assert luma_psnr(index, sample, path) > 35

    def brighter(index: ShardIndex, sample: int) -> np.ndarray:
        return decode_sample(index, sample).astype(np.float32) + 10

    monkeypatch.setattr(codec_points, "decode_sample", brighter)
    assert luma_psnr(index, sample, path) == pytest.approx(20 * np.log10(255 / 10), abs=0.3)


def test_the_table_has_a_line_for_each_way_and_one_for_ready_clips(rows: list[Row]) -> None:
    cells = cells_of(rows, {128: found(62.5)})
    assert [line[0] for line in cells] == [
        "64: filmstrips",
        "64: h264, GOP 4",
        "128: filmstrips",
        "128: h264, GOP 8",
        "128: h264, GOP 8, snapped",
        "128: ready clips",
    ]
    assert cells[3][1:] == ["1.10", "39.0", "2.20", "400 [399..401]", "1.50", "50.0 [49.0..51.0]", "1.50"]
    assert cells[5][1:] == ["–", "–", "–", "–", "–", "62.5 [61.5..63.5]", "1.50"]
    assert {len(line) for line in cells} == {len(HEADER)}


def test_what_failed_has_dashes_and_no_say_in_the_advice(rows: list[Row]) -> None:
    broken = Row(GOP_8, Found(failed="no room"))
    assert broken.cells()[1:] == ["–", "–", "–", "failed", "–", "–", "–"]
    assert advice([broken]) == "nothing could be measured"
    assert advice([*rows, broken]) == advice(rows)
    assert trade_offs([broken]) == {}


def test_the_advice_names_the_smallest_and_the_fastest_of_each_size(rows: list[Row]) -> None:
    assert advice(rows) == (
        "at 64 pixels «filmstrips» is fastest, 900 clips/s alone, and smallest, 1.00 kB a frame; "
        "at 128 pixels «filmstrips» is fastest, 60.0 clips/s while training at 5.50 kB a frame, and «h264, GOP 8» is "
        "smallest, 1.10 kB: 1.20 times the speed for 5.0 times the space"
    )
    alone = [replace(row, training=None) for row in rows[2:]]
    assert "700 clips/s alone at 5.50 kB a frame" in advice(alone)
    assert "1.75 times the speed" in advice(alone)


def test_the_chart_has_a_panel_for_each_size_and_measurement(rows: list[Row]) -> None:
    panels = trade_offs(rows)
    assert list(panels) == ["64 pixels, loader alone", "128 pixels, loader alone", "128 pixels, while training"]
    assert panels["128 pixels, while training"] == {
        "filmstrips": [("", 5.5, Spread(60, 59, 61))],
        "h264": [("GOP 8", 1.1, Spread(50, 49, 51))],
        "h264 snapped": [("GOP 8", 1.1, Spread(55, 54, 56))],
    }
    assert ceilings({128: found(62.5), 64: Found(failed="no room")}) == {"128 pixels, while training": 62.5}


def test_rates_whose_ranges_overlap_are_no_reason_for_more_space() -> None:
    slow, fast = Spread(12.0, 11.0, 13.0), Spread(14.0, 12.9, 15.0)
    strips = Row(STRIPS, found(700, kbytes=5.5), replace(found(1), clips_per_s=fast))
    video = Row(GOP_8, found(400, kbytes=1.1), replace(found(1), clips_per_s=slow))
    assert advice([strips, video]) == (
        "at 128 pixels «h264, GOP 8» is smallest, 1.10 kB a frame, and no other is clearly faster while training"
    )
