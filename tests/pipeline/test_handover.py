"""Buffers on a GPU are never written while a step may still read them, however far the GPU is behind the host."""

import queue
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import MagicMock, call

import pytest
import torch
from nvidia.dali import Pipeline
from torch import Tensor

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.prefetch import Ring, Slot
from tests.clips import take, train_plan


@dataclass
class FakeEvent:
    """Recorded on a stream: it has passed when all that was queued there before is done."""

    stream: "FakeStream"
    position: int

    @property
    def has_passed(self) -> bool:
        return self.stream.done >= self.position

    def synchronize(self) -> None:
        self.stream.run(until=self.position)
        assert self.has_passed, "the host waits for ever"


@dataclass
class FakeStream:
    """Work that is done in the order in which it was queued, when the test lets the GPU go on."""

    work: deque[Any] = field(default_factory=deque)  # functions to call, or events to wait for
    queued: int = 0
    done: int = 0

    def queue(self, work: Any) -> None:
        self.work.append(work)
        self.queued += 1

    def record_event(self) -> FakeEvent:
        return FakeEvent(self, self.queued)

    def wait_event(self, event: FakeEvent) -> None:
        self.queue(event)

    def run(self, *, until: int | None = None) -> None:
        """Do what can be done, up to a position."""
        while self.work and (until is None or self.done < until):
            if isinstance(self.work[0], FakeEvent) and not self.work[0].has_passed:
                return
            work = self.work.popleft()
            self.done += 1
            if not isinstance(work, FakeEvent):
                work()


def run_steps(num_slots: int, *, behind: int, num_steps: int = 12, waits: bool = True) -> list[tuple[int, int]]:
    """Batches through a ring: the prefetcher as far ahead as it can be, the caller's GPU so many steps behind its host.

    Returns:
        Of each step: which batch it was given, and which one its kernels saw in the buffer.
    """
    ring, prefetcher, caller = Ring(num_slots), FakeStream(), FakeStream()
    content: dict[int, int] = {}  # buffer -> batch
    waiting: deque[tuple[int, Slot]] = deque()
    queued_after: list[int] = []
    seen, made = [], 0
    if not waits:
        prefetcher.wait_event = lambda event: None  # type: ignore[method-assign]
    for step in range(num_steps):
        while True:  # as many batches as there are buffers
            prefetcher.run()
            try:
                slot = ring.acquire(prefetcher, timeout=0)
            except queue.Empty:
                break
            prefetcher.queue(lambda slot=slot, batch=made: content.__setitem__(id(slot), batch))
            slot.written = prefetcher.record_event()
            waiting.append((made, slot))
            made += 1
        batch, slot = waiting.popleft()
        ring.hand_out(slot, caller)
        caller.queue(lambda slot=slot, batch=batch: seen.append((batch, content[id(slot)])))
        queued_after.append(caller.queued)
        if step >= behind:
            prefetcher.run()
            caller.run(until=queued_after[step - behind])
    for _ in range(num_steps):  # each may wait for the other
        prefetcher.run()
        caller.run()
    return seen


@pytest.mark.parametrize("behind", range(4))
@pytest.mark.parametrize("num_slots", [2, 3, 4])
def test_a_step_reads_its_own_batch_for_every_ring_and_every_lag_of_the_gpu(num_slots: int, behind: int) -> None:
    assert run_steps(num_slots, behind=behind) == [(batch, batch) for batch in range(12)]


def test_without_the_wait_a_gpu_that_is_behind_would_read_a_later_batch() -> None:
    assert any(batch != content for batch, content in run_steps(2, behind=3, waits=False))


@pytest.mark.parametrize("engine", ["dali", "simple"])
def test_a_gpus_batches_are_copies_that_the_next_but_one_does_not_touch(
    numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Decoded on the CPU, and handed over as on a GPU whose streams and events do nothing."""
    plan, settings = train_plan(numbered), LoaderSettings(engine=engine, prefetch=2)
    with ClipLoader(numbered, plan, settings=settings, whole_pictures=True) as loader:
        expected = [batch.clips.half() for batch in take(loader, 15)]
    cuda = MagicMock()
    cuda.Stream.return_value.device = torch.device("cpu")
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: None)
    loader = ClipLoader(numbered, plan, settings=settings, whole_pictures=True)
    loader.device, loader._gpu = torch.device("cpu"), 3
    if engine == "dali":
        feed = "nvidia.dali.plugin.pytorch.feed_ndarray"
        monkeypatch.setattr(feed, lambda out, buffer, cuda_stream: buffer.copy_(torch.from_dlpack(out)))
        outputs = Pipeline.outputs
        monkeypatch.setattr(Pipeline, "outputs", lambda self, stream: outputs(self))
    places = set()
    with loader:
        for batch, clips in zip(loader, expected, strict=False):
            assert torch.equal(batch.clips, clips)
            places.add(batch.clips.data_ptr())
    assert cuda.method_calls[0] == call.set_device(3), "the thread chooses its GPU before anything else"
    assert cuda.Event.call_args == call(blocking=True), "a host that waits for it would spin"
    assert 2 <= len(places) <= settings.prefetch + 2
