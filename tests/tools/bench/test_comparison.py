"""tools/bench/comparison.py: peers are checked and measured in rounds; one that fails is a line, never the end."""

import itertools
import json
import multiprocessing
import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.bench import comparison as module
from res3d_video.tools.bench.comparison import Comparison, Row, check_same, compare, warmed
from res3d_video.tools.bench.measure import BenchError, Measurement
from res3d_video.tools.bench.peers import OURS, PEERS, Peer, PeerConfig, our_loader
from tests.schemas import check_schema
from tests.tools.bench.made import peer_config
from tests.warm import warm_context

pytest.importorskip("psutil", reason="the benchmarks need psutil")


@pytest.fixture(autouse=True)
def warm_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of peers start with torch loaded."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: warm_context())


def row(name: str, *rates: int) -> Row:
    """A row whose rounds of one second had these rates, on half a core."""
    return Row(name, "x 1.0, H.264", "2 threads", [Measurement(1, rate, wall_s=1.0, cpu_s=0.5) for rate in rates])


def test_the_report_has_ours_and_then_the_peers_from_the_fastest_on() -> None:
    """Ours at 300 clips/s, another engine at 150, one peer at 100 and one at 200, one that is missing."""
    ours = [row("ours", 290, 300, 500), row("simple", 150, 150, 150)]
    theirs = [row("slow", 90, 100, 110), row("fast", 10, 200, 210)]
    comparison = Comparison(ours, theirs, absent={"a": "needs a GPU"}, read="peers read copies")
    lines = comparison.report()
    cells = [[cell.strip() for cell in line.split("  ") if cell] for line in lines[2:6]]
    assert [[row[0], *row[3:]] for row in cells] == [
        ["ours", "300 [290..500]", "1.00"],
        ["simple", "150 [150..150]", "2.00"],
        ["fast", "200 [10..210]", "1.50"],
        ["slow", "100 [90..110]", "3.00"],
    ]
    assert lines[7:] == [
        "a did not run: needs a GPU",
        "peers read copies",
        "ours gives 300 clips/s, 1.50 times the 200 of fast, the fastest of 2 peers",
    ]
    found = json.loads(json.dumps(comparison.summary()))
    check_schema("bench_loader --vs", found)
    assert [one["num_clips"] for one in found["peers"]["slow"]["rounds"]] == [90, 100, 110]
    assert found["peers"]["fast"]["cores"] == {"median": 0.5, "min": 0.5, "max": 0.5}


def test_other_clips_than_ours_are_found_out() -> None:
    clips = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 5, 5)).astype(np.float32)
    check_same(clips, clips)
    check_same(clips, clips + 10)
    one_of_them = np.stack([clips[0], clips[1][:, ::-1]])
    with pytest.raises(BenchError, match=r"its clips are not ours \(PSNR \d\.\d dB, must be >= 25\)"):
        check_same(clips, one_of_them)
    with pytest.raises(BenchError, match=r"its clips are not ours \(shape \(1, 3, 4, 5, 5\)"):
        check_same(clips, clips[:1])


def test_warming_up_empties_the_queues_of_all_workers(numbered: ShardIndex, tmp_path: Path) -> None:
    config = replace(peer_config(numbered, tmp_path), num_workers=24)
    assert warmed("SPDL", config).warmup_batches == 49
    assert warmed("ours (DALI)", config).warmup_batches == 6  # 2 handed over, 2 in DALI, one in hand, one more


def cannot_open(config: PeerConfig) -> Generator[Tensor]:
    raise RuntimeError("no decoder\nand more")
    yield


def gives_other_clips(config: PeerConfig) -> Generator[Tensor]:
    while True:
        yield torch.zeros(config.settings.batch_size, 3, 8, 112, 112)


def ends_in_its_round(config: PeerConfig) -> Generator[Tensor]:
    yield from itertools.islice(our_loader(config, engine="simple"), 4)
    os._exit(9)


@pytest.mark.slow
def test_peers_that_cannot_be_opened_or_break_are_lines_and_the_others_go_on(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.peers_named.__globals__["DECODERS"], "gone", ("no-such-package",))
    peers = {
        "other": Peer(gives_other_clips, "PyAV"), "late": Peer(ends_in_its_round, "PyAV"),
        "gone": Peer(cannot_open, "gone"), **{name: PEERS[name] for name in ("DALI video", "PyAV threads")},
    }  # fmt: skip
    monkeypatch.setattr("res3d_video.tools.bench.measure.IDLE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(module, "peers_named", lambda names: peers)
    found = compare(peer_config(numbered, tmp_path, num_workers=1), names="all", quiet=True)
    assert found.absent.pop("other").startswith("its clips are not ours (PSNR ")
    assert found.absent == {
        "late": "its process ended with exit code 9",
        "gone": 'not installed; pip install "res3d-video[peers]"',
        "DALI video": "needs a GPU to decode H.264",
    }
    (ours, simple), (pyav,) = found.ours, found.peers
    assert (simple.name, simple.decoder.split()[0]) == ("ours (simple engine)", "simplejpeg")
    assert (ours.name, pyav.name, pyav.workers) == ("ours (DALI)", "PyAV threads", "1 threads")
    assert [one.num_clips for one in ours.rounds + pyav.rounds] == [16] * 4


def test_our_own_loader_must_not_fail(numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OURS, "ours (DALI)", Peer(cannot_open, "DALI"))
    with pytest.raises(BenchError, match=r"ours \(DALI\): RuntimeError: no decoder"):
        compare(peer_config(numbered, tmp_path), names="DALI video", quiet=True)
