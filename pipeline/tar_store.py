"""What an index needs of a place that has tars which are not in its folder yet; pipeline/remote has one."""

import threading
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol


class Ahead(Protocol):
    """Fetches the tars of a plan's coming steps."""

    def start(self, step: int) -> None:
        """Begin with the tars of a step."""

    def move(self, step: int) -> None:
        """The reader is at this step now."""

    def end(self) -> None:
        """Stop fetching."""


class TarStore(Protocol):
    """Tars by their number in the index.

    Attributes:
        url: Where they come from.
        unreadable: Tars given up, and why.
    """

    url: str
    unreadable: dict[int, str]

    def open(
        self, number: int, *, stop: threading.Event, let_go: Callable[[], None] | None = None, wait: bool = True
    ) -> BinaryIO | None:
        """A tar, which stays as long as it or a copy of its descriptor is open; None for one that cannot be had."""

    def fetch_beside(self, number: int, *, stop: threading.Event) -> None:
        """Fetch a tar's .idx."""

    def asked_for_room_ns(self) -> int:
        """When somebody last asked that tars be closed which are not needed at once."""

    def ahead(self, plan: Any, *, rows: slice) -> Ahead:
        """What fetches the tars of one rank's rows of a plan."""
