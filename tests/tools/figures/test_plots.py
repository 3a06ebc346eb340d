"""tools/figures/plots.py: bars, curves, what sets runs apart, and the study's table beside the paper's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.bench.measure import Spread
from res3d_video.tools.figures.plots import draw, draw_curves, draw_table, read_curves, what_differs
from res3d_video.tools.run_reader import Curve, Run, distinct_names, read_metrics, running_mean
from res3d_video.train.config import TrainConfig, override
from tests.tools.figures.made import pixels_of, write_run

OURS = {"loader alone": Spread(15_000, 14_200, 15_100), "real step": Spread(2_500, 2_480, 2_520)}
PEERS = {"PyAV DataLoader": Spread(19.7, 19.0, 21.0)}


def test_a_bar_is_as_long_as_its_median_and_its_number_stands_beside_it(tmp_path: Path, figures: list[Any]) -> None:
    draw(tmp_path / "new" / "bench.png", "title", OURS, PEERS)
    assert pixels_of(tmp_path / "new" / "bench.png").shape == (700, 1200, 3)
    (axes,) = figures[0].axes
    assert [bar.get_width() for bar in axes.patches] == [15_000, 2_500, 19.7]
    assert [text.get_text() for text in axes.texts] == ["15,000", "2,500", "19.7"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*OURS, *PEERS]


def some_run(folder: Path, **options: Any) -> Run:
    losses = {step: 2.0 - step / 100 for step in range(10, 101, 10)}
    return read_curves(write_run(folder, losses=losses, accuracies={50: 0.25, 100: 0.5}, **options))


def test_raw_and_smoothed_losses_and_accuracies_in_per_cent_are_drawn(tmp_path: Path, figures: list[Any]) -> None:
    draw_curves(tmp_path / "new" / "c.png", [some_run(tmp_path / "a")])
    left, right = figures[0].axes
    raw, mean, *_ = left.lines
    assert raw.get_alpha() < 0.5
    assert raw.get_ydata()[:3] == pytest.approx([1.9, 1.8, 1.7])
    assert mean.get_ydata()[:3] == pytest.approx([1.9, 1.8, 1.7])  # a window of 2 steps holds one point
    assert right.lines[0].get_xdata().tolist() == [50, 100]
    assert right.lines[0].get_ydata().tolist() == [25, 50]
    assert right.lines[-1].get_ydata() == [25, 25]  # chance


def test_ten_runs_look_different_and_their_legend_stays_on_the_page(tmp_path: Path, figures: list[Any]) -> None:
    runs = [some_run(tmp_path / f"{i}" / "seed", seed=i) for i in range(10)]
    draw_curves(tmp_path / "c.png", runs)
    (legend,) = figures[0].legends
    assert len({(line.get_color(), line.get_linestyle()) for line in legend.get_lines()}) == 10
    assert legend.get_texts()[3].get_text() == "3/seed:  seed 3"
    box = legend.get_window_extent(figures[0].canvas.get_renderer())
    assert box.y0 >= 0
    assert box.x1 <= 1400
    assert all(box.y1 <= axes.get_window_extent().y0 for axes in figures[0].axes)


def test_what_differs_names_every_field_in_which_not_all_agree_but_no_bookkeeping(tmp_path: Path) -> None:
    runs = [
        some_run(tmp_path / "a", lr=0.01, log_every=5),
        some_run(tmp_path / "b", lr=0.02, save_every=9),
        some_run(tmp_path / "c", model="res3d34"),
    ]
    assert what_differs(runs) == ["lr 0.01, model res3d18", "lr 0.02, model res3d18", "lr 0.01, model res3d34"]
    assert what_differs(runs[:1]) == [""]
    assert what_differs([runs[0], some_run(tmp_path / "d", data="other")]) == ["data demo", "data other"]


def test_folders_that_are_no_runs_get_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing: there is no such run; give the --out of train/main"):
        read_curves(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"empty: no training step in metrics.jsonl yet; wait for --log-every"):
        read_curves(write_run(tmp_path / "empty", losses={}))
    run = write_run(tmp_path / "run", losses={1: 1.0})
    (run / "config.json").write_text(json.dumps({"config": {"model": {"name": "res9"}}}))
    with pytest.raises(UserError, match=r"config.json: model: res9 does not exist"):
        read_curves(run)


def test_wherever_the_last_line_is_cut_off_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first, last = '{"event": "train", "step": 1, "loss": 2.0}\n', '{"event": "train", "step": 2, "loss": 1.0}\n'
    for length in range(len(last) + 1):
        path.write_text(first + last[:length])
        assert len(read_metrics(path)[0]) == (2 if length >= len(last) - 1 else 1)


@pytest.mark.parametrize("bad", ["{", "[]", '{"event": "train"}', "\0\0", '{"event": "train", "step": 1e400}'])
def test_a_damaged_line_before_the_last_is_named(tmp_path: Path, bad: str) -> None:
    folder = write_run(tmp_path / "a", losses={1: 2.0, 3: 1.0})
    first, last = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text(f"{first}{bad}\n{last}")
    with pytest.raises(UserError, match=r"metrics.jsonl: 1 damaged line left out, the first is line 2; mend the file"):
        read_curves(folder)


@pytest.mark.parametrize("window", [1, 10, 1_000])
def test_the_running_mean_is_the_mean_of_the_points_in_the_window(window: int) -> None:
    generator = np.random.default_rng(0)
    steps, values = np.cumsum(generator.integers(1, 9, size=60)), generator.normal(size=60)
    expected = [values[(steps > end - window) & (steps <= end)].mean() for end in steps]
    np.testing.assert_allclose(running_mean(Curve(steps, values), window=window).values, expected, atol=1e-12)


def test_names_are_as_short_as_they_can_be_and_differ() -> None:
    folders = [Path(name) for name in ("x/a/seed0", "x/b/seed0", "y/b/seed0", "z/seed1", "c")]
    assert distinct_names(folders) == ["a/seed0", "x/b/seed0", "y/b/seed0", "seed1", "c"]
    assert distinct_names([Path("runs/a"), Path("runs/a")]) == ["a", "a"]


def test_configs_written_by_older_versions_are_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", losses={1: 1.0}, seed=3)
    about = json.loads((folder / "config.json").read_text())
    del about["config"]["snap_to_keyframe"]
    (folder / "config.json").write_text(json.dumps(about))
    assert read_curves(folder).config == override(TrainConfig(), seed=3)


def test_a_table_shows_ours_beside_the_papers_and_leaves_out_the_rest(tmp_path: Path, figures: list[Any]) -> None:
    ours, paper = {"a": [48.0, 52.0], "c": [60.0]}, {"a": 42.2, "b": 45.6, "c": None}
    draw_table(tmp_path / "t.png", ours, paper, title="", factor="depth", chance=25.0)
    (axes,) = figures[0].axes
    assert [text.get_text() for text in axes.texts] == ["50.0", "60.0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    (printed,) = [c for c in axes.collections if c.get_label() == "the paper, all of UCF101"]
    assert [tuple(place) for place in printed.get_offsets().tolist()[:2]] == [(0, 42.2), (1, 45.6)]
