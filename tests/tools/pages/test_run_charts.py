"""What charts of runs draw: the numbers of the log where they belong, and words that say the same."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from res3d_video.tools.pages.run.axes import differ_in_length
from res3d_video.tools.pages.run.charts import accuracy_chart, loss_chart, rate_chart, wait_chart
from res3d_video.tools.pages.run.facts import Run
from res3d_video.tools.pages.run.looks import Look, key
from res3d_video.tools.pages.run.reading import read_runs
from tests.tools.pages.made_runs import scored_line, train_line, write_run

pytest.importorskip("matplotlib", reason="charts need matplotlib")


def runs_of(tmp_path: Path, lengths: Sequence[int], **options: int) -> list[Run]:
    folders = [
        write_run(tmp_path / f"r{n}", [train_line(step) for step in range(1, n + 1)], steps=n, seed=i, **options)
        for i, n in enumerate(lengths)
    ]
    return read_runs(folders)


def test_28_runs_differ_in_colour_and_dashes_and_neighbours_in_both() -> None:
    looks = [Look(place) for place in range(28)]
    assert len({(look.color, look.dashes) for look in looks}) == 28
    assert all(a.color != b.color and a.dashes != b.dashes for a, b in itertools.pairwise(looks))


def test_the_key_shows_the_colours_and_dashes_of_the_charts(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, [3, 4])
    assert key(runs[:1]) == ""
    html = key(runs)
    assert "var(--c1); stroke-dasharray: none" in html
    assert "var(--c2); stroke-dasharray: 7 4" in html


def test_the_words_and_the_table_have_the_numbers_of_the_log(tmp_path: Path) -> None:
    html = loss_chart(runs_of(tmp_path, [4]))
    assert "r4 goes from 4.000 at step 1 to 1.000 at step 4, between 1.000 and 4.000." in html
    assert "As logged." in html  # a mean of one step
    for value in ("4.000", "2.000", "1.333", "1.000"):
        assert f">{value}</td>" in html


def test_a_long_run_is_averaged_over_a_fiftieth_of_it(tmp_path: Path) -> None:
    html = loss_chart(runs_of(tmp_path, [100]))
    assert "Faint: as logged; strong: mean of 2 steps." in html
    assert "a fiftieth of each run" in loss_chart(runs_of(tmp_path / "more", [100, 200]))


def test_runs_of_very_different_lengths_share_a_logarithmic_axis(tmp_path: Path) -> None:
    assert not differ_in_length(runs_of(tmp_path / "a", [3, 36]))
    runs = runs_of(tmp_path / "b", [3, 37])
    assert differ_in_length(runs)
    assert "step, logarithmic" in loss_chart(runs)


def test_learning_rate_steps_are_marked_unless_there_are_too_many(tmp_path: Path) -> None:
    path = tmp_path / "r"
    about = '"decay_every": 20000'
    for every, marked in ((2, True), (1, False)):
        lines = [train_line(step) for step in range(1, 61)]
        config = write_run(path, lines, steps=60) / "config.json"
        config.write_text(config.read_text().replace(about, f'"decay_every": {every}'))
        (run,) = read_runs([path])
        assert len(run.drops) == 60 // every - 1
        assert ("learning rate goes down" in loss_chart([run])) == marked


def test_every_evaluation_and_the_chance_level_are_drawn(tmp_path: Path) -> None:
    lines = [scored_line("eval", 10, 0.25), scored_line("eval", 20, 0.75), scored_line("final", 30, 0.5)]
    html = accuracy_chart(read_runs([write_run(tmp_path / "run", lines)]))
    assert "run is best at step 20 with 75.0 %." in html
    assert "chance 25.0 %" in html
    assert all(f">{value} %</td>" in html for value in ("25.0", "75.0", "50.0"))


def test_the_wait_is_drawn_without_the_first_line_beside_what_is_right(tmp_path: Path) -> None:
    lines = [train_line(1, wait_s=1.9), train_line(2, wait_s=0.02), train_line(3, wait_s=0.04)]
    html = wait_chart(read_runs([write_run(tmp_path / "run", lines)]), most=0.05)
    assert "run goes from 1.00 % at step 2 to 2.00 % at step 3" in html
    assert "at most 5 % is right" in html


def test_rates_are_plain_numbers_and_names_are_safe_in_html(tmp_path: Path) -> None:
    html = rate_chart(read_runs([write_run(tmp_path / "<b>", [train_line(1), train_line(2, lr=0.001)])]))
    assert "0.01" in html
    assert "mathdefault" not in html
    assert "<b>" not in html
    assert "&lt;b&gt; goes from 0.01 at step 1 to 0.001 at step 2" in html
