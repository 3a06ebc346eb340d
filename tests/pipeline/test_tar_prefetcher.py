"""Tars of coming steps are fetched in the order of the plan, once, and no further ahead than there is room."""

import itertools
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import res3d_video.pipeline.remote
from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.pipeline.remote import RemoteSettings, TarPrefetcher
from res3d_video.pipeline.remote_store import RemoteError
from tests.until import until


class Tars:
    """Stands for a server: remembers what was asked for."""

    cache, disk_bytes = Path("cache"), 10**9

    def __init__(self, gone: bool = False) -> None:
        self.asked, self.gone, self.shards = [], gone, [{"num_bytes": 10}] * 3

    def room(self) -> int:
        return self.settings.limit_bytes or self.disk_bytes

    def ensure(self, number: int, *, stop: threading.Event) -> None:
        self.asked.append(number)
        if self.gone:
            raise RemoteError("gone")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the order is that of one thread."""
    monkeypatch.setattr(res3d_video.pipeline.remote, "NUM_FETCHERS", 1)


def ahead(tars: Tars, index: ShardIndex, *, steps: int, limit: int | None = None, plan: object = None) -> TarPrefetcher:
    tars.settings = RemoteSettings(limit_bytes=limit, fetch_ahead=steps)
    return TarPrefetcher(tars, plan or train_plan(index), rows=slice(0, 2))


def train_plan(index: ShardIndex) -> TrainPlan:
    samples = index.samples_of("1", "train")
    return TrainPlan(index, samples, ClipSpec(4, 2), global_batch_size=2, seed=0, shuffle_window=1)


def tars_in_order(index: ShardIndex, first: int, count: int) -> list[int]:
    """The tars of some steps of that plan, each when it is needed first."""
    plan = train_plan(index)
    tars = [index.tar_of(plan.batch(step).sample).tolist() for step in range(first, first + count)]
    return list(dict.fromkeys(itertools.chain.from_iterable(tars)))


@pytest.mark.parametrize("gone", [False, True])
def test_tars_come_in_the_order_of_the_plan_each_once_and_a_server_that_is_gone_does_not_end_the_threads(
    numbered: ShardIndex, gone: bool
) -> None:
    order = tars_in_order(numbered, 0, 6)
    assert len(order) == 3
    tars = Tars(gone)
    filler = ahead(tars, numbered, steps=5)
    filler.start(0)
    until(lambda: len(tars.asked) == 3)
    assert all(thread.is_alive() for thread in filler._threads)
    filler.end()
    assert tars.asked == order
    assert not filler._threads


def test_no_more_steps_ahead_than_asked_for_until_the_reader_moves(numbered: ShardIndex) -> None:
    per_step = [tars_in_order(numbered, step, 1) for step in range(5)]
    tars = Tars()
    filler = ahead(tars, numbered, steps=1)
    filler.start(0)
    first = list(dict.fromkeys(per_step[0] + per_step[1]))
    until(lambda: tars.asked == first)
    assert filler._queue.empty()
    filler.move(3)
    until(lambda: set(per_step[3] + per_step[4]) <= set(tars.asked))
    filler.end()


@pytest.mark.parametrize(
    ("limit", "disk_bytes", "num_processes", "num_fetched"),
    [(30, 10**9, 1, 1), (None, 30, 1, 1), (60, 10**9, 1, 3), (60, 10**9, 2, 1)],
)
def test_what_lies_ahead_takes_half_of_cache_or_disk_at_most_which_the_processes_of_a_machine_share(
    numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch,
    limit: int | None, disk_bytes: int, num_processes: int, num_fetched: int,
) -> None:  # fmt: skip
    """Of tars of 10 bytes."""
    monkeypatch.setattr(Tars, "disk_bytes", disk_bytes)
    tars = Tars()
    filler = ahead(tars, numbered, steps=100, limit=limit)
    tars.settings = replace(tars.settings, num_processes=num_processes)
    filler.start(0)
    until(lambda: len(tars.asked) == num_fetched)
    assert filler._queue.empty()
    assert tars.asked == tars_in_order(numbered, 0, 100)[:num_fetched]
    filler.end()


def test_looking_ahead_over_many_epochs_leaves_the_orders_of_the_readers_plan(numbered: ShardIndex) -> None:
    plan = TrainPlan(numbered, np.arange(2), ClipSpec(4, 2), global_batch_size=2, seed=0)
    plan.batch(0)
    before = dict(plan._orders)
    filler = ahead(Tars(), numbered, steps=9, plan=plan)
    filler.start(0)
    filler.end()
    assert plan._orders == before
