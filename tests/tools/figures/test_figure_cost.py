"""tools/figures/cost.py: the front, the ticks, the table, and what is drawn."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from res3d_video.tools.figures.cost import (
    Box,
    CostPoint,
    draw_cost,
    pareto_front,
    read_points,
    shared_area,
    short_count,
    ticks_1_2_5,
)
from tests.tools.figures.made import pixels_of

HEAD = "row,model,parameters,multiply_adds,clip_accuracy,clip_accuracy_spread,paper_clip_accuracy"
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


@pytest.mark.parametrize(("low", "high"), [(1.0, 10.0), (3.1, 3.2), (0.07, 900.0), (5.0, 5.0), (2e9, 3e9)])
def test_there_are_always_two_ticks_in_rising_order_and_those_inside_are_all_there(low: float, high: float) -> None:
    ticks = ticks_1_2_5(low, high)
    assert len(ticks) >= 2 or low == high
    assert ticks == sorted(set(ticks))
    assert all(float(f"{tick:e}"[0]) in (1, 2, 5) for tick in ticks)
    assert [t for t in (0.1, 1.0, 2.0, 5.0, 10.0, 500.0) if low <= t <= high and t not in ticks] == []


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
    assert len(axes.containers) == 3  # error bars of those that have a spread
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels == ["Pareto front", "11.2M parameters", "63.5M parameters"]


def test_names_overlap_neither_each_other_nor_the_edge_of_the_page(tmp_path: Path, figures: list[Any]) -> None:
    crowd = [CostPoint(f"network {i}", 1_000_000, 10**9 + i * 3 * 10**7, 50 + 0.1 * i, 0.2) for i in range(8)]
    draw_cost(tmp_path / "cost.png", crowd, title="crowd")
    renderer = figures[0].canvas.get_renderer()
    boxes = [Box(*t.get_window_extent(renderer).extents) for t in figures[0].axes[0].texts if t.get_text()]
    assert len(boxes) == 8
    assert all(shared_area(a, b) < 1 for a, b in itertools.combinations(boxes, 2))
    assert all(box.left >= 0 and box.right <= 1100 and box.bottom >= 0 and box.top <= 750 for box in boxes)


def test_one_network_alone_can_be_drawn(tmp_path: Path) -> None:
    draw_cost(tmp_path / "cost.png", PAPER[:1], title="one")
    assert pixels_of(tmp_path / "cost.png").shape == (750, 1100, 3)


def test_nothing_to_draw_and_costs_of_zero_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^cost: there are no points; give at least one network$"):
        draw_cost(tmp_path / "cost.png", [], title="")
    with pytest.raises(ValueError, match=r"^cost: x has 1 parameters and 0 multiply-adds; both must be above 0$"):
        draw_cost(tmp_path / "cost.png", [point(0, 1.0, "x")], title="")


def test_a_table_is_read_and_rows_that_were_not_run_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(
        f"{HEAD}\n3D,res3d18,33222309,20451000000,45.6,0.5,45.6\n2D,res2d18,11,17,42.25,,\nMC2,mc2,1,2,,,\n"
    )
    assert read_points(path) == [CostPoint("3D", 33_222_309, 20_451_000_000, 45.6, 0.5), CostPoint("2D", 11, 17, 42.25)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row,parameters\n", "no column multiply_adds; give a table with row, parameters,"),
        (f"{HEAD}\n3D,res3d18,1,2,,,\n", "no row has a clip_accuracy; run the study first"),
        (f"{HEAD}\n3D,res3d18,1,2,4,,\n3D,res3d18,many,2,4,,\n", "csv:3: parameters is 'many'; write a number"),
        (f"{HEAD}\n3D,res3d18,1,2,nan,,\n", "csv:2: clip_accuracy is 'nan'; write a number"),
        ("", "no column row; give a table with"),
    ],
)
def test_a_wrong_table_gets_one_line_that_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_points(path)
    assert "\n" not in str(error.value)


def test_a_picture_is_not_a_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="line 1: is not UTF-8; save the file as UTF-8"):
        read_points(path)
