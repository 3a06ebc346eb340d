"""Lending a GPU's memory to another stream, without a copy and without making the host wait."""

from collections import deque
from typing import Any, Protocol

BATCHES_IN_HAND = 2  # a batch may get new work until the one after the next is taken
MAX_RETIRING = 8  # more than a trainer runs ahead of its GPU; beyond it the host waits, so memory is bounded


class Event(Protocol):
    """A point in a stream's work, as `torch.cuda.Event`."""

    def query(self) -> bool:
        """Whether the work before it is done; does not wait."""

    def synchronize(self) -> None:
        """Wait for the work before it."""


class Stream(Protocol):
    """Where the borrower's kernels are queued, as `torch.cuda.Stream`."""

    def record_event(self) -> Event:
        """Mark everything queued so far."""


class Lender:
    """Keeps the owners of lent memory alive until the borrower's kernels have read it.

    DALI takes memory back, for its own streams, the moment its last owner is gone, and knows nothing of kernels that
    the trainer has queued on another stream. So an owner stays here while its batch is in hand, and then until an
    event, recorded when the batch after the next is taken, has come to pass.
    """

    def __init__(self) -> None:
        self._in_hand: deque[Any] = deque()
        self._retiring: deque[tuple[Event, Any]] = deque()

    def lend(self, owner: Any, stream: Stream) -> None:
        """A batch is taken whose memory `owner` holds; its kernels will be queued on `stream`."""
        self._in_hand.append(owner)
        while len(self._in_hand) > BATCHES_IN_HAND:
            self._retiring.append((stream.record_event(), self._in_hand.popleft()))
        while self._retiring and self._retiring[0][0].query():
            self._retiring.popleft()
        if len(self._retiring) > MAX_RETIRING:
            self._retiring.popleft()[0].synchronize()  # sync: the host is this far ahead of the GPU

    def __len__(self) -> int:
        """Owners kept."""
        return len(self._in_hand) + len(self._retiring)
