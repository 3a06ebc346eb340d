"""The page of runs in a real browser: a real training, a stopped run with a damaged log, one that has just begun."""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_ucf101
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.tools.figures.filters import as_colors
from res3d_video.tools.pages.run_facts import Mistake, checkpoint_files
from res3d_video.tools.pages.run_page import chart_values, filter_image, filter_values, mistake_clips
from res3d_video.tools.report import main
from res3d_video.tools.run_reader import read_run
from res3d_video.train.main import main as train_main
from tests.browser import DESK, PHONE, Scheme, complaints, leaves, opened, scrolls_sideways, walk
from tests.schemas import check_schema
from tests.tools.figures.made import write_checkpoint
from tests.tools.pages.made_runs import scored_line, train_line, write_run, write_scores
from tests.train.conftest import SMALL, build_squares


@dataclass(frozen=True)
class Made:
    """The runs, their page and its facts."""

    runs: list[Path]
    index: ShardIndex
    page: Path
    facts: dict[str, Any]


def report(*options: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, options)], catch_exceptions=False)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return build_squares(tmp_path_factory.mktemp("squares"), classes={"left": -3, "right": 3}, num_groups=3)


@pytest.fixture(scope="module")
def trained(squares: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps, evaluated at two."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    options = ["--steps", "4", "--eval-every", "2", "--save-every", "2", "--width", "4"]
    command = ["--data", str(squares.data_dir), "--out", str(out), *SMALL, *options]
    result = CliRunner().invoke(train_main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def made(squares: ShardIndex, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One page for all tests; the mistakes of the training are written by hand, those of `stopped` have no shards."""
    root = tmp_path_factory.mktemp("page")
    keys = [squares.key(row) for row in squares.samples_of("1", "test")]
    write_scores(trained, ["left", "right"], [(keys[0], "left", "right", 0.6), (keys[1], "right", "left", 0.9)], step=4)
    lines = [train_line(step, wait_s=1.0, num_replaced=7) for step in (10, 20, 30)]
    names = {"key": "00000012", "tar": "<b>a</b>.tar", "reason": "it does not decode"}
    lines += [{"event": "damaged", "step": 10} | names, scored_line("eval", 30, 0.5, unreadable=[names])]
    stopped = write_run(root / "stopped", lines, steps=90, data="ucf101")
    (stopped / "metrics.jsonl").write_text("damage\n" + (stopped / "metrics.jsonl").read_text())
    (stopped / "latest.pt").write_bytes(b"no checkpoint")
    write_scores(stopped, ["a", "b", "<b>c</b>"], [("v1", "a", "<b>c</b>", 0.8), ("v2", "b", "b", 0.7)], step=30)
    begun = write_run(root / "begun", [], steps=90, data="ucf101")
    page, facts = root / "new" / "runs.html", root / "new" / "facts.json"
    result = report(trained, stopped, begun, "--out", page, "--json", facts, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].startswith(f"page {page}")
    assert result.stderr == ""
    told = json.loads(facts.read_text())
    check_schema("report run", told)
    return Made([trained, stopped, begun], squares, page, told)


LOOKS: list[tuple[Scheme, tuple[int, int]]] = [("light", DESK), ("dark", PHONE), ("light", PHONE), ("dark", DESK)]


@pytest.mark.parametrize(("scheme", "window"), LOOKS)
def test_the_page_is_whole_and_alone_and_fits(
    made: Made, chromium: Any, scheme: Scheme, window: tuple[int, int]
) -> None:
    with opened(chromium, made.page, scheme=scheme, window=window) as (page, seen):
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert not scrolls_sideways(page)
        assert seen.errors == []
        assert leaves(seen, made.page) == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize(("scheme", "window"), LOOKS[:2])
def test_axe_has_no_serious_complaint(made: Made, chromium: Any, scheme: Scheme, window: tuple[int, int]) -> None:
    with opened(chromium, made.page, scheme=scheme, window=window) as (page, _):
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert complaints(page) == []


def test_the_most_confident_mistake_comes_first_and_plays(made: Made, chromium: Any) -> None:
    with opened(chromium, made.page) as (page, _):
        players = page.locator("#mistakes .player")
        assert players.count() == 2
        first = players.first
        assert "right, predicted left, 90 %" in first.inner_text()
        assert first.get_attribute("data-now") == "0"
        first.locator(".screen").click()
        page.locator("#mistakes .player:not([data-now='0'])").first.wait_for()
        assert first.locator(".screen").get_attribute("aria-pressed") == "true"
        assert page.evaluate("[...document.querySelectorAll('#mistakes img')].every(one => one.naturalHeight > 0)")


def test_the_keyboard_reaches_navigation_and_opens_what_is_folded(made: Made, chromium: Any) -> None:
    with opened(chromium, made.page) as (page, _):
        assert walk(page, steps=3) == ["Skip to the content", "Summary", "Curves"]
        page.locator("#settings summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("#settings details").first.evaluate("one => one.open")


def test_every_chart_says_what_it_shows_and_its_values_under_the_pointer(made: Made, chromium: Any) -> None:
    with opened(chromium, made.page) as (page, _):
        charts = page.locator("figure.chart")
        names = [name.partition(",")[0] for name in charts.locator("h3").all_inner_texts()]
        learning = ["Training loss", "Test accuracy", "Learning rate"]
        assert names == [*learning, *learning, "Clips per second", "Waiting for data"]
        texts = [charts.nth(i).locator("svg").get_attribute("aria-label") for i in range(8)]
        assert "stopped goes from 0.400 at step 10 to" in texts[3]
        assert charts.nth(4).locator("title").all_text_contents() == ["step 30\nstopped: 50.0 %\n"]


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(made: Made, chromium: Any) -> None:
    with opened(chromium, made.page) as (page, _):
        summary = page.locator("#summary").inner_text()
        assert "1 damaged line left out, the first is line 1" in summary
        assert "Damaged samples were replaced: stopped 7. tools/check_shards.py" in summary
        assert "stopped at step 30 of 90" in summary
        assert "begun" in summary
        assert "checkpoint: " in page.locator("#settings").inner_text()
        assert "begun: not scored yet, for there is no checkpoint" in page.locator("#classes").inner_text()
        assert "Clips can be shown when the shards are given with --data." in page.locator("#mistakes").text_content()
        assert "<b>c</b>" in page.locator("#classes").text_content()


def test_the_facts_are_the_pages_numbers(made: Made) -> None:
    trained, stopped, begun = made.facts["runs"]
    assert (trained["state"], trained["step"], trained["steps"]) == ("finished", 4, 4)
    assert [file["name"] for file in trained["checkpoints"]] == ["latest.pt", "best.pt", "previous.pt"]
    assert [one["confidence"] for one in trained["mistakes"]] == [0.9, 0.6]
    assert trained["clip_at_1"] is not None
    assert (stopped["clip_at_1"], stopped["best_step"], stopped["hours"] * 3600) == (0.5, 30, pytest.approx(6))
    assert stopped["checkpoints"][0]["error"].startswith("checkpoint: ")
    assert (begun["state"], begun["step"], begun["mistakes"], begun["clips_per_s"]) == ("stopped", 0, None, None)
    assert "steps" in made.facts["differ"]


def test_one_run_is_scored_where_that_is_new_and_finds_its_shards_by_itself(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.html"
    (trained / "scores.json").unlink(missing_ok=True)
    for options, is_scored in ((["--no-evaluate"], False), ([], True), ([], False), (["--evaluate"], True)):
        result = report(trained, *options, "--out", out)
        assert result.exit_code == 0, result.output
        assert ("evaluating" in result.stderr) == is_scored
    scores = json.loads((trained / "scores.json").read_text())
    assert (scores["step"], scores["subset"], scores["num_videos"]) == (4, "test", 2)
    html = out.read_text()
    wrong = sum(one["label"] != one["predicted"] for one in scores["predictions"])
    assert html.count('aria-label="Play mistake ') == wrong


def test_many_runs_have_tables_of_all_and_charts_of_some(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"r{i:02d}", [train_line(1), train_line(2)], seed=i, steps=9) for i in range(15)]
    result = report(*runs, "--out", tmp_path / "many.html")
    assert result.exit_code == 0, result.output
    html = (tmp_path / "many.html").read_text()
    assert "15 runs" in html
    assert "3 more runs are only in the tables" in html
    assert "They differ in seed." in html
    assert all(f"r{i:02d} goes from" in html for i in range(12))
    assert "r12 goes from" not in html


def test_errors_are_one_line_and_leave_no_page(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    empty = tmp_path / "empty"
    empty.mkdir()
    for options, message in (
        ([tmp_path / "nowhere"], "nowhere: there is no such run; give the --out of train/main.py"),
        ([trained, empty], "empty: neither config.json nor metrics.jsonl, so it is not a run's folder"),
        ([write_run(tmp_path / "far", [train_line(1)]), "--evaluate"], "far: --evaluate needs the shards"),
    ):
        result = report(*options, "--out", out)
        assert result.exit_code == 1
        assert message in result.stderr.splitlines()[-1]
        assert result.stderr.splitlines()[-1].startswith("error: ")
        assert not out.exists()
    assert report(trained, "--out", tmp_path / "page.txt").exit_code == 2
    assert report().exit_code == 2


def test_the_clip_of_a_mistake_is_the_center_one_and_other_keys_are_left_out(squares: ShardIndex) -> None:
    row = int(squares.samples_of("1", "test")[0])
    known = Mistake(squares.key(row), "left/a.mp4", "left", "right", 0.75, 0.25)
    unknown = Mistake("no-such-key", "b.mp4", "left", "right", 0.7, None)
    (clip,) = mistake_clips(squares, [known, unknown], ClipSpec(4, 2, 32), name="run")
    # 20 frames, 4 at stride 2 span 7: 14 starts, the middle one is 13 // 2 = 6
    assert clip.shown == [6, 8, 10, 12]
    assert clip.caption == "left, predicted right, 75 %"


def test_a_mistake_whose_strips_are_damaged_is_left_out(tmp_path: Path) -> None:
    index = build_squares(tmp_path, classes={"left": -3, "right": 3}, num_groups=2)
    row = int(index.samples_of("1", "test")[0])
    mistake = Mistake(index.key(row), "left/a.mp4", "left", "right", 0.75, 0.25)
    tar = index.data_dir / index.tars[0]
    tar.write_bytes(bytes(len(tar.read_bytes())))
    assert mistake_clips(open_index(index.data_dir), [mistake], ClipSpec(4, 2, 32), name="run") == []


def test_runs_on_other_data_or_other_numbers_of_classes_share_no_chart(tmp_path: Path) -> None:
    runs = []
    for name, data, chance in (("a", "demo", 0.2), ("b", "demo", 0.01), ("c", "other", 0.2), ("d", "demo", 0.2)):
        lines = [train_line(1), scored_line("eval", 1, 0.5) | {"chance": chance}]
        runs.append(read_run(write_run(tmp_path / name, lines, data=data)))
    groups = chart_values(runs)["curve_groups"]
    assert [group["name"] for group in groups] == ["demo, 5 classes", "demo, 100 classes", "other, 5 classes"]
    assert [[name for name, _ in group["legend"]] for group in groups] == [["a", "d"], ["b"], ["c"]]


def test_a_run_without_an_evaluation_is_drawn_with_those_on_its_data(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / "a", [train_line(1), scored_line("eval", 1, 0.5)]))]
    runs += [read_run(write_run(tmp_path / "b", [train_line(1)]))]
    (group,) = chart_values(runs)["curve_groups"]
    assert [name for name, _ in group["legend"]] == ["a", "b"]


def test_filters_are_tiles_with_their_slices_side_by_side(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(5, 3, 4, 7, 7)).astype(np.float32)
    pixels = np.asarray(Image.open(io.BytesIO(filter_image(weight))))
    colors, scale = as_colors(weight), 6
    assert (pixels[: 7 * scale : scale, : 7 * scale : scale] == colors[0, 0]).all()
    write_checkpoint(tmp_path / "latest.pt", model="res3d10")
    run = read_run(write_run(tmp_path, [train_line(1)]))
    values = filter_values(run, checkpoint_files(tmp_path))
    assert values["image"].startswith(b"\x89PNG")
    assert "filters of 3×7×7" in values["caption"]
    assert filter_values(run, [])["image"] is None


@pytest.mark.slow
def test_two_trainings_on_real_clips_become_a_page(shared_data: Path, tmp_path: Path, chromium: Any) -> None:
    listing = list_ucf101(shared_data / "ucf101")
    chosen = [r for r in listing.records if r.group.endswith(("g01", "g16")) and "_c01" in r.source]
    assert len({r.class_name for r in chosen}) == 5  # a training and a test video of each
    build_shards(replace(listing, records=chosen), tmp_path / "shards", BuildSettings(size=64), workers=2)
    runs = [tmp_path / "first", tmp_path / "second"]
    for seed, out in enumerate(runs):
        command = ["--data", str(tmp_path / "shards"), "--out", str(out), *SMALL, "--steps", "3", "--seed", str(seed)]
        assert CliRunner().invoke(train_main, command, catch_exceptions=False).exit_code == 0
    path = tmp_path / "page.html"
    result = report(*runs, "--out", path)
    assert result.exit_code == 0, result.output
    with opened(chromium, path, scheme="dark", window=PHONE) as (page, seen):
        assert page.locator("#mistakes .player").count() > 0
        assert page.locator("#filters img").count() == 2
        assert seen.errors == []
        assert leaves(seen, path) == []
        assert not scrolls_sideways(page)
        assert complaints(page) == []
        assert page.locator(".legend").first.inner_text().split() == ["first", "second"]


def test_damaged_samples_are_named(made: Made) -> None:
    (stopped,) = [run for run in made.facts["runs"] if run["name"] == "stopped"]
    names = {"key": "00000012", "tar": "<b>a</b>.tar", "reason": "it does not decode"}
    assert (stopped["num_replaced"], stopped["damaged"]) == (7, [names | {"step": 10}, names | {"step": 30}])
    html = made.page.read_text()
    assert html.count("&lt;b&gt;a&lt;/b&gt;.tar") == 2
    assert "<b>a</b>.tar" not in html
