"""When a run stops before its end: a scheduler's signals, Ctrl-C, or the end of torchrun.

The trainer imports this first, so that signals are handled while packages load; it imports nothing slow.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from res3d_video.pipeline.errors import UserError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # schedulers send them before they take the machine away
INTERRUPT = signal.SIGINT  # Ctrl-C
FIRST_SPEAKS_S = 10.0  # how long other processes wait for the first one to report an error


def is_command(name: str) -> bool:
    """Whether the module of this `__name__` is the program: started by path, with -m, or by its installed name."""
    return name == "__main__" or os.path.basename(sys.argv[0]).startswith("res3d-")


class StopRequest:
    """Handles the stop signals and Ctrl-C until it is closed.

    A signal is remembered until the run asks for it; a second Ctrl-C raises KeyboardInterrupt. Before `begin` there is
    nothing to save, so Ctrl-C ends the process with a line: an exception could come out of any import.

    Args:
        of_command: Created when the command starts; else the run has begun, and `close` restores the handlers.
    """

    def __init__(self, *, of_command: bool = False) -> None:
        self._of_command, self._has_begun = of_command, not of_command
        self._launcher: int | None = None
        self._is_asked = self.interrupted = False
        self._handlers = {number: signal.signal(number, self._ask) for number in (*STOP_SIGNALS, INTERRUPT)}

    @property
    def is_left_behind(self) -> bool:
        """Whether the launcher has ended."""
        return self._launcher is not None and os.getppid() != self._launcher

    def is_told(self) -> bool:
        """Whether this process should end: a signal has arrived, or the launcher has ended."""
        return self._is_asked or self.is_left_behind

    def begin(self, *, launcher: int | None) -> None:
        """The run begins: from now on Ctrl-C finishes the step first. If the launcher, torchrun, ends, the run ends."""
        self._has_begun, self._launcher = True, launcher

    def asked(self) -> bool:
        """Whether the run should stop; `interrupted` tells whether by Ctrl-C.

        Raises:
            UserError: The launcher has ended.
        """
        if self.is_left_behind:
            raise UserError("torchrun has ended, so this process does; run the same command again")
        return self._is_asked

    def close(self) -> None:
        """Restore the signal handlers; a command that is ending ignores the signals instead."""
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_IGN if self._of_command else handler)

    def _ask(self, number: int, *_: Any) -> None:
        if number == INTERRUPT:
            if not self._has_begun:
                os.write(2, b"\ninterrupted before the run began; the same command starts it\n")
                os._exit(128 + number)
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
        self._is_asked = True


def speaks_for_machine(*, is_ended: Callable[[], bool]) -> bool:
    """Whether a process that ends with an error prints it.

    Most errors are the same in all processes. The first process of a machine prints it, then torchrun ends the others;
    one that is not ended has another error.
    """
    until_s = time.monotonic() + FIRST_SPEAKS_S
    while os.environ.get("LOCAL_RANK", "0") != "0" and time.monotonic() < until_s:
        if is_ended():
            return False
        time.sleep(0.05)
    return True
