"""tools/figures/curves.py: what the two panels and the legend show."""

from pathlib import Path
from typing import Any

import pytest

from res3d_video.tools.figures.colors import DASHES, MANY, look_of
from res3d_video.tools.figures.curves import RunCurves, draw_curves, read_curves
from res3d_video.train.config import ScheduleConfig
from tests.tools.figures.made import pixels_of, write_run


def some_run(folder: Path, **options: Any) -> RunCurves:
    losses = {step: 2.0 - step / 100 for step in range(10, 101, 10)}
    return read_curves(write_run(folder, losses=losses, accuracies={50: 0.25, 100: 0.5}, **options))


def test_raw_and_smoothed_losses_and_accuracies_in_per_cent_are_drawn(tmp_path: Path, figures: list[Any]) -> None:
    draw_curves(tmp_path / "new" / "c.png", [some_run(tmp_path / "a")], title="title", window=20)
    left, right = figures[0].axes
    raw, mean, _ = left.lines
    assert raw.get_alpha() < 0.5
    assert raw.get_ydata()[:3] == pytest.approx([1.9, 1.8, 1.7])
    assert mean.get_ydata()[:3] == pytest.approx([1.9, 1.85, 1.75])
    assert mean.get_xdata().tolist() == list(range(10, 101, 10))
    assert right.lines[0].get_xdata().tolist() == [50, 100]
    assert right.lines[0].get_ydata().tolist() == [25, 50]
    assert [text.get_text() for text in right.texts] == ["chance 25.0%"]
    assert pixels_of(tmp_path / "new" / "c.png").shape == (608, 1400, 3)


def test_clips_are_steps_times_the_global_batch(tmp_path: Path, figures: list[Any]) -> None:
    runs = [some_run(tmp_path / "a", global_batch_size=4), some_run(tmp_path / "b", global_batch_size=32)]
    draw_curves(tmp_path / "c.png", runs, title="", x="clips")
    left, right = figures[0].axes
    assert [line.get_xdata()[-1] for line in left.lines if len(line.get_xdata())] == [400, 400, 3_200, 3_200]
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


def test_28_looks_differ() -> None:
    assert len({look_of(place)[:2] for place in range(len(MANY) * len(DASHES))}) == 28


def test_learning_rate_steps_are_marked_in_both_panels(tmp_path: Path, figures: list[Any]) -> None:
    run = some_run(tmp_path / "a", schedule=ScheduleConfig("step", decay_every=40), steps=100)
    draw_curves(tmp_path / "c.png", [run], title="")
    left, right = figures[0].axes
    for axes in (left, right):
        assert [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]] == [40, 80]
    assert [text.get_text() for text in left.texts] == ["learning rate steps"]


def test_a_run_without_an_evaluation_says_so(tmp_path: Path, figures: list[Any]) -> None:
    run = read_curves(write_run(tmp_path / "a", losses={10: 1.0}))
    draw_curves(tmp_path / "c.png", [run], title="")
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["not evaluated yet"]


def test_no_run_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^curves: there is no run; give at least one folder$"):
        draw_curves(tmp_path / "c.png", [], title="")
