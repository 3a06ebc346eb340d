"""When a run should stop before its end: a scheduler's signals, and a torchrun that is gone."""

import os
import signal
from typing import Any

from train.ranks import RanksError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # what schedulers send before they take the machine away


class StopRequest:
    """Takes the stop signals until it is closed.

    Args:
        launcher: Process that restarts this one; None if nobody does. Without it this one would go on alone while its
            successor is started.
    """

    def __init__(self, *, launcher: int | None = None) -> None:
        self._launcher, self._asked = launcher, False
        self._handlers = {number: signal.signal(number, self._ask) for number in STOP_SIGNALS}

    def asked(self) -> bool:
        """Whether a signal has come.

        Raises:
            RanksError: The launcher has ended.
        """
        if self._launcher is not None and os.getppid() != self._launcher:
            raise RanksError("torchrun has ended, so this process does; start again with --resume auto")
        return self._asked

    def close(self) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _ask(self, *_: Any) -> None:
        self._asked = True
