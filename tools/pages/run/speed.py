"""Who waits for whom: a run's wait for clips as a sentence, and a benchmark of the loader as a chart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

from msgspec import Meta

from res3d_video.pipeline.typed_json import Real, Text, read_json
from res3d_video.tools.bench.chart import draw_bars
from res3d_video.tools.bench.measure import Spread
from res3d_video.tools.pages.charts import INK, SERIES, Chart
from res3d_video.tools.pages.page import Markup, Number, table
from res3d_video.tools.pages.run.facts import Run

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
    batch_size = run.config.global_batch_size // max(run.about.get("world_size", 1), 1) if run.config else 1
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


class Rate(TypedDict):
    """Turns of a lane, clips/s."""

    median: Real
    min: Real
    max: Real


class BenchLane(TypedDict):
    """A lane of a benchmark's file."""

    clips_per_s: Rate


class BenchDetails(TypedDict, total=False):
    """Parts of a benchmark's "machine", "settings" and "dataset"."""

    gpu: Text | None
    cpu: Text | None
    batch_size: int
    name: Text


class BenchHead(TypedDict):
    """What a benchmark's file must have."""

    lanes: Annotated[dict[Text, BenchLane], Meta(min_length=1, max_length=100)]
    verdict: Text


class BenchFile(BenchHead, total=False):
    """What is read of the file of tools/bench_loader.py."""

    machine: BenchDetails
    settings: BenchDetails
    dataset: BenchDetails


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
        UserError: There is no such file, or it is damaged, or of another program; in one line.
    """
    found = read_json(path, BenchFile, what="what tools/bench_loader.py --json writes", way_out="measure again")
    rates = {name: lane["clips_per_s"] for name, lane in found["lanes"].items()}
    lanes = {name: Spread(rate["median"], rate["min"], rate["max"]) for name, rate in rates.items()}
    machine, settings = found.get("machine", {}), found.get("settings", {})
    about = [machine.get("gpu") or machine.get("cpu") or "", f"batch {settings.get('batch_size', '?')}"]
    dataset = found.get("dataset", {}).get("name", "clips")
    return Bench(lanes, found["verdict"], f"Loader on {dataset}", ", ".join(filter(None, about)))


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
