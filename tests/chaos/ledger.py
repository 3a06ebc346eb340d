"""Programs that may be killed, and the account of what was killed and lost."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
import psutil

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240.0  # for anything to happen, on a busy machine
POLL_S = 0.02


class StuckError(RuntimeError):
    """Nothing happens any more."""


@dataclass
class Ledger:
    """What was killed and what was lost."""

    num_kills: int
    kills: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return self.kills.total() >= self.num_kills

    def kill(self, what: str, *processes: psutil.Process) -> None:
        for process in processes:
            process.send_signal(signal.SIGKILL)  # psutil makes sure that the number is still that process
        self.kills[what] += 1
        click.echo(f"kill {self.kills.total()}/{self.num_kills}: {what}")

    def lose(self, what: str) -> None:
        self.losses.append(what)
        click.echo(f"LOST: {what}")


@contextmanager
def started(words: list[str], log: Path) -> Iterator[psutil.Popen]:
    """A command of the project; whatever is left of it at the end is killed, as a node would be by its scheduler."""
    with log.open("ab") as file:
        process = psutil.Popen(
            [sys.executable, *words],
            cwd=CHECKOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            try:
                left = [*process.children(recursive=True), process]
            except psutil.NoSuchProcess:
                left = []
            for each in left:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait()


def wait_until(is_so: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S) -> None:
    """Raises StuckError when it does not become so."""
    until_s = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > until_s:
            raise StuckError(f"{what}: not within {patience_s:g} s")
        time.sleep(POLL_S)
