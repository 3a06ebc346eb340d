"""tools/bench/comparison.py: peers are checked and measured in rounds; one that fails is a line, never the end."""

import itertools
import json
import os
import time
from collections.abc import Generator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import LoaderSettings
from res3d_video.tools.bench import comparison as module
from res3d_video.tools.bench import measure as measure_module
from res3d_video.tools.bench.comparison import (
    MAX_PSNR_DB,
    Comparison,
    Row,
    checked_psnr,
    compare,
    reason,
    row_of,
    warmed,
)
from res3d_video.tools.bench.lanes import loader_cost
from res3d_video.tools.bench.measure import BenchError, Child, Measurement, Order
from res3d_video.tools.bench.peers import OURS, PEERS, Peer, PeerConfig, make_files, our_loader
from tests.schemas import check_schema

pytest.importorskip("psutil", reason="the benchmarks need psutil")

ORDER = Order(num_batches=2, seconds=None, warmup_batches=0)


def config_of(index: ShardIndex, files: Path) -> PeerConfig:
    return PeerConfig(
        data_dir=index.data_dir,
        samples=np.arange(index.num_samples),
        spec=ClipSpec(),
        batch_size=4,
        seed=0,
        device="cpu",
        loader=LoaderSettings(num_threads=1),
        files=files,
        num_workers=1,
    )


def row(name: str, *rates: int, decoded: float | None = None, num_bytes: float | None = None) -> Row:
    """A row whose rounds of one second had these rates, on half a core."""
    rounds = [Measurement(num_clips=rate, wall_s=1.0, cpu_s=0.5, read_bytes=None) for rate in rates]
    return Row(name, "x 1.0, H.264", "2 threads", decoded, num_bytes, rounds)


@pytest.fixture
def comparison() -> Comparison:
    """Ours at 300 clips/s, another engine at 150, one peer at 100 and one at 200, three that are missing."""
    no_gpu, not_there = "needs a GPU", "not installed; pip install it"
    return Comparison(
        [row("ours", 290, 300, 500, decoded=1.0, num_bytes=40_000), row("simple", 150, 150, 150)],
        [row("slow", 90, 100, 110, decoded=2.0, num_bytes=50_000), row("fast", 10, 200, 210)],
        absent={"a": not_there, "b": no_gpu, "c": not_there},
        psnr={"fast": 31.26, "slow": MAX_PSNR_DB},
        read="peers read copies",
    )


def test_the_table_has_ours_and_then_the_peers_from_the_fastest_on(comparison: Comparison) -> None:
    assert comparison.cells() == [
        ["ours", "x 1.0, H.264", "2 threads", "300 [290..500]", "", "40.0", "1.00"],
        ["simple", "x 1.0, H.264", "2 threads", "150 [150..150]", "2.00", "–", "–"],
        ["fast", "x 1.0, H.264", "2 threads", "200 [10..210]", "1.50", "–", "–"],
        ["slow", "x 1.0, H.264", "2 threads", "100 [90..110]", "3.00", "50.0", "2.00"],
    ]
    page = comparison.markdown()
    assert page[0] == "| | decoder | workers | clips/s | ours/it | kB/clip | decoded/used |"
    assert page[2] == "| ours | x 1.0, H.264 | 2 threads | 300 [290..500] | | 40.0 | 1.00 |"
    for said in (
        "a, c did not run: not installed; pip install it",
        "b did not run: needs a GPU",
        "the same frames and crops as ours, lowest PSNR: fast 31.3 dB, slow every pixel the same",
        "peers read copies",
    ):
        assert f"- {said}" in page
        assert said in comparison.table()


def test_the_sentence_is_the_ratio_of_the_medians_over_the_fastest_peer(comparison: Comparison) -> None:
    assert comparison.sentence() == "ours gives 300 clips/s, 1.50 times the 200 of fast, the fastest of 2 peers"
    assert Comparison(comparison.ours).sentence() == "ours gives 300 clips/s"
    assert Comparison(comparison.ours).ratio is None


def test_the_summary_is_json_with_every_round(comparison: Comparison) -> None:
    found = json.loads(json.dumps(comparison.summary()))
    check_schema("bench_loader --vs", found)
    assert [one["clips_per_s"] for one in found["peers"]["slow"]["rounds"]] == [90, 100, 110]
    assert found["ours"]["ours"]["bytes_per_clip"] == 40_000
    assert found["peers"]["fast"]["cores"] == {"median": 0.5, "min": 0.5, "max": 0.5}
    assert (found["fastest_peer"], found["ratio"]) == ("fast", 1.5)


def test_other_clips_than_ours_are_found_out() -> None:
    clips = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 5, 5)).astype(np.float32)
    assert checked_psnr(clips, clips) == MAX_PSNR_DB
    assert checked_psnr(clips, clips + 2) == pytest.approx(10 * np.log10(255**2 / 4))
    one_of_them = np.stack([clips[0], clips[1][:, ::-1]])
    with pytest.raises(BenchError, match=r"its clips are not ours \(PSNR \d\.\d dB, must be >= 25\)"):
        checked_psnr(clips, one_of_them)
    with pytest.raises(BenchError, match=r"its clips are not ours \(shape \(1, 3, 4, 5, 5\)"):
        checked_psnr(clips, clips[:1])


def test_a_row_says_what_is_decoded_by_whom_with_how_many_workers(
    numbered: ShardIndex, numbered_h264: ShardIndex, tmp_path: Path
) -> None:
    strips = row_of("ours (DALI)", OURS["ours (DALI)"], config_of(numbered, tmp_path))
    assert strips.decoder == f"DALI {OURS['ours (DALI)'].version}, JPEG"
    config = replace(config_of(numbered_h264, tmp_path), num_workers=2)
    make_files(config)
    ours = row_of("ours (DALI)", OURS["ours (DALI)"], config)
    assert (ours.decoder, ours.workers) == (f"PyAV {PEERS['PyAV threads'].version}, H.264", "1 threads")
    cost = loader_cost(config.plan(), steps=range(module.COUNTED_STEPS))
    assert (ours.decoded_to_used, ours.bytes_per_clip) == (cost.decoded_to_used, cost.bytes_per_clip)
    pyav = row_of("PyAV DataLoader", PEERS["PyAV DataLoader"], config)
    assert (pyav.decoder, pyav.workers) == (f"PyAV {PEERS['PyAV threads'].version}, H.264", "2 processes")
    assert pyav.decoded_to_used == pytest.approx(cost.decoded_to_used, rel=0.1)


def test_warming_up_empties_the_queues_of_all_workers(numbered: ShardIndex, tmp_path: Path) -> None:
    config = replace(config_of(numbered, tmp_path), num_workers=24)
    assert warmed(ORDER, "SPDL", config).warmup_batches == 49
    assert warmed(ORDER, "ours (DALI)", config).warmup_batches == 6  # 2 handed over, 2 in DALI, one in hand, one more


@pytest.mark.parametrize(
    "text", ["Could not load libtorchcodec. Likely causes:\n1. FFmpeg …", "Failed to import libspdl."]
)
def test_an_error_becomes_one_line(text: str) -> None:
    assert reason(BenchError("no copy; make it")) == "no copy; make it"
    assert reason(RuntimeError("\nfirst\nsecond")) == "RuntimeError: first second"
    assert reason(ValueError()) == "ValueError: ValueError"
    assert reason(RuntimeError(text)).startswith("it finds no FFmpeg that it can load; apt-get install ffmpeg")


def test_a_process_that_says_nothing_or_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "CLOSE_TIMEOUT_S", 0.1)
    with Child("silent", says_nothing) as child, pytest.raises(BenchError, match="no answer for 0 seconds"):
        child.receive(timeout_s=0.2)
    with Child("dead", dies) as child, pytest.raises(BenchError, match="its process ended with exit code 3"):
        child.receive(timeout_s=60)


def says_nothing(connection: Connection) -> None:
    time.sleep(1000)


def dies(connection: Connection) -> None:
    os._exit(3)


def cannot_open(config: PeerConfig) -> Generator[Tensor]:
    raise RuntimeError("no decoder\nand more")
    yield


def gives_other_clips(config: PeerConfig) -> Generator[Tensor]:
    while True:
        yield torch.zeros(config.batch_size, 3, 8, 112, 112)


def ends_in_its_round(config: PeerConfig) -> Generator[Tensor]:
    yield from itertools.islice(our_loader(config, engine="simple"), 4)
    os._exit(9)


@pytest.mark.slow
def test_peers_that_cannot_be_opened_or_break_are_lines_and_the_others_go_on(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.peers_named.__globals__["DECODERS"], "gone", ("no-such-package",))
    wanted = {
        "other": Peer(gives_other_clips, "PyAV"),
        "late": Peer(ends_in_its_round, "PyAV"),
        "gone": Peer(cannot_open, "gone"),
        "DALI video": PEERS["DALI video"],
        "PyAV threads": PEERS["PyAV threads"],
    }
    monkeypatch.setattr(module, "IDLE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(module, "peers_named", lambda names: wanted)
    found = compare(config_of(numbered, tmp_path / "files"), ORDER, names="all", repeats=2, quiet=True)
    assert found.absent.pop("other").startswith("its clips are not ours (PSNR ")
    assert found.absent == {
        "late": "its process ended with exit code 9",
        "gone": 'not installed; pip install "res3d-video[peers]"',
        "DALI video": "needs a GPU to decode H.264",
    }
    (ours, simple), (pyav,) = found.ours, found.peers
    assert (simple.name, simple.decoder.split()[0], simple.decoded_to_used) == ("ours (simple engine)", "simplejpeg", 1)
    assert (ours.name, pyav.name, pyav.workers) == ("ours (DALI)", "PyAV threads", "1 threads")
    assert [one.num_clips for one in ours.rounds + pyav.rounds] == [8] * 4
    assert 25 < found.psnr["PyAV threads"] < MAX_PSNR_DB
    assert pyav.bytes_per_clip
    assert pyav.bytes_per_clip > 1000


def test_a_name_that_is_no_peers_ends_the_comparison_at_once(numbered: ShardIndex, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="peer 'gluon' does not exist; choose all, or with commas"):
        compare(config_of(numbered, tmp_path), ORDER, names="gluon", repeats=1, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_our_own_loader_must_not_fail(numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OURS, "ours (DALI)", Peer(cannot_open, "DALI"))
    with pytest.raises(BenchError, match=r"ours \(DALI\): RuntimeError: no decoder"):
        compare(config_of(numbered, tmp_path), ORDER, names="DALI video", repeats=1, quiet=True)
