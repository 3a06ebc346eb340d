"""What a run looks like everywhere on a page: its colour, dashes and marker, and a key that says so."""

from collections.abc import Sequence
from typing import NamedTuple

from res3d_video.tools.pages.charts import DASHES, MARKERS, SERIES
from res3d_video.tools.pages.page import Markup, render
from res3d_video.tools.pages.run.facts import Run

MOST_DRAWN = 12  # lines in a chart; the tables have every run
STROKES = {"-": "none", "--": "7 4", ":": "2 3", "-.": "8 3 2 3"}  # the same dashes for a key, CSS pixels


class Look(NamedTuple):
    """How a run's lines are drawn.

    Attributes:
        place: Of the run, 0 for the first.
    """

    place: int

    @property
    def color(self) -> str:
        """A stand-in for a colour of the page; see charts.SERIES."""
        return SERIES[self.place % len(SERIES)]

    @property
    def variable(self) -> str:
        """The page's variable with that colour."""
        return f"--c{self.place % len(SERIES) + 1}"

    @property
    def dashes(self) -> str:
        """Change from run to run too, so that no two neighbours differ by colour alone."""
        return DASHES[self.place % len(DASHES)]

    @property
    def marker(self) -> str:
        return MARKERS[self.place % len(MARKERS)]

    @property
    def stroke(self) -> str:
        """The dashes as CSS has them."""
        return STROKES[self.dashes]


def drawn(runs: Sequence[Run]) -> list[tuple[Run, Look]]:
    """The runs that charts show, and how."""
    return [(run, Look(place)) for place, run in enumerate(runs[:MOST_DRAWN])]


def key(runs: Sequence[Run]) -> Markup:
    """Which line is which run; nothing for one run."""
    if len(runs) < 2:
        return Markup("")
    return render("key.html", entries=drawn(runs), num_left=max(0, len(runs) - MOST_DRAWN))


def name_cell(run: Run, *, place: int, num_runs: int) -> Markup:
    """A run's name with a piece of its line before it, for tables."""
    look = Look(place) if num_runs > 1 and place < MOST_DRAWN else None
    return render("run_name.html", name=run.name, look=look)
