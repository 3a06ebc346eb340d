"""tools/bench/lanes.py: what each lane does, and that nobody's time or clips are counted as another's."""

import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch, ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.pipeline.reader import ReadWork
from res3d_video.tools.bench import lanes as bench_lanes
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC, Lanes
from res3d_video.tools.bench.measure import Order
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepLoss

ORDER = Order(num_batches=4, seconds=None, warmup_batches=6)


def ready_batch(step: int) -> Batch:
    """A loader's batch of two clips whose pixels are its step's number."""
    no_numbers = np.zeros(2, np.int64)
    clips = torch.full((2, 3, 4, 8, 8), float(step)).to(memory_format=torch.channels_last_3d)
    return Batch(
        clips, torch.zeros(2, dtype=torch.int64), torch.ones(2), np.full(2, 7), no_numbers, no_numbers, step, 2
    )


class Clock:
    """Seconds that only pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class FakeLoader:
    """Gives one batch after another, each after `seconds` of the clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds, self.step = clock, seconds, 0
        self.settings, self.work, self.data_wait_s = LoaderSettings(), ReadWork(), 0.0
        self.closed = False

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.clock.now += self.seconds
            self.data_wait_s += self.seconds
            self.work += ReadWork(2, 16, 4, 16, 1000)
            self.step += 1
            yield ready_batch(self.step - 1)

    def state_dict(self) -> dict:
        return {"step": self.step}

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]

    def close(self) -> None:
        self.closed = True


class FakeStep:
    """Takes a second, and remembers what it was given."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.clips = clock, []

    def __call__(self, clips: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, **_: float) -> StepLoss:
        self.clock.now += 1.0
        self.clips.append(clips)
        return StepLoss(torch.tensor(0.5), torch.full((2,), 0.5))

    def on_stream(self) -> object:
        return nullcontext()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(bench_lanes, "time", clock)
    return clock


def lanes_of(clock: Clock, *, loader_s: float) -> tuple[Lanes, FakeStep]:
    step = FakeStep(clock)
    return Lanes(lambda: FakeLoader(clock, loader_s), step, ranks=Ranks()), step  # type: ignore[arg-type, return-value]


def test_a_loader_three_times_slower_than_the_step_shows_as_such(clock: Clock) -> None:
    lanes, _ = lanes_of(clock, loader_s=3.0)
    alone, synthetic, real = (lanes.take_turn(lane, ORDER, repeat=0) for lane in (LOADER, SYNTHETIC, REAL))
    assert [turn.wall_s for turn in (alone, synthetic, real)] == [12.0, 4.0, 16.0]
    assert [turn.clips_per_s for turn in (alone, synthetic, real)] == [8 / 12, 2.0, 0.5]
    assert [turn.data_wait for turn in (alone, synthetic, real)] == [1.0, 0.0, 0.75]
    assert real.ms_per_step == 4000.0


def test_a_turn_counts_neither_warming_up_nor_the_other_lanes_clips(clock: Clock) -> None:
    lanes, _ = lanes_of(clock, loader_s=0.5)
    turns = [lanes.take_turn(lane, ORDER, repeat=0) for lane in (REAL, SYNTHETIC, LOADER)]
    assert [turn.plan_steps for turn in turns] == [(6, 10), None, (19, 23)]
    assert [turn.work for turn in turns] == [ReadWork(8, 64, 16, 64, 4000), ReadWork(), ReadWork(8, 64, 16, 64, 4000)]
    assert [turn.num_clips for turn in turns] == [8, 8, 8]
    assert lanes.num_clips == 2 * (10 + 6 + 10)  # the synthetic step warms up for two
    assert [(turn.memory[0].done, turn.memory[1].done) for turn in turns] == [(12, 20), (24, 32), (44, 52)]


def test_the_synthetic_step_repeats_the_loaders_first_batches_and_the_real_one_goes_on(clock: Clock) -> None:
    lanes, step = lanes_of(clock, loader_s=0.0)
    for _ in range(4):
        lanes.synthetic_step()
    assert [clips[0, 0, 0, 0, 0].item() for clips in step.clips] == [0, 1, 2, 0]
    assert step.clips[0] is step.clips[3]
    assert step.clips[0].is_contiguous(memory_format=torch.channels_last_3d)
    lanes.real_step()
    assert step.clips[-1][0, 0, 0, 0, 0].item() == 3
    taken = lanes.loader.work.num_clips
    lanes.synthetic_step()
    assert lanes.loader.work.num_clips == taken == 8


def test_a_turn_in_seconds_ends_with_the_first_step_beyond(clock: Clock) -> None:
    lanes, _ = lanes_of(clock, loader_s=0.0)
    turn = lanes.take_turn(SYNTHETIC, Order(num_batches=None, seconds=2.5, warmup_batches=1), repeat=3)
    assert (turn.num_steps, turn.wall_s, turn.repeat) == (3, 3.0, 3)


def test_warming_up_takes_more_batches_than_can_wait_ready(clock: Clock) -> None:
    lanes, _ = lanes_of(clock, loader_s=0.0)
    settings = lanes.loader.settings
    assert lanes.warmup_batches > settings.prefetch + settings.queue_depth + 1


def test_a_loader_opened_again_goes_on_where_the_old_one_was(clock: Clock) -> None:
    lanes, _ = lanes_of(clock, loader_s=0.0)
    before = lanes.loader
    for _ in range(5):
        lanes.take_batch()
    lanes.reopen_loader()
    assert before.closed
    assert lanes.loader is not before
    assert lanes.take_turn(LOADER, ORDER, repeat=0).plan_steps == (11, 15)


def test_without_a_step_there_is_only_the_loader(clock: Clock) -> None:
    lanes = Lanes(lambda: FakeLoader(clock, 1.0), None, ranks=Ranks())  # type: ignore[arg-type, return-value]
    assert list(lanes.run) == [LOADER]
    assert lanes.take_turn(LOADER, ORDER, repeat=0).wall_s == 4.0


def test_a_gpus_readings_are_those_of_the_turn(clock: Clock) -> None:
    lanes, _ = lanes_of(clock, loader_s=0.0)
    watch = nullcontext([{"sm": 80.0, "memory_used": 5}])
    lanes._meter = SimpleNamespace(watch=lambda: watch)  # type: ignore[assignment]
    turn = lanes.take_turn(LOADER, ORDER, repeat=0)
    assert turn.gpu is not None
    assert (turn.gpu.sm, turn.gpu.jpeg, turn.gpu.memory_used) == (80.0, None, 5)


def test_the_real_step_trains_on_the_plans_clips_pixel_for_pixel(numbered: ShardIndex) -> None:
    plan = TrainPlan(numbered, np.arange(numbered.num_samples), ClipSpec(4, 2, 56), global_batch_size=3, seed=0)
    trained = []

    def remember(clips: torch.Tensor, *_: object, **__: object) -> StepLoss:
        trained.append(clips.clone())
        return StepLoss(torch.tensor(0.5), torch.full((3,), 0.5))

    remember.on_stream = nullcontext  # type: ignore[attr-defined]
    lanes = Lanes(partial(ClipLoader, numbered, plan), remember, ranks=Ranks())  # type: ignore[arg-type]
    turns = [lanes.take_turn(lane, Order(2, None, 1), repeat=0) for lane in (REAL, LOADER, REAL)]
    lanes.close()
    assert [turn.plan_steps for turn in turns] == [(1, 3), (4, 6), (7, 9)]
    with ClipLoader(numbered, plan) as again:
        wanted = {batch.step: batch.clips.clone() for batch in itertools.islice(again, 9)}
    assert len(trained) == 6
    for clips, number in zip(trained, (0, 1, 2, 6, 7, 8), strict=True):
        assert torch.equal(clips, wanted[number])
