"""A picture of clips per second: one bar a lane, with its spread and its number."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from res3d_video.tools.bench.measure import BenchError, Spread

DPI = 100
OURS, PEERS = "#3b6ea5", "#b0a18f"


def draw(path: Path, title: str, ours: Mapping[str, Spread], peers: Mapping[str, Spread]) -> None:
    """Write a PNG.

    Args:
        title: One or two lines.
        ours, peers: Lane -> clips/s; drawn from top to bottom, in two colours.

    Raises:
        BenchError: matplotlib is not installed.
    """
    lanes = {**ours, **peers}
    with picture(path, title, size=(1200, 700)) as figure:
        draw_bars(figure.add_subplot(), lanes, [OURS] * len(ours) + [PEERS] * len(peers))


def draw_bars(axes: Any, lanes: Mapping[str, Spread], colors: Sequence[str]) -> None:
    """One bar a lane, from top to bottom."""
    rates = list(lanes.values())
    places = range(len(lanes))
    below_above = [[r.median - r.min for r in rates], [r.max - r.median for r in rates]]
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


@contextmanager
def picture(path: Path, title: str, *, size: tuple[int, int]) -> Iterator[Any]:
    """matplotlib's figure to draw in, with a title to the left; written when the block is over.

    Args:
        size: Width and height, pixels.

    Raises:
        BenchError: matplotlib is not installed.
    """
    figure_of, canvas_of = load_matplotlib()
    figure = figure_of(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, layout="constrained")
    canvas_of(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=14)
    yield figure
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
