"""Charts of a dataset: samples a class, lengths, rates."""

import warnings
from itertools import pairwise
from typing import Any

import numpy as np

from res3d_video.tools.pages.charts import MUTED, PANEL, SERIES, Chart
from res3d_video.tools.pages.data.facts import SIDES
from res3d_video.tools.pages.page import Markup, Number, table

MAX_BARS = 60  # classes; of more, a table and their distribution
MAX_ROWS = 2000  # classes in the table
NAME_LENGTH = 22  # characters beside a bar
NUM_BINS = 30
COLORS = {"train": SERIES[0], "test": SERIES[1], "not used": MUTED}
HATCHES = {"train": "", "test": "///", "not used": "..."}  # said by more than colour


def short(name: str, length: int = NAME_LENGTH) -> str:
    """A name as it fits beside a bar; what cannot be printed is replaced.

    >>> short("HandstandPushups"), short("a" * 30), short("a\\nb")
    ('HandstandPushups', 'aaaaaaaaaaaaaaaaaaaaa…', 'a\\ufffdb')
    """
    safe = "".join(c if c.isprintable() else "\ufffd" for c in name)
    return safe if len(safe) <= length else safe[: length - 1] + "…"


def class_chart(names: list[str], counts: np.ndarray, *, split: str) -> Markup:
    """A bar a class, the largest on top, in parts by side: int [K, 3] in the order of `SIDES`."""
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    used = [i for i, _ in enumerate(SIDES) if counts[:, i].any()]
    with quiet_fonts(), Chart("classes", title="Samples of each class", size=(420, 90 + 22 * len(order))) as chart:
        axes, left = chart.axes, np.zeros(len(order), np.int64)
        for side in used:
            values, name = counts[order, side], SIDES[side]
            axes.barh(
                range(len(order)), values, left=left, height=0.7, color=COLORS[name], label=name,
                hatch=HATCHES[name], edgecolor=PANEL, linewidth=0.5,
            )  # fmt: skip
            left = left + values
        for place, total in enumerate(left.tolist()):
            axes.annotate(f"{total:,}", (total, place), xytext=(4, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(order)), [short(names[i]) for i in order])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * max(int(left.max(initial=1)), 1))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("samples")
        axes.grid(axis="y", visible=False)
        chart.figure.legend(loc="outside lower center", ncols=len(used))
    largest, smallest = (f"{short(names[i])} with {counts[i].sum():,}" for i in (order[0], order[-1]))
    return chart.html(
        text=f"Bars from {largest} to {smallest} samples.",
        caption=f"Samples of each class by side of split {split}, the largest class on top.",
        numbers=class_table(names, counts),
    )


def class_table(names: list[str], counts: np.ndarray, *, is_tall: bool = False) -> Markup:
    """Samples of every class by side, sortable."""
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    caption = "Samples of each class"
    if len(order) > MAX_ROWS:
        order = np.concatenate([order[: MAX_ROWS // 2], order[-MAX_ROWS // 2 :]])
        caption += f", the {MAX_ROWS // 2:,} largest and the {MAX_ROWS // 2:,} smallest of {len(names):,}"
    rows: list[list[Any]] = []
    for i in order.tolist():
        rows.append([names[i], *(Number(int(n), f"{n:,}") for n in (*counts[i], counts[i].sum()))])
    columns = ["class", *SIDES, "together"]
    return table(columns, rows, caption=caption, is_sorted_by_click=True, is_tall=is_tall)


def sizes_chart(counts: np.ndarray, *, split: str) -> Markup:
    """How large many classes are: a line over them, from the largest to the smallest, for training and for test."""
    together = counts.sum(axis=1)
    order = np.argsort(-together, kind="stable")
    with Chart("classes", title="Samples of a class, from the largest to the smallest") as chart:
        axes = chart.axes
        axes.plot(range(1, len(order) + 1), together[order], color=SERIES[0], label="together")
        for side, dash in ((0, "--"), (1, ":")):
            own = -np.sort(-counts[:, side])
            axes.plot(range(1, len(order) + 1), own, dash, color=SERIES[side + 1], label=SIDES[side])
        axes.set_xlabel("classes, by size")
        axes.set_ylabel("samples")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        chart.figure.legend(loc="outside lower center", ncols=3)
    text = f"From {together.max():,} samples down to {together.min():,} over {len(order)} classes."
    return chart.html(text=text, caption=f"Each line is sorted by itself; sides of split {split}.")


def histogram(
    name: str, *, title: str, values: np.ndarray, counts: np.ndarray, unit: str, caption: str, one_each: bool = False
) -> Markup:
    """How often values occur.

    Args:
        values, counts: Different values, rising, and how often each occurs.
        one_each: A bar for each value, side by side; else for ranges of values.
    """
    with Chart(name, title=title, size=(360, 230)) as chart:
        axes = chart.axes
        if one_each:
            labels = [f"{value:.6g}" for value in values.tolist()]
            axes.bar(range(len(values)), counts, width=0.6, color=SERIES[0])
            axes.set_xticks(range(len(values)), labels, rotation=0 if len(values) <= 5 else 60)
            axes.grid(axis="x", visible=False)
            axes.set_xlim(-0.8, max(len(values) - 0.2, 2.8))
        else:
            heights, edges = np.histogram(values, bins=bins_of(values), weights=counts)
            axes.bar(edges[:-1], heights, width=np.diff(edges), align="edge", color=SERIES[0], edgecolor=PANEL)
            counts = heights.astype(np.int64)
            labels = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges.tolist())]
        axes.set_xlabel(unit)
        axes.set_ylabel("samples")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.set_major_formatter("{x:,.0f}")
    text = f"Most frequent: {labels[int(counts.argmax())]} {unit}, {counts.max():,} samples."
    rows = [[label, Number(count, f"{count:,}")] for label, count in zip(labels, counts.tolist(), strict=True)]
    return chart.html(text=text, caption=caption, numbers=table([unit, "samples"], rows, caption=title))


def bins_of(values: np.ndarray) -> np.ndarray:
    """Edges of at most `NUM_BINS` bins as wide as 1, 2 or 5 times a power of ten; whole numbers stay whole.

    >>> bins_of(np.array([29, 383]))[[0, 1, -1]].tolist(), bins_of(np.array([0.4, 2.9])).round(2).tolist()[:3]
    ([20.0, 40.0, 400.0], [0.4, 0.5, 0.6])
    """
    low, high = float(values.min()), float(values.max())
    rough = max((high - low) / NUM_BINS, 1e-9)
    power = 10.0 ** np.floor(np.log10(rough))
    width = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
    if np.issubdtype(values.dtype, np.integer):
        width = max(width, 1.0)
    first, last = np.floor(low / width), np.floor(high / width) + 1
    return np.arange(first, last + 1) * width


def quiet_fonts() -> warnings.catch_warnings:
    """matplotlib warns of letters that its font lacks; the page's own font draws them."""
    context = warnings.catch_warnings()
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    return context
