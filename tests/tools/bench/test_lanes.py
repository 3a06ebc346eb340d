"""tools/bench/lanes.py: what each lane does; nobody's time or clips are counted as another's."""

import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch, ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.pipeline.reader import ReadWork
from res3d_video.tools.bench import measure
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC, Lanes
from res3d_video.tools.bench.measure import Order
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepLoss
from tests.tools.bench.made import Clock


class FakeLoader:
    """Gives batches of two clips, each after three seconds of the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.settings, self.work, self.data_wait_s = clock, LoaderSettings(), ReadWork(), 0.0

    def __iter__(self) -> Iterator[Batch]:
        two = np.zeros(2, np.int64)
        for step in itertools.count():
            self.clock.now_s += 3.0
            self.data_wait_s += 3.0
            self.work += ReadWork(2, 16, 4, 16, 1000)
            yield Batch(torch.zeros(2, 3, 4, 8, 8), torch.zeros(2), torch.ones(2), two, two, two, step, 2)


class FakeStep:
    """Takes a second, and remembers what it was given."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.clips = clock, []

    def __call__(self, clips: torch.Tensor, labels: torch.Tensor, *_: object, **__: object) -> StepLoss:
        self.clock.now_s += 1.0
        self.clips.append(clips.clone())
        return StepLoss(torch.tensor(0.5), torch.full((len(labels),), 0.5))

    def on_stream(self) -> object:
        return nullcontext()


def test_time_and_clips_of_each_lane_are_counted_without_warming_up_and_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loader three times slower than the step; lanes that read warm up for six batches, the synthetic one for two."""
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    lanes = Lanes(lambda: FakeLoader(clock), FakeStep(clock), ranks=Ranks())  # type: ignore[arg-type, return-value]
    order = (REAL, SYNTHETIC, LOADER)
    real, synthetic, alone = rounds = [lanes.measure(lane, Order(num_batches=4, seconds=None)) for lane in order]
    assert [one.wall_s for one in rounds] == pytest.approx([16.0, 4.0, 12.0])
    assert [one.data_wait_s for one in rounds] == [12.0, 0.0, 12.0]
    assert [one.plan_steps for one in rounds] == [(6, 10), None, (19, 23)]
    assert (real.work, synthetic.work) == (ReadWork(8, 64, 16, 64, 4000), ReadWork())
    assert (real.work, real.num_clips) == (alone.work, 8)
    assert [one.total_clips for one in rounds] == [20, 32, 52]
    some_seconds = lanes.measure(SYNTHETIC, Order(num_batches=None, seconds=2.5), repeat=3)
    assert (some_seconds.num_batches, some_seconds.repeat) == (3, 3)


def test_the_real_step_trains_on_the_plans_clips_and_the_synthetic_one_on_the_first_again(numbered: ShardIndex) -> None:
    plan = TrainPlan(numbered, np.arange(numbered.num_samples), ClipSpec(4, 2, 56), global_batch_size=3, seed=0)
    step = FakeStep(Clock())
    lanes = Lanes(partial(ClipLoader, numbered, plan), step, ranks=Ranks())  # type: ignore[arg-type]
    rounds = [lanes.measure(lane, Order(2, None)) for lane in (SYNTHETIC, REAL, LOADER, REAL)]
    lanes.close()
    assert [one.plan_steps for one in rounds] == [None, (9, 11), (17, 19), (25, 27)]
    with ClipLoader(numbered, plan) as again:
        planned = {batch.step: batch.clips.clone() for batch in itertools.islice(again, 27)}
    for clips, number in zip(step.clips, (0, 1, 2, 0, *range(3, 11), *range(19, 27)), strict=True):
        assert torch.equal(clips, planned[number])
