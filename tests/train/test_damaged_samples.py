"""Damaged samples: counted over all ranks, each named once, and the same lines in the log after any stop."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch
from res3d_video.pipeline.reader import ReadWork
from res3d_video.train.checkpoint import load_checkpoint
from res3d_video.train.metrics import OutcomeQueue, Tally
from res3d_video.train.rank_times import Reading
from res3d_video.train.ranks import Ranks
from tests.chaos.training import is_same, results_in
from tests.clips import damaged_copy
from tests.schemas import check_schema
from tests.train.conftest import NARROW, Trainer, command_line, read_metrics, values_in
from tests.warm import run_warm

STEPS = 6


@pytest.fixture(scope="session")
def damaged(squares: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """The squares with a damaged sample on each side of the split."""
    index = squares
    for subset in ("train", "test"):
        row = int(index.samples_of("1", subset)[0])
        index = damaged_copy(index, tmp_path_factory.mktemp(subset) / "data", row, fix_checksum=False)
    return index


@pytest.mark.parametrize(
    "log_every", [pytest.param(2, marks=pytest.mark.long), 4, pytest.param(STEPS + 1, marks=pytest.mark.long)]
)
def test_the_log_of_a_run_killed_after_any_step_is_that_of_one_that_was_not(
    run_main: Trainer, damaged: ShardIndex, tmp_path: Path, log_every: int
) -> None:
    options = [*NARROW, "--steps", str(STEPS), "--eval-every", "3", "--log-every", str(log_every), "--keep-every", "1"]
    calm = tmp_path / "calm"
    run_main(calm, *options, data=damaged.data_dir)
    assert read_metrics(calm, "damaged")
    for step in range(1, STEPS):
        killed = tmp_path / f"killed{step}"
        killed.mkdir()
        shutil.copy(calm / "metrics.jsonl", killed)  # with lines of steps that come again
        shutil.copy(calm / f"step-{step}.pt", killed / "latest.pt")
        run_main(killed, *options, data=damaged.data_dir)
        assert results_in(killed) == results_in(calm), f"killed after step {step}"
        assert is_same(*(load_checkpoint(folder / "latest.pt") for folder in (killed, calm)))


def test_damage_is_named_in_the_log_and_at_the_end(run_main: Trainer, damaged: ShardIndex, tmp_path: Path) -> None:
    keys = [damaged.key(int(damaged.samples_of("1", subset)[0])) for subset in ("train", "test")]
    about = {"tar": damaged.tars[0], "reason": "a frame is missing or fails its crc32"}
    result = run_main(tmp_path, *NARROW, "--steps", "8", "--json", data=damaged.data_dir)
    printed = json.loads(result.stdout)
    check_schema("train", printed)
    assert printed["num_replaced"] == read_metrics(tmp_path, "train")[-1]["num_replaced"] > 1
    assert printed["damaged"] == [{"key": keys[0], **about}]
    assert printed["unreadable"] == [{"key": keys[1], **about}]
    (line,) = read_metrics(tmp_path, "damaged")
    check_schema("metrics.jsonl damaged", line)
    assert line == {"event": "damaged", "step": line["step"], "key": keys[0], **about}
    assert values_in(tmp_path, "unreadable", event="final") == [printed["unreadable"]]
    said = result.stderr.splitlines()
    where = f"{about['tar']} ({about['reason']}); tools/check_shards.py finds all damage"
    assert f"unreadable  1 samples, left out: {keys[1]} of {where}" in said
    assert f"damaged     1 samples, {printed['num_replaced']} clips replaced: {keys[0]} of {where}" in said


@pytest.mark.slow
def test_two_ranks_count_what_one_does(run_main: Trainer, damaged: ShardIndex, tmp_path: Path) -> None:
    options = [*NARROW, "--steps", "8", "--log-every", "4"]
    run_main(tmp_path / "one", *options, data=damaged.data_dir)
    done = run_warm(command_line(damaged, tmp_path / "two", *options), world_size=2)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("step", "num_replaced", "decode_waste"):
        assert values_in(tmp_path / "two", name) == values_in(tmp_path / "one", name)
    replaced = [one["num_replaced"] for one in values_in(tmp_path / "two", "ranks")]
    assert np.cumsum(np.sum(replaced, axis=1)).tolist() == values_in(tmp_path / "two", "num_replaced")
    assert read_metrics(tmp_path / "two", "damaged") == read_metrics(tmp_path / "one", "damaged")


FIRST, SECOND = Reading(10, 4.0, 1.0, 0.5, 3, 0, 0), Reading(10, 4.0, 0.0, 0.25, 1, 2, 3)


class TwoRanks(Ranks):
    """The second of two; the first one found a loss of 0.5 and decoded sixteen frames for eight."""

    first = (0.5, 0, 3, 1, 8, 16)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values + torch.tensor(self.first)

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.tensor([*self.first, *FIRST]), values])


def test_a_step_sums_over_ranks_and_keeps_their_readings_apart() -> None:
    rows, empty = np.array([4, 5]), torch.zeros(0)
    work = ReadWork(num_clips=2, num_frames=8, num_frames_decoded=8)
    batch = Batch(empty, empty, empty, rows, rows, rows, 0, 4, num_replaced=1, work=work)
    queue = OutcomeQueue(TwoRanks(rank=1, world_size=2))
    for reading in (None, SECOND):
        (found,) = queue.push(1, batch, loss=torch.tensor(3.0), losses=torch.zeros(2), stop=False, reading=reading)
        assert (found.loss, found.stop, found.num_replaced, found.num_damaged) == (2.0, False, 4, 1)
        assert (found.num_frames, found.num_frames_decoded) == (16, 24)
        if reading is None:
            assert found.readings is None
        else:
            assert np.array_equal(found.readings, [FIRST, SECOND])
    tally = Tally()
    tally.add(found)
    assert tally.take() == {"loss": 2.0, "num_replaced": 4, "decode_waste": 1.5}
