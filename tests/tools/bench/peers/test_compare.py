"""Peers are checked, tuned and measured in turns; one that fails is a line, never the end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.clip import ClipSpec
from pipeline.loader import LoaderSettings
from pipeline.reference import decode_sample
from pipeline.shard import ShardIndex
from pipeline.step_reader import ReadWork
from tests.numbered import write_video
from tools.bench.measure import BenchError, Measurement, Memory, Order, Spread
from tools.bench.peers import compare as module
from tools.bench.peers.compare import COST_STEPS, Comparison, Lane, compare, fastest, one_line, warmed, worst_psnr
from tools.bench.peers.contest import Contest, our_cost
from tools.bench.peers.copies import copy_path
from tools.bench.peers.table import PEERS, Peer

pytest.importorskip("psutil", reason="the benchmarks need psutil")

ORDER = Order(num_batches=2, seconds=None, warmup_batches=1)


def contest_of(index: ShardIndex, copies: Path) -> Contest:
    return Contest(
        data_dir=index.data_dir,
        samples=np.arange(index.num_samples),
        spec=ClipSpec(),
        batch_size=4,
        seed=0,
        device="cpu",
        loader=LoaderSettings(num_threads=1),
        copies=copies,
        num_workers=1,
    )


def lane(name: str, *rates: float, cost: ReadWork | None = None) -> Lane:
    """A lane whose turns of one second had these rates, on half a core."""
    memory = (Memory(0, 0, 5_000_000), Memory(1, 0, 7_000_000))
    turns = [Measurement(num_clips=int(rate), wall_s=1.0, cpu_s=0.5, memory=memory) for rate in rates]
    return Lane(name, "2 threads", "as it is", cost, turns)


@pytest.fixture
def comparison() -> Comparison:
    """Ours at 300 clips/s, one peer at 100 and one at 200, one that is missing."""
    return Comparison(
        lane("filmstrips", 290, 300, 500, cost=ReadWork(10, 80, 20, 80, 1_000_000)),
        [lane("slow", 90, 100, 110, cost=ReadWork(10, 80, 160, 160, 50_000)), lane("fast", 10, 200, 210)],
        absent={"gone": "it is not installed; install it"},
        trials={"fast": {2: Spread(150, 140, 160), 3: Spread(190, 180, 200)}},
        psnr={"fast": 31.26},
        read="peers read copies",
    )


def test_the_ratio_is_that_of_the_medians_over_the_fastest_peer(comparison: Comparison) -> None:
    assert comparison.ratio == 1.5
    assert comparison.fastest is comparison.peers[1]
    assert comparison.lanes == {
        "slow": Spread(100, 90, 110),
        "fast": Spread(200, 10, 210),
        "gone": "it is not installed; install it",
    }


def test_the_sentence_names_the_fastest_peer_and_those_without_a_number(comparison: Comparison) -> None:
    assert comparison.sentence() == (
        "our loader takes 300 clips/s out of filmstrips, 1.50 times the 200 of fast, the fastest of 2 peers; "
        "gone did not run: it is not installed; install it"
    )
    assert Comparison(comparison.ours).sentence() == "our loader takes 300 clips/s out of filmstrips"
    assert Comparison(comparison.ours).ratio is None


def test_the_table_goes_from_the_fastest_peer_to_the_missing_one(comparison: Comparison) -> None:
    assert comparison.rows() == [
        ["filmstrips", "2 threads", "300 [290..500]", "", "0.50", "1.00", "30.0", "7"],
        ["fast", "2 threads", "200 [10..210]", "1.50", "0.50", "–", "–", "7"],
        ["slow", "2 threads", "100 [90..110]", "3.00", "0.50", "2.00", "0.5", "7"],
        ["gone", "did not run", "–", "–", "–", "–", "–", "–"],
    ]
    page = comparison.markdown()
    assert page[0] == "| | workers | clips/s | ours to it | cores | decoded/used | MB/s | own MB |"
    assert page[2] == "| filmstrips | 2 threads | 300 [290..500] | | 0.50 | 1.00 | 30.0 | 7 |"
    for said in (
        "gone did not run: it is not installed; install it",
        "fast: as it is",
        "trials of fast: 2 workers 150 [140..160] clips/s, 3 workers 190 [180..200] clips/s",
        "the same frames and crops as ours, lowest PSNR of the first batch: fast 31.3 dB",
        "peers read copies",
    ):
        assert f"- {said}" in page
        assert said in comparison.table()


def test_the_summary_is_json_with_every_turn(comparison: Comparison) -> None:
    found = json.loads(json.dumps(comparison.summary()))
    assert [turn["clips_per_s"] for turn in found["peers"]["slow"]["turns"]] == [90, 100, 110]
    assert found["ours"]["bytes_per_clip"] == 100_000
    assert found["peers"]["fast"]["decoded_to_used"] is None
    assert (found["fastest_peer"], found["ratio"]) == ("fast", 1.5)
    assert found["did_not_run"] == comparison.absent
    assert found["read"] == "peers read copies"
    assert found["trials"]["fast"]["3"] == {"median": 190, "min": 180, "max": 200}


def test_the_fastest_number_of_workers_is_taken() -> None:
    assert fastest({2: Spread(150, 140, 999), 3: Spread(190, 10, 200)}) == 3


def test_warming_up_empties_the_queues_of_all_workers() -> None:
    assert [warmed(ORDER, workers).warmup_batches for workers in (1, 24)] == [3, 49]
    assert warmed(replace(ORDER, warmup_batches=8), 2).warmup_batches == 8


def test_an_error_becomes_one_line() -> None:
    assert one_line(BenchError("no copy; make it")) == "no copy; make it"
    assert one_line(RuntimeError("\nfirst\nsecond")) == "RuntimeError: first"
    assert one_line(ValueError()) == "ValueError: no message"


def test_copies_of_other_pictures_are_found_out(numbered: ShardIndex, tmp_path: Path) -> None:
    for sample in range(numbered.num_samples):
        negative = 255 - decode_sample(numbered, sample)
        path = copy_path(tmp_path, numbered, sample)
        write_video(path, negative, fps=25, vcodec="libx264", preset="ultrafast", bf=0, pix_fmt="yuv420p")
    contest = contest_of(numbered, tmp_path)
    assert worst_psnr(PEERS["PyAV threads"], contest) < 15
    found = compare(contest, numbered, ORDER, names="PyAV threads", repeats=1, cores=None, quiet=True)
    assert found.peers == []
    assert found.absent["PyAV threads"].startswith("its clips are not ours (PSNR ")
    assert found.ours.clips_per_s.median > 0


@contextmanager
def breaks_later(contest: Contest) -> Iterator[Iterator[Tensor]]:
    """A peer that delivers through its trials and breaks in its turns, for they are of a process that lives longer."""

    def batches() -> Iterator[Tensor]:
        marks = contest.copies / "opened"
        opened = len(marks.read_text()) if marks.is_file() else 0
        marks.write_text("x" * (opened + 1))
        while opened < 1:  # the trial's process
            yield torch.zeros(contest.batch_size, 3, 8, 112, 112)
        raise RuntimeError("the disk is full\nand more")

    yield batches()


@pytest.mark.long
def test_peers_that_cannot_be_opened_or_break_are_lines_and_the_others_go_on(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [
        Peer("broken", nullcontext, None, None, "threads", "not at all"),  # a Contest is no iterator
        Peer("late", breaks_later, None, None, "threads", "not at all"),
        Peer("unreadable", nullcontext, lambda *_: torch.zeros(()).reshape(3), None, "threads", "not at all"),
    ]
    wanted = [*broken, PEERS["PyAV threads"], PEERS["DALI video"]]
    monkeypatch.setattr(module, "peers_named", lambda names: wanted)
    monkeypatch.setattr(module, "worker_choices", lambda num_cpus: (2,))
    contest = contest_of(numbered, tmp_path / "copies")
    found = compare(contest, numbered, ORDER, names="all", repeats=3, cores=None, quiet=True)
    assert found.absent["broken"] == "TypeError: 'Contest' object is not an iterator"
    assert found.absent["late"] == "RuntimeError: the disk is full"
    assert found.absent["unreadable"].startswith("RuntimeError: shape '[3]' is invalid")
    assert found.absent["DALI video"].startswith("decodes H.264 on a GPU only")
    assert [peer.name for peer in found.peers] == ["PyAV threads"]
    assert list(found.trials["PyAV threads"]) == [2]
    assert found.peers[0].setting == "2 threads"
    for ran in (found.ours, found.peers[0]):
        assert [turn.num_clips for turn in ran.turns] == [8, 8, 8]
    assert found.psnr["PyAV threads"] > 25


def test_our_lane_and_the_verdict_are_named_after_the_codec(numbered_h264: ShardIndex, tmp_path: Path) -> None:
    contest = contest_of(numbered_h264, tmp_path)
    found = compare(contest, numbered_h264, ORDER, names="DALI video", repeats=1, cores=None, quiet=True)
    assert found.ours.name == "h264"
    assert f"our loader takes {found.ours.clips_per_s.median:.0f} clips/s out of h264; " in found.sentence()
    assert found.rows()[0][5] == f"{our_cost(contest, range(COST_STEPS)).decoded_to_used:.2f}"
    assert "the mp4 files in the tars (GOP 8, CRF 20, no B-frames)" in found.notes()[-1]


def test_a_name_that_is_no_peers_ends_the_comparison_at_once(numbered: ShardIndex, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="peer 'gluon' does not exist; choose all, or with commas"):
        compare(contest_of(numbered, tmp_path), numbered, ORDER, names="gluon", repeats=1, cores=None, quiet=True)
    assert list(tmp_path.iterdir()) == []
