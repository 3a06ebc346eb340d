"""Who waits for whom: a run's wait for clips as a sentence, and a benchmark of the loader as a chart."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from tools.bench.chart import draw_bars
from tools.bench.measure import Spread
from tools.pages.charts import INK, SERIES, Chart
from tools.pages.page import Markup, Number, table
from tools.pages.run.facts import Run

BENCH = "bench.json"
MOST_NAMES = 6


@dataclass(frozen=True)
class WaitVerdict:
    """How long training waited for clips, and whether that is right.

    Attributes:
        share: Of its time, 0 to 1; None where the log does not say.
        most: Share that is right.
        who: Waits.
    """

    share: float | None
    most: float
    who: str

    @property
    def keeps_up(self) -> bool | None:
        """Whether the loader does; None where it cannot be said."""
        return None if self.share is None else self.share <= self.most

    @property
    def text(self) -> str:
        """The verdict as a sentence."""
        return wait_text([self])


def allowed_wait(batch_size: int) -> float:
    """The share of its time that training may wait before the loader is called its bottleneck.

    Args:
        batch_size: Of a process.

    >>> [allowed_wait(size) for size in (1, 255, 256)]
    [0.05, 0.05, 0.03]
    """
    return 0.03 if batch_size >= 256 else 0.05


def wait_verdict(run: Run) -> WaitVerdict:
    """The wait for clips in a run, without the first line of its log."""
    world_size = run.about.get("world_size")
    world_size = world_size if isinstance(world_size, int) and world_size > 0 else 1
    batch_size = run.config.global_batch_size // world_size if run.config else 1
    who = "training" if run.about.get("device", "cpu") == "cpu" else "the GPU"
    return WaitVerdict(run.whole_wait, allowed_wait(max(batch_size, 1)), who)


def wait_text(verdicts: Sequence[WaitVerdict]) -> str:
    """One sentence for verdicts that agree in all but the share.

    >>> wait_text([WaitVerdict(0.001, 0.05, "training"), WaitVerdict(0.04, 0.05, "training")])
    'training waits for clips 0.1 to 4.0 % of the time, at most 5 % is right: the loader keeps up'
    """
    shares = [f"{100 * one.share:.1f}" for one in verdicts if one.share is not None]
    if not shares:
        return "the log does not say how long training waited for clips"
    shares = sorted(set(shares), key=float)
    first = verdicts[0]
    amount = shares[0] if len(shares) == 1 else f"{shares[0]} to {shares[-1]}"
    said = f"{first.who} waits for clips {amount} % of the time, at most {100 * first.most:.0f} % is right"
    if first.keeps_up:
        return f"{said}: the loader keeps up"
    return f"{said}: the loader is the limit; tools/bench_loader.py --autotune finds its settings for this machine"


def listed(names: Sequence[str]) -> str:
    """The names of a few runs, the number of many."""
    return ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} runs"


def grouped(verdicts: Sequence[tuple[Run, WaitVerdict]]) -> list[tuple[str, bool | None, str]]:
    """Names of runs with the same verdict, whether their loader keeps up, and the sentence."""
    groups: dict[tuple[bool | None, float, str], list[tuple[Run, WaitVerdict]]] = {}
    for run, verdict in verdicts:
        groups.setdefault((verdict.keeps_up, verdict.most, verdict.who), []).append((run, verdict))
    return [
        (listed([run.name for run, _ in group]), key[0], wait_text([verdict for _, verdict in group]))
        for key, group in groups.items()
    ]


@dataclass(frozen=True)
class Bench:
    """A file of tools/bench_loader.py.

    Attributes:
        lanes: Lane -> clips/s.
        title: Of the chart.
    """

    lanes: Mapping[str, Spread]
    verdict: str
    title: str
    about: str


def read_bench(path: Path) -> Bench:
    """What tools/bench_loader.py wrote with --json.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is damaged, or of another program; in one line.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rates = {name: lane["clips_per_s"] for name, lane in found["lanes"].items()}
        lanes = {name: Spread(rate["median"], rate["min"], rate["max"]) for name, rate in rates.items()}
        if not lanes:
            raise ValueError("no lane")
        machine, settings = found.get("machine", {}), found.get("settings", {})
        about = [str(machine.get("gpu") or machine.get("cpu") or ""), f"batch {settings.get('batch_size', '?')}"]
        dataset = found.get("dataset", {}).get("name", "clips")
        return Bench(lanes, str(found["verdict"]), f"Loader on {dataset}", ", ".join(filter(None, about)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not what tools/bench_loader.py --json writes ({error!r:.80}); measure again"
        ) from None


def bench_chart(bench: Bench, *, name: str) -> Markup:
    """The lanes' clips/s as bars with their spread."""
    with Chart(name, title=bench.title, size=(460, 90 + 55 * len(bench.lanes))) as chart:
        draw_bars(chart.axes, bench.lanes, [SERIES[0]] * len(bench.lanes))
        chart.axes.grid(visible=False, axis="y")
        for line in chart.axes.collections:  # the spread
            line.set_color(INK)
        for line in chart.axes.lines:
            line.set(color=INK, markeredgecolor=INK)
        for text in [*chart.axes.texts, *chart.axes.get_yticklabels(), chart.axes.xaxis.label]:
            text.set_fontsize(12)
    rows = [
        [lane, *(Number(value, f"{value:,.1f}") for value in (rate.median, rate.min, rate.max))]
        for lane, rate in bench.lanes.items()
    ]
    said = "; ".join(f"{lane} {rate.median:,.1f} clips/s" for lane, rate in bench.lanes.items())
    return chart.html(
        text=f"{said}.",
        caption=f"{bench.verdict[:1].upper()}{bench.verdict[1:]}. {bench.about}.",
        numbers=table(["lane", "median", "lowest", "highest"], rows, caption="clips/s of the turns"),
    )
