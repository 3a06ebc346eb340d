"""A picture of clips per second: one bar a lane, with its spread and its number."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.bench.measure import BenchError, Spread

SIZE_INCHES, DPI = (12, 7), 100  # 1200×700 pixels
OURS, PEERS = "#3b6ea5", "#b0a18f"


def draw(path: Path, title: str, ours: Mapping[str, Spread], peers: Mapping[str, Spread]) -> None:
    """Write a PNG.

    Args:
        title: One or two lines.
        ours, peers: Lane -> clips/s; drawn from top to bottom, in two colours.

    Raises:
        BenchError: matplotlib is not installed.
    """
    figure_of, canvas_of = load_matplotlib()
    lanes = {**ours, **peers}
    rates = list(lanes.values())
    figure = figure_of(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    canvas_of(figure)
    axes = figure.add_subplot()
    places = range(len(lanes))
    below_above = [[r.median - r.min for r in rates], [r.max - r.median for r in rates]]
    colors = [OURS] * len(ours) + [PEERS] * len(peers)
    axes.barh(places, [r.median for r in rates], xerr=below_above, color=colors, capsize=6, height=0.6)
    widest = max(r.max for r in rates)
    for place, rate in zip(places, rates, strict=True):
        axes.text(
            rate.max + 0.012 * widest,
            place,
            f"{rate.median:,.{0 if rate.median >= 100 else 1}f}",
            va="center",
            fontsize=15,
        )
    axes.set_yticks(places, list(lanes), fontsize=14)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.13 * widest)
    axes.set_xlabel("clips/s: median of the turns, lowest and highest", fontsize=13)
    axes.tick_params(axis="x", labelsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=14)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def load_matplotlib() -> tuple[Any, Any]:
    """matplotlib's Figure and the Agg canvas, which needs no display.

    Raises:
        BenchError: It is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BenchError('matplotlib is not installed; pip install "res3d-video[bench]"') from None
    return Figure, FigureCanvasAgg
