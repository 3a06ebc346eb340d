"""When a run should stop before its end: a scheduler's signals, Ctrl-C, and a torchrun that is gone."""

import os
import signal
from typing import Any

from train.ranks import RanksError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # what schedulers send before they take the machine away
INTERRUPT = signal.SIGINT  # what Ctrl-C sends


class StopRequest:
    """Takes the stop signals and Ctrl-C until it is closed. A second Ctrl-C raises KeyboardInterrupt, as without this.

    Args:
        launcher: Process that restarts this one; None if nobody does. Without it this one would go on alone while its
            successor is started.
    """

    def __init__(self, *, launcher: int | None = None) -> None:
        self._launcher, self._asked, self.interrupted = launcher, False, False
        self._handlers = {number: signal.signal(number, self._ask) for number in (*STOP_SIGNALS, INTERRUPT)}

    def asked(self) -> bool:
        """Whether a signal has come; `interrupted` says whether Ctrl-C was among them.

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

    def _ask(self, number: int, *_: Any) -> None:
        if number == INTERRUPT:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
        self._asked = True
