"""tools/figures/plots.py: curves, the front, names beside points, the study's table, and what is drawn."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from res3d_video.tools.figures.plots import (
    COLORS,
    DASHES,
    CostPoint,
    TableRow,
    draw_cost,
    draw_curves,
    draw_table,
    line_style,
    pareto_front,
    read_curves,
    short_count,
)
from res3d_video.tools.run_reader import Run
from res3d_video.train.config import ScheduleConfig
from tests.tools.figures.made import pixels_of, write_run

PAPER = [  # Table 3 of arXiv:1708.05038 with our counts
    CostPoint("2D-Res18", 11_232_549, 1_738_000_000, 42.2, 0.6),
    CostPoint("2D-Res34", 21_340_709, 3_588_000_000, 42.2, None),
    CostPoint("3D-Res18", 33_222_309, 20_451_000_000, 45.6, 0.5),
    CostPoint("3D-Res34", 63_531_941, 37_792_000_000, 45.9, 1.2),
]


def point(cost: int, accuracy: float, name: str = "") -> CostPoint:
    return CostPoint(name or f"{cost} {accuracy}", 1, cost, accuracy)


def test_the_front_of_the_papers_table_leaves_out_the_deeper_2d_network() -> None:
    assert [p.name for p in pareto_front(PAPER)] == ["2D-Res18", "3D-Res18", "3D-Res34"]


def test_the_front_is_what_brute_force_finds_on_every_small_set() -> None:
    grid = [point(cost, accuracy) for cost in (1, 2, 3) for accuracy in (10.0, 20.0, 30.0)]
    for points in itertools.chain.from_iterable(itertools.combinations(grid, n) for n in (1, 2, 3, 4)):
        front = pareto_front(points)
        for p in points:
            beaten = any(
                (o.multiply_adds <= p.multiply_adds and o.accuracy > p.accuracy)
                or (o.multiply_adds < p.multiply_adds and o.accuracy >= p.accuracy)
                for o in points
            )
            assert (p in front) == (not beaten)
        assert [p.multiply_adds for p in front] == sorted(p.multiply_adds for p in front)


def test_two_networks_alike_in_both_are_both_on_the_front() -> None:
    assert [p.name for p in pareto_front([point(1, 5.0, "a"), point(1, 5.0, "b")])] == ["a", "b"]


def test_counts_are_short() -> None:
    assert [short_count(n) for n in (0, 999, 1_000, 63_531_941, 1.738e9)] == ["0", "999", "1k", "63.5M", "1.74G"]


def test_points_bars_and_the_front_are_where_the_numbers_say(tmp_path: Path, figures: list[Any]) -> None:
    draw_cost(tmp_path / "new" / "cost.png", PAPER, title="Table 3")
    assert pixels_of(tmp_path / "new" / "cost.png").shape == (750, 1100, 3)
    axes = figures[0].axes[0]
    assert axes.get_xscale() == "log"
    front = axes.lines[0]
    assert front.get_ydata().tolist() == [42.2, 45.6, 45.9]
    discs = [c for c in axes.collections if hasattr(c, "get_sizes") and len(c.get_offsets()) == 1]
    drawn = {tuple(disc.get_offsets()[0]): float(disc.get_sizes()[0]) for disc in discs}
    areas = {p.name: drawn[p.multiply_adds, p.accuracy] for p in PAPER}
    assert areas["3D-Res34"] / areas["2D-Res18"] == pytest.approx(63_531_941 / 11_232_549)
    assert [text.get_text() for text in axes.texts if text.get_text()] == [p.name for p in PAPER]
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels == ["Pareto front", "the largest point: 63.5M parameters; areas are in proportion"]


def test_names_overlap_neither_each_other_nor_the_edge_of_the_page(tmp_path: Path, figures: list[Any]) -> None:
    crowd = [CostPoint(f"network {i}", 1_000_000, 10**9 + i * 3 * 10**7, 50 + 0.1 * i, 0.2) for i in range(8)]
    draw_cost(tmp_path / "cost.png", crowd, title="crowd")
    renderer = figures[0].canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figures[0].axes[0].texts]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= 1100 and box.y0 >= 0 and box.y1 <= 750 for box in boxes)


def test_one_network_alone_can_be_drawn(tmp_path: Path) -> None:
    draw_cost(tmp_path / "cost.png", PAPER[:1], title="one")
    assert pixels_of(tmp_path / "cost.png").shape == (750, 1100, 3)


def some_run(folder: Path, **options: Any) -> Run:
    losses = {step: 2.0 - step / 100 for step in range(10, 101, 10)}
    return read_curves(write_run(folder, losses=losses, accuracies={50: 0.25, 100: 0.5}, **options))


def test_raw_and_smoothed_losses_and_accuracies_in_per_cent_are_drawn(tmp_path: Path, figures: list[Any]) -> None:
    draw_curves(tmp_path / "new" / "c.png", [some_run(tmp_path / "a")], title="title")
    left, right = figures[0].axes
    raw, mean, *_ = left.lines
    assert raw.get_alpha() < 0.5
    assert raw.get_ydata()[:3] == pytest.approx([1.9, 1.8, 1.7])
    assert mean.get_ydata()[:3] == pytest.approx([1.9, 1.8, 1.7])  # a window of 2 steps holds one point
    assert mean.get_xdata().tolist() == list(range(10, 101, 10))
    assert right.lines[0].get_xdata().tolist() == [50, 100]
    assert right.lines[0].get_ydata().tolist() == [25, 50]
    assert right.lines[-1].get_ydata() == [25, 25]  # chance
    assert pixels_of(tmp_path / "new" / "c.png").shape == (608, 1400, 3)


def test_clips_are_steps_times_the_global_batch(tmp_path: Path, figures: list[Any]) -> None:
    runs = [some_run(tmp_path / "a", global_batch_size=4), some_run(tmp_path / "b", global_batch_size=32)]
    draw_curves(tmp_path / "c.png", runs, title="", x="clips")
    left, right = figures[0].axes
    assert [line.get_xdata()[-1] for line in left.lines] == [400, 400, 3_200, 3_200]
    assert right.lines[1].get_xdata().tolist() == [1_600, 3_200]
    assert left.get_xlabel() == "clips trained on"


def test_the_legend_names_each_run_and_what_sets_it_apart(tmp_path: Path, figures: list[Any]) -> None:
    runs = [some_run(tmp_path / "a" / "seed0", lr=0.01), some_run(tmp_path / "b" / "seed0", lr=0.1)]
    draw_curves(tmp_path / "c.png", runs, title="")
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["a/seed0:  lr 0.01", "b/seed0:  lr 0.1"]
    box = legend.get_window_extent(figures[0].canvas.get_renderer())
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert all(box.y1 <= axes.get_window_extent().y0 for axes in figures[0].axes)


def test_ten_runs_look_different_and_their_legend_stays_on_the_page(tmp_path: Path, figures: list[Any]) -> None:
    runs = [some_run(tmp_path / f"{i}", seed=i) for i in range(10)]
    draw_curves(tmp_path / "c.png", runs, title="")
    (legend,) = figures[0].legends
    looks = {(line.get_color(), line.get_linestyle()) for line in legend.get_lines()}
    assert len(looks) == 10
    box = legend.get_window_extent(figures[0].canvas.get_renderer())
    assert box.y0 >= 0
    assert box.x1 <= 1400


def test_28_lines_differ() -> None:
    assert len({tuple(line_style(place).values()) for place in range(len(COLORS) * len(DASHES))}) == 28


def test_learning_rate_steps_are_marked_in_both_panels(tmp_path: Path, figures: list[Any]) -> None:
    run = some_run(tmp_path / "a", schedule=ScheduleConfig("step", decay_every=40), steps=100)
    draw_curves(tmp_path / "c.png", [run], title="")
    left, right = figures[0].axes
    for axes in (left, right):
        assert [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]] == [40, 80]


def test_a_table_shows_ours_beside_the_papers_and_leaves_out_the_rest(tmp_path: Path, figures: list[Any]) -> None:
    rows = [TableRow("a", 50.0, 2.0, 42.2), TableRow("b", None, None, 45.6), TableRow("c", 60.0, None, None)]
    draw_table(tmp_path / "t.png", rows, title="", factor="depth", chance=25.0)
    (axes,) = figures[0].axes
    assert [text.get_text() for text in axes.texts] == ["50.0", "60.0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    (paper,) = [c for c in axes.collections if c.get_label() == "the paper, all of UCF101"]
    assert [tuple(place) for place in paper.get_offsets().tolist()[:2]] == [(0, 42.2), (1, 45.6)]
