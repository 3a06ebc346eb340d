"""Where and how a run happens; nothing here decides what it computes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline.loader import LoaderSettings
from train.ranks import Ranks
from train.step import StepOptions
from train.streams import console

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """
    Attributes:
        say: Prints a line, on rank 0 only.
        quiet: Only what is said matters, not what is noted.
        to_stderr: Progress is shown on standard error, for standard output is taken.
    """

    ranks: Ranks
    out: Path
    loader: LoaderSettings
    step: StepOptions
    say: Say
    quiet: bool = False
    to_stderr: bool = False

    def note(self, line: str) -> None:
        """Say what --quiet leaves out."""
        if not self.quiet:
            self.say(line)

    def console(self) -> Console | None:
        """Where progress is drawn; None: this rank shows none."""
        return console(stderr=self.to_stderr) if self.ranks.is_main and not self.quiet else None
