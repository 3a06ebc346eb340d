"""Every rank seen: where its time goes, who makes the others wait, and for what."""

import itertools
import socket
import statistics
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import res3d_video.train.rank_times as module
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.reader import ReadWork
from res3d_video.train.models import ModelConfig, build_model
from res3d_video.train.rank_times import RankClock, Reading, StragglerWatch, compare_ranks, line_of
from res3d_video.train.ranks import Ranks
from tests.clips import damaged_copy
from tests.schemas import check_schema
from tests.train.conftest import NARROW, command_line, read_metrics
from tests.warm import run_warm

NOTHING = Reading(0, 0, 0, 0, 0, 0, 0)


def batches(waits_s: list[float], *, clock: Any, **about: Any) -> Iterator[Any]:
    """Of a loader that lets a clock's owner wait."""
    for wait_s in waits_s:
        clock.now_s += wait_s
        yield SimpleNamespace(**{"num_replaced": 0, "work": ReadWork()} | about)


def small(ranks: Ranks) -> tuple[nn.Linear, torch.optim.SGD, RankClock]:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, RankClock(model, optimizer, ranks=ranks)


class HostTime:
    """Of a CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now_s)


def test_a_rank_knows_its_waits_for_clips_and_for_others_and_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    host = HostTime(monkeypatch)
    model, optimizer, clock = small(Ranks(rank=0, world_size=2))
    about = {"num_replaced": 2, "work": ReadWork(num_cache_hits=3, num_cache_misses=1)}
    source = batches([0.5, 0.25], clock=host, **about)
    for _ in range(2):
        clock.take(source)
        loss = model(torch.ones(1, 2)).sum()
        host.now_s += 1.0  # its own work
        loss.backward()
        host.now_s += 0.125  # the others are not there yet
        optimizer.step()
        host.now_s += 0.5
    with clock.pause():
        host.now_s += 50.0
    assert clock.read() == Reading(2, 4.0, 0.25, 0.75, 4, 6, 2)
    host.now_s += 1.0
    assert clock.read() == NOTHING._replace(wall_s=1.0)
    with pytest.raises(StopIteration):
        clock.take(source)


def test_a_rank_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    host = HostTime(monkeypatch)
    model, optimizer, clock = small(Ranks())
    model(torch.ones(1, 2)).sum().backward()
    host.now_s += 1.0
    optimizer.step()
    assert clock.read() == NOTHING._replace(wall_s=1.0)


@pytest.mark.parametrize(
    ("name", "shape"), [("res3d10", (8, 32, 32)), ("r2plus1d18", (8, 32, 32)), ("c3d", (16, 112, 112))]
)
def test_the_gradients_of_the_first_layer_are_the_last(name: str, shape: tuple[int, int, int]) -> None:
    model, order = build_model(ModelConfig(name=name, width=4), num_classes=2), []
    for key, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, key=key: order.append(key))
    model(torch.randn(2, 3, *shape)).sum().backward()
    first = next(iter(model.named_parameters()))[0]
    assert {key.rpartition(".")[0] for key in order[order.index(first) :]} == {first.rpartition(".")[0]}


class FakeEvent:
    """Of a GPU that has come to so many of its events; `now_s` is its clock."""

    now_s, recorded, reached = 0.0, 0, 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time_s, self.number = FakeEvent.now_s, FakeEvent.recorded
        FakeEvent.recorded += 1

    def query(self) -> bool:
        return self.number < FakeEvent.reached

    def elapsed_time(self, other: "FakeEvent") -> float:
        assert other.query(), "not known yet"
        return 1000 * (other.time_s - self.time_s)


def test_on_a_gpu_waits_are_the_streams_and_known_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    model, optimizer, clock = small(Ranks(world_size=2, device=torch.device("cuda")))
    source, found = batches([0.5, 0.0, 0.25, 0.0], clock=FakeEvent), []
    for behind in (2, 2, 0, 0):  # steps that the GPU is behind the host
        clock.take(source)
        model(torch.ones(1, 2)).sum().backward()
        FakeEvent.now_s += 0.125
        optimizer.step()
        FakeEvent.reached = max(0, FakeEvent.recorded - 4 * behind)  # events of a step
        read = clock.read()
        found.append((read.num_steps, read.data_wait_s, read.blocked_s))
    assert found == [(1, 0, 0), (1, 0, 0), (1, 0.75, 0.375), (1, 0, 0.125)]


def readings_of(own_s: list[float], wait_s: list[float] | None = None, *, num_steps: int = 10) -> np.ndarray:
    """Of ranks with these times for each of some steps; all steps take as long as the slowest rank's."""
    waits, wall_s = wait_s or [0.0] * len(own_s), max(own_s)
    each = [Reading(1, wall_s, wall_s - own, wait, 0, 0, 0) for own, wait in zip(own_s, waits, strict=True)]
    return num_steps * np.array(each)


def test_the_line_of_a_rank_alone_has_three_numbers_and_of_shards_behind_a_url_two_more() -> None:
    alone = np.array([Reading(4, 2.0, 0, 0.5, 3, 0, 0)])
    speed = {"clips_per_s": 20.0, "data_wait_s": 0.5, "data_wait": 0.25}
    assert line_of(alone, ["a"], global_batch_size=10) == speed
    alone[0, -2:] = 7, 1
    assert line_of(alone, ["a"], global_batch_size=10) == speed | {"num_cache_hits": 7, "num_cache_misses": 1}


def test_the_line_of_several_ranks_names_the_slowest_and_has_all() -> None:
    readings = np.array([Reading(10, 4.0, 3.0, 2.0, 0, 1, 0), Reading(10, 4.0, 0.5, 1.0, 3, 0, 2)])
    assert line_of(readings, ["a", "b"], global_batch_size=8) == {
        "clips_per_s": 20.0, "data_wait_s": 2.0, "data_wait": 0.5, "num_cache_hits": 1, "num_cache_misses": 2,
        "slowest": {"rank": 1, "host": "b", "own_step_s": 0.35, "data_wait": 0.25, "num_replaced": 3,
                    "num_cache_hits": 0, "num_cache_misses": 2},
        "ranks": {"own_step_s": [0.1, 0.35], "data_wait": [0.5, 0.25], "num_replaced": [0, 3],
                  "num_cache_hits": [1, 0], "num_cache_misses": [0, 2]},
    }  # fmt: skip


def spaces() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All [rank, step] arrays of two to four ranks and one or two steps with a few values, own time and wait in it."""
    steps = [(own, wait) for own in (2, 3, 5) for wait in (0, 1, 2) if wait <= own]
    for ranks, count, values in ((2, 1, steps), (3, 1, steps), (4, 1, steps[1:7:2] + steps[8:]), (2, 2, steps[::2])):
        for flat in itertools.product(values, repeat=ranks * count):
            pairs = np.array(flat, float).reshape(ranks, count, 2)
            yield pairs[..., 0], pairs[..., 1]


def test_ranks_are_compared_with_the_median_of_the_others_in_all_small_spaces() -> None:
    seen = set()
    for own_s, wait_s in spaces():
        over, is_data = compare_ranks(own_s, wait_s)
        own, wait = [sum(row) for row in own_s.tolist()], [sum(row) for row in wait_s.tolist()]
        for rank in range(len(own)):
            others = statistics.median(own[:rank] + own[rank + 1 :])
            others_wait = statistics.median(wait[:rank] + wait[rank + 1 :])
            assert over[rank] == pytest.approx(own[rank] / others - 1, abs=1e-12)
            assert is_data[rank] == (2 * (wait[rank] - others_wait) > own[rank] - others)
        slow = over > module.STRAGGLES
        assert not slow.all()  # somebody is made to wait
        assert not slow[np.argmin(own)]
        seen.add((len(own), int(slow.sum()), bool(is_data[slow].any()), bool((~is_data[slow]).any())))
        back = compare_ranks(own_s[::-1], wait_s[::-1])  # which rank it is does not matter
        assert np.allclose(back[0][::-1], over)
        assert np.array_equal(back[1][::-1], is_data)
        doubled = compare_ranks(2 * own_s, 2 * wait_s)  # nor the unit
        assert np.allclose(doubled[0], over)
    assert {(2, 1, True, False), (2, 1, False, True), (4, 2, True, True), (4, 0, False, False)} <= seen


def test_ranks_that_took_no_time_are_nobodys_measure() -> None:
    assert compare_ranks(np.array([[0.0], [0.0], [1.0]]), np.zeros((3, 1)))[0].tolist() == [-1, -1, 0]


def said(watch: StragglerWatch, lines: list[np.ndarray]) -> list[list[tuple[int, str]]]:
    return [[(one.rank, one.waits_for) for one in watch.add(line)] for line in lines]


def test_a_straggler_is_said_once_until_it_has_recovered() -> None:
    watch = StragglerWatch(["a", "a", "b", "b"])
    even, slow, near = readings_of([1, 1, 1, 1]), readings_of([1, 1, 1.3, 1]), readings_of([1, 1, 1.15, 1])
    start = readings_of([1, 9, 1, 1])
    assert said(watch, [start, *[even] * 4]) == [[]] * 5  # 40 steps, for the first line does not count
    assert said(watch, [slow] * 4) == [[]] * 3 + [[(2, "compute")]]  # 1.24 over the last 50 steps; before, 1.18
    assert said(watch, [slow] * 3 + [near] * 20 + [slow] * 5) == [[]] * 28  # 1.15: neither slow nor recovered
    assert said(watch, [even] * 5 + [slow] * 5) == [[]] * 8 + [[(2, "compute")], []]


def test_the_window_is_the_fewest_lines_of_fifty_steps() -> None:
    for num_steps, num_lines in ((1, 50), (7, 8), (10, 5), (50, 1), (200, 1)):
        watch = StragglerWatch(["a", "a"])
        even, slow = (readings_of([1, own], num_steps=num_steps) for own in (1, 1.5))
        lines = [slow, *[even] * num_lines, *[slow] * num_lines]
        number = next(i for i, found in enumerate(said(watch, lines)) if found)
        assert number == next(n for n in range(num_lines + 1) if 0.5 * n / num_lines > 0.2) + num_lines


SLOWED = """
import os, runpy, sys, time
from res3d_video.pipeline.prefetch import Prefetcher
from res3d_video.train import step

def slowed(function):
    def sleep_first(*args, **kwargs):
        time.sleep(0.15)
        return function(*args, **kwargs)
    return sleep_first

rank, damaged = os.environ["RANK"], sys.argv.pop(1)
if rank == "1":
    Prefetcher.take = slowed(Prefetcher.take)
if rank == "2":
    sys.argv += ["--data", damaged]
if rank == "3":
    step.losses_of = slowed(step.losses_of)
runpy.run_path("train/main.py", run_name="__main__")
"""


@pytest.mark.slow
def test_of_four_ranks_two_that_are_slow_and_one_with_a_damaged_shard_are_named(
    squares: ShardIndex, tmp_path: Path
) -> None:
    script, out, row = tmp_path / "slowed.py", tmp_path / "run", int(squares.samples_of("1", "train")[0])
    script.write_text(SLOWED)
    damaged = damaged_copy(squares, tmp_path / "damaged", row, fix_checksum=False)
    options = [*NARROW, "--batch-size", "4", "--steps", "60", "--log-every", "10"]
    python, _, *words = command_line(squares, out, *options)
    done = run_warm([python, str(script), str(damaged.data_dir), *words], world_size=4)
    assert (done.returncode, done.stderr) == (0, "")
    host = socket.gethostname()
    lines, events = read_metrics(out, "train"), read_metrics(out, "straggler")
    check_schema("metrics.jsonl train", lines)
    check_schema("metrics.jsonl straggler", events)
    assert sorted((one["rank"], one["host"], one["waits_for"]) for one in events) == [
        (1, host, "data"), (3, host, "compute"),
    ]  # fmt: skip
    for rank, what in ((1, "data"), (3, "compute")):
        assert done.stdout.count(f"warning: rank {rank} on {host} makes the others wait for its {what}: ") == 1
    assert {one["slowest"]["rank"] for one in lines[1:]} <= {1, 3}
    assert {one["slowest"]["host"] for one in lines} == {host}
    replaced = np.array([one["ranks"]["num_replaced"] for one in lines])
    assert replaced[:, [0, 1, 3]].sum() == 0
    assert replaced[:, 2].sum() == lines[-1]["num_replaced"] > 0
    assert [one["key"] for one in read_metrics(out, "damaged")] == [squares.key(row)]
    own_s, waits = (np.array([one["ranks"][name] for one in lines[1:]]) for name in ("own_step_s", "data_wait"))
    assert (own_s[:, [1, 3]].min(axis=1) >= 0.15).all()
    assert (waits.argmax(axis=1) == 1).all()
