"""Memory that is lent out is kept exactly until the borrower's stream is done with it."""

import gc
import weakref
from dataclasses import dataclass, field

import pytest

from pipeline.loader import BATCHES_IN_HAND, MAX_RETIRING, Lender


class Owner:
    """Something whose end can be seen."""


@dataclass
class FakeEvent:
    time: int
    clock: "FakeStream"

    def query(self) -> bool:
        return self.time <= self.clock.done

    def synchronize(self) -> None:
        self.clock.waited.append(self.time)
        self.clock.done = max(self.clock.done, self.time)


@dataclass
class FakeStream:
    """Work is numbered in the order in which it is queued; the test says how far the GPU has come."""

    queued: int = 0
    done: int = 0
    waited: list[int] = field(default_factory=list)

    def record_event(self) -> FakeEvent:
        return FakeEvent(self.queued, self)


def lend_one(lender: Lender, stream: FakeStream) -> weakref.ref:
    owner = Owner()
    lender.lend(owner, stream)
    stream.queued += 1  # the step that reads it
    return weakref.ref(owner)


def alive(owners: list[weakref.ref]) -> list[int]:
    gc.collect()
    return [number for number, owner in enumerate(owners) if owner() is not None]


def test_an_owner_lives_while_its_batch_is_in_hand_however_fast_the_gpu_is() -> None:
    lender, stream, owners = Lender(), FakeStream(), []
    for number in range(6):
        stream.done = stream.queued
        owners.append(lend_one(lender, stream))
        assert alive(owners) == list(range(max(0, number + 1 - BATCHES_IN_HAND), number + 1))


def test_an_owner_lives_until_the_kernels_that_read_it_are_done() -> None:
    lender, stream = Lender(), FakeStream()
    owners = [lend_one(lender, stream) for _ in range(5)]
    assert alive(owners) == [0, 1, 2, 3, 4], "the GPU has done nothing yet"
    # Batch 0 was let go when batch 2 was taken: two steps were queued then, and a batch in hand may be in both.
    stream.done = 1
    owners.append(lend_one(lender, stream))
    assert 0 in alive(owners)
    stream.done = 2
    owners.append(lend_one(lender, stream))
    assert alive(owners) == [1, 2, 3, 4, 5, 6]
    assert not stream.waited


@pytest.mark.parametrize("num_steps", [5, 50])
def test_a_host_that_runs_far_ahead_waits_so_that_memory_is_bounded(num_steps: int) -> None:
    lender, stream = Lender(), FakeStream()
    for _ in range(num_steps):
        lend_one(lender, stream)
        assert len(lender) <= BATCHES_IN_HAND + MAX_RETIRING
    assert bool(stream.waited) == (num_steps > BATCHES_IN_HAND + MAX_RETIRING)
