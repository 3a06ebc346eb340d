"""Accuracy against multiply-adds: what a network costs, and what that buys."""

import csv
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import read_text
from res3d_video.tools.bench.chart import picture
from res3d_video.tools.figures.colors import GREY, MANY

DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))  # right first, then left, above, …
DISTANCES = (4.0, 14.0, 28.0, 46.0, 70.0)  # pixels from the point's edge


class Box(NamedTuple):
    """A rectangle, pixels, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, half_width: float, half_height: float | None = None) -> "Box":
        """The box with this centre; a square if only one half is given."""
        half_height = half_width if half_height is None else half_height
        return cls(x - half_width, y - half_height, x + half_width, y + half_height)


def shared_area(a: Box, b: Box) -> float:
    """Square pixels that two boxes share.

    >>> shared_area(Box(0, 0, 10, 10), Box(8, 5, 20, 20)), shared_area(Box(0, 0, 1, 1), Box(1, 0, 2, 1))
    (10, 0)
    """
    width, height = min(a.right, b.right) - max(a.left, b.left), min(a.top, b.top) - max(a.bottom, b.bottom)
    return width * height if width > 0 and height > 0 else 0


def place_labels(
    points: Sequence[Box], sizes: Sequence[tuple[float, float]], *, obstacles: Sequence[Box] = (), bounds: Box
) -> list[Box]:
    """A box for each point's name: the nearest free one, and where none is free the one that covers least.

    Args:
        points: What is drawn of each point.
        sizes: Width and height of each name.
        obstacles: What else names should not cover.
        bounds: Names stay inside.

    >>> place_labels([Box(0, 0, 10, 10)], [(20, 8)], bounds=Box(-50, -50, 50, 50))
    [Box(left=14.0, bottom=1.0, right=34.0, top=9.0)]
    """
    placed: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        taken = [*points, *obstacles, *placed]
        best, least = None, float("inf")
        for box in candidates(point, size):
            outside = size[0] * size[1] - shared_area(box, bounds)
            covered = 10 * outside + sum(shared_area(box, other) for other in taken)
            if covered < least - 1e-6:
                best, least = box, covered
            if least <= 1e-6:
                break
        assert best is not None
        placed.append(best)
    return placed


def candidates(point: Box, size: tuple[float, float]) -> Iterator[Box]:
    """Boxes of a name around a point, near ones first."""
    x, y = (point.left + point.right) / 2, (point.bottom + point.top) / 2
    half_width, half_height = size[0] / 2, size[1] / 2
    for distance in DISTANCES:
        for dx, dy in DIRECTIONS:
            part = 0.7071 if dx and dy else 1.0  # the corner of a square around a disc is farther away
            right = part * ((point.right - point.left) / 2 + distance) + half_width
            up = part * ((point.top - point.bottom) / 2 + distance) + half_height
            yield Box.around(x + dx * right, y + dy * up, half_width, half_height)


MAX_TABLE_BYTES = 2**24
COLUMNS = ("row", "parameters", "multiply_adds", "clip_accuracy", "clip_accuracy_spread")
SIZE = (1100, 750)  # pixels
LARGEST_AREA = 500.0  # of a point, square typographic points
ON_FRONT, OFF_FRONT = MANY[0], GREY


@dataclass(frozen=True)
class CostPoint:
    """A network.

    Attributes:
        multiply_adds: Of one clip.
        accuracy: Per cent.
        spread: Half the length of the error bar, percentage points; None where there was one run only.
    """

    name: str
    parameters: int
    multiply_adds: int
    accuracy: float
    spread: float | None = None


def draw_cost(path: Path, points: Sequence[CostPoint], *, title: str) -> None:
    """Write a PNG: a point a network, its area the parameters, and a line through the Pareto front.

    Raises:
        BenchError: matplotlib is not installed.
        ValueError: There is nothing to draw, or a cost is not above 0.
    """
    if not points:
        raise UserError("cost: there are no points; give at least one network")
    for point in points:
        if point.parameters < 1 or point.multiply_adds < 1:
            raise UserError(
                f"cost: {point.name} has {point.parameters} parameters and {point.multiply_adds} multiply-adds; "
                "both must be above 0"
            )
    with picture(path, title, size=SIZE) as figure:
        axes = figure.add_subplot()
        draw_points(axes, points)
        draw_sizes(axes, points)
        name_points(figure, axes, points)


def pareto_front(points: Sequence[CostPoint]) -> list[CostPoint]:
    """Networks than which none is both as cheap and as accurate, and better in one; cheapest first."""

    def beats(a: CostPoint, b: CostPoint) -> bool:
        better = a.multiply_adds < b.multiply_adds or a.accuracy > b.accuracy
        return better and a.multiply_adds <= b.multiply_adds and a.accuracy >= b.accuracy

    front = [point for point in points if not any(beats(other, point) for other in points)]
    return sorted(front, key=lambda point: point.multiply_adds)


def area_of(point: CostPoint, points: Sequence[CostPoint]) -> float:
    """Area of a point, proportional to its parameters, square typographic points; the largest of all has 500."""
    return LARGEST_AREA * point.parameters / max(other.parameters for other in points)


def draw_points(axes: Any, points: Sequence[CostPoint]) -> None:
    """Points, error bars, the front and the axes."""
    front = pareto_front(points)
    line = {"color": ON_FRONT, "linewidth": 1.5, "alpha": 0.75, "zorder": 1}
    axes.plot([p.multiply_adds for p in front], [p.accuracy for p in front], **line)
    axes.plot([], [], **line, marker="o", markersize=9, label="Pareto front")  # for the legend
    for point in sorted(points, key=lambda point: -point.parameters):  # small ones above
        color = ON_FRONT if point in front else OFF_FRONT
        place = (point.multiply_adds, point.accuracy)
        axes.scatter(*place, s=area_of(point, points), color=color, alpha=0.75, edgecolors="white", zorder=3)
        if point.spread is not None:
            bar = {"ecolor": "0.15", "elinewidth": 1.2, "capsize": 5, "zorder": 4}
            axes.errorbar(*place, yerr=point.spread, fmt="none", **bar)
    costs = [point.multiply_adds for point in points]
    ticks = ticks_1_2_5(min(costs) / 1.6, max(costs) * 1.6)
    axes.set_xscale("log")
    axes.set_xlim(min(min(costs) / 1.6, ticks[0]), max(max(costs) * 1.6, ticks[-1]))
    axes.set_xticks(ticks, [short_count(tick) for tick in ticks])
    axes.minorticks_off()
    axes.margins(y=0.15)
    axes.set_xlabel("multiply-adds of a clip", fontsize=13)
    with_spread = any(point.spread is not None for point in points)
    axes.set_ylabel("clip accuracy, %" + (": mean and spread" if with_spread else ""), fontsize=13)
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_sizes(axes: Any, points: Sequence[CostPoint]) -> None:
    """The legend below: what the areas mean, by the smallest and the largest network, and what the line is."""
    by_size = sorted(points, key=lambda point: point.parameters)
    shown = [by_size[0], by_size[-1]] if by_size[-1].parameters > 1.1 * by_size[0].parameters else [by_size[-1]]
    handles, _ = axes.get_legend_handles_labels()
    for point in shown:
        label = f"{short_count(point.parameters)} parameters"
        handles.append(axes.scatter([], [], s=area_of(point, points), color=OFF_FRONT, alpha=0.75, label=label))
    axes.figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=12, borderpad=1.0
    )


def name_points(figure: Any, axes: Any, points: Sequence[CostPoint]) -> None:
    """Names beside their points; a thin line leads to those that stand farther away."""
    figure.draw_without_rendering()  # now the axes have their final place
    renderer, pixels = figure.canvas.get_renderer(), figure.dpi / 72
    texts = [axes.annotate(point.name, (0, 0), xycoords="figure pixels", va="bottom", fontsize=12) for point in points]
    sizes = [(box.width, box.height) for box in (text.get_window_extent(renderer) for text in texts)]
    centres = [tuple(axes.transData.transform((p.multiply_adds, p.accuracy))) for p in points]
    radii = [math.sqrt(area_of(point, points) / math.pi) * pixels for point in points]
    discs = [Box.around(x, y, radius) for (x, y), radius in zip(centres, radii, strict=True)]
    obstacles = [bar_box(axes, point) for point in points if point.spread is not None]
    front = [centres[points.index(point)] for point in pareto_front(points)]
    obstacles += [box for a, b in itertools.pairwise(front) for box in line_boxes(a, b)]
    inside = Box(*axes.get_window_extent(renderer).extents)
    for text, box, (x, y), radius in zip(
        texts, place_labels(discs, sizes, obstacles=obstacles, bounds=inside), centres, radii, strict=True
    ):
        text.set_position((box.left, box.bottom))
        near_x, near_y = min(max(x, box.left), box.right), min(max(y, box.bottom), box.top)
        if math.hypot(near_x - x, near_y - y) > radius + 12:
            axes.annotate(
                "", (x, y), (near_x, near_y), xycoords="figure pixels", textcoords="figure pixels",
                arrowprops={"arrowstyle": "-", "color": "0.4", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0},
            )  # fmt: skip


def bar_box(axes: Any, point: CostPoint) -> Box:
    """What the error bar of a point covers, pixels."""
    spread = point.spread or 0.0
    x, bottom = axes.transData.transform((point.multiply_adds, point.accuracy - spread))
    _, top = axes.transData.transform((point.multiply_adds, point.accuracy + spread))
    return Box(x - 7, bottom - 2, x + 7, top + 2)


def line_boxes(start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """Small boxes along a line.

    >>> line_boxes((0, 0), (16, 0))
    [Box(left=-2.0, bottom=-2.0, right=2.0, top=2.0), Box(left=6.0, bottom=-2.0, right=10.0, top=2.0), \
Box(left=14.0, bottom=-2.0, right=18.0, top=2.0)]
    """
    count = max(1, math.ceil(math.dist(start, end) / 8))
    parts = [i / count for i in range(count + 1)]
    return [Box.around(start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1]), 2.0) for t in parts]


def ticks_1_2_5(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20, … between two numbers; where there are not two, the nearest outside are taken too.

    >>> ticks_1_2_5(1.5, 25)
    [2.0, 5.0, 10.0, 20.0]
    >>> ticks_1_2_5(30, 40)
    [20.0, 50.0]
    """
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    steps = [part * 10.0**power for power in range(first, last + 1) for part in (1, 2, 5)]
    inside = [tick for tick in steps if low <= tick <= high]
    if len(inside) > 1:
        return inside
    return sorted({max(t for t in steps if t <= low), *inside, min(t for t in steps if t >= high)})


def short_count(count: float) -> str:
    """A number with three digits and its prefix.

    >>> [short_count(count) for count in (950, 33_222_309, 20_451_000_000, 5e9, 999_900, 2e12)]
    ['950', '33.2M', '20.5G', '5G', '1M', '2T']
    """
    for unit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * unit:
            return f"{float(f'{count / unit:.3g}'):g}{prefix}"
    return f"{count:g}"


def read_points(path: Path) -> list[CostPoint]:
    """The rows of a table, a CSV file with the columns of COLUMNS and any others.

    Accuracies are per cent; a row without an accuracy has not been run and is left out, a spread may be empty.

    Raises:
        ValueError: A column is missing, a value is no number, or no row has an accuracy; in one line.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, max_bytes=MAX_TABLE_BYTES)), restval="")
        names, rows = reader.fieldnames or (), list(reader)
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file ({error}); give a table with {', '.join(COLUMNS)}") from None
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise UserError(f"{path}: no column {missing[0]}; give a table with {', '.join(COLUMNS)}")
    points = [read_point(row, where=f"{path}:{n}") for n, row in enumerate(rows, start=2) if row["clip_accuracy"]]
    if not points:
        raise UserError(f"{path}: no row has a clip_accuracy; run the study first")
    return points


def read_point(row: dict[str, str], *, where: str) -> CostPoint:
    """One row of the table; `where` names it in an error."""

    def number(name: str) -> float:
        try:
            value = float(row[name])
        except (TypeError, ValueError):  # None where the line is too short
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{where}: {name} is {row[name]!r}; write a number")
        return value

    spread = number("clip_accuracy_spread") if row["clip_accuracy_spread"] else None
    return CostPoint(
        row["row"], int(number("parameters")), int(number("multiply_adds")), number("clip_accuracy"), spread
    )
