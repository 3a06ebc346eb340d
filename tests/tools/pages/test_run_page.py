"""The page of runs, in a browser and out of it; and what it says of evaluations."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.tools.pages import run_page as pages
from res3d_video.tools.report import main
from res3d_video.tools.run_reader import Run, read_run
from res3d_video.train.config import TrainConfig
from tests.browser import DESK, PHONE, Scheme, complaints, leaves, opened, scrolls_sideways, walk
from tests.tools.commands import run
from tests.tools.pages.made_runs import scored_line, train_line, write_run, write_scores
from tests.train.conftest import build_squares

CLASSES = ["dive", "jump", "swing", "walk"]
VIDEOS = [
    ("v1", "dive", "dive", 0.9), ("v2", "dive", "swing", 0.6), ("v3", "jump", "dive", 0.95),
    ("v4", "jump", "jump", 0.5), ("v5", "swing", "dive", 0.6), ("v6", "swing", "swing", 0.99),
    ("v0", "jump", "dive", 0.7),
]  # fmt: skip


def report(*options: object) -> Result:
    return run(main, "run", *options)


@pytest.fixture(scope="module")
def made(squares: ShardIndex, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One page for all tests; the mistakes of the training are written by hand, those of `stopped` have no shards."""
    root = tmp_path_factory.mktemp("page")
    keys = [squares.key(row) for row in squares.samples_of("1", "test")]
    write_scores(trained, ["left", "right"], [(keys[0], "left", "right", 0.6), (keys[1], "right", "left", 0.9)], step=4)
    lines = [train_line(step, wait_s=1.0) for step in (10, 20, 30)]
    names = {"key": "00000012", "tar": "<b>a</b>.tar", "reason": "it does not decode"}
    lines += [{"event": "damaged", "step": 10} | names, scored_line("eval", 30, 0.5, unreadable=[names])]
    stopped = write_run(root / "stopped", lines, steps=90, data="ucf101")
    (stopped / "metrics.jsonl").write_text("damage\n" + (stopped / "metrics.jsonl").read_text())
    (stopped / "latest.pt").write_bytes(b"no checkpoint")
    write_scores(stopped, ["a", "b", "<b>c</b>"], [("v1", "a", "<b>c</b>", 0.8), ("v2", "b", "b", 0.7)], step=30)
    begun = write_run(root / "begun", [], steps=90, data="ucf101")
    page = root / "new" / "runs.html"
    result = report(trained, stopped, begun, "--out", page, "--quiet")
    assert (result.stdout.startswith(f"page {page}"), result.stderr) == (True, "")
    return page


@pytest.mark.parametrize(("scheme", "window"), [("light", DESK), ("dark", PHONE)])
def test_the_page_is_whole_and_alone_and_fits(
    made: Path, chromium: Any, scheme: Scheme, window: tuple[int, int]
) -> None:
    with opened(chromium, made, scheme=scheme, window=window) as (page, seen):
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert not scrolls_sideways(page)
        assert [*complaints(page), *seen.errors, *leaves(seen, made)] == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")
        assert walk(page, steps=3) == ["Skip to the content", "Summary", "Curves"]


def test_the_most_confident_mistake_comes_first_as_a_video_and_a_table_is_sorted_by_the_heading_that_is_clicked(
    made: Path, chromium: Any
) -> None:
    with opened(chromium, made) as (page, _):
        captions = page.locator("#mistakes .player figcaption").all_inner_texts()
        assert captions == ["right, predicted left, 90 %", "left, predicted right, 60 %"]
        page.wait_for_function("[...document.querySelectorAll('#mistakes video')].every(one => one.videoHeight > 0)")
        heading = page.locator("#summary th button", has_text="clip@1").first
        first = page.locator("#summary tbody th").first
        heading.click()
        assert first.inner_text() == "begun"  # no value comes first
        heading.click()
        assert heading.evaluate("one => one.parentElement.getAttribute('aria-sort')") == "descending"
        assert first.inner_text() != "begun"


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(made: Path, chromium: Any) -> None:
    with opened(chromium, made) as (page, _):
        summary = page.locator("#summary").text_content()
        damage = "1 damaged line left out, the first is line 1"
        assert all(said in summary for said in (damage, "<b>a</b>.tar", "stopped at step 30 of 90", "begun"))
        assert "The shards of this run are not found; give them with --data" in page.text_content("#mistakes")
        assert "<b>c</b>" in page.text_content("#classes")


def test_a_run_is_scored_where_that_is_new_and_finds_its_shards_by_itself(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.html"
    (trained / "scores.json").unlink(missing_ok=True)
    for options, is_scored in ((["--no-evaluate"], False), ([], True), ([], False)):
        assert ("evaluating" in report(trained, *options, "--out", out).stderr) == is_scored
    scores = json.loads((trained / "scores.json").read_text())
    assert (scores["step"], scores["subset"], scores["num_videos"]) == (4, "test", 4)
    wrong = sum(one["label"] != one["predicted"] for one in scores["predictions"])
    assert out.read_text().count("<video") == wrong


def test_many_runs_have_tables_of_all_and_charts_of_some(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"r{i:02d}", [train_line(1), train_line(2)], seed=i, steps=9) for i in range(15)]
    report(*runs, "--out", tmp_path / "many.html")
    html = (tmp_path / "many.html").read_text()
    assert "15 runs" in html
    assert "3 more runs are only in the tables" in html
    assert pages.differing([pages.settings_of(read_run(folder)) for folder in runs]) == ["seed"]
    assert all(f"r{i:02d} goes from" in html for i in range(12))
    assert "r12 goes from" not in html


def of_ranks(step: int, own_s: list[float]) -> dict:
    """A line of training of several ranks, each of which waits for clips an eighth of its own time."""
    numbers = {"own_step_s": own_s, "data_wait": [value / 8 for value in own_s], "num_replaced": [0] * len(own_s)}
    return train_line(step, ranks=numbers)


def test_ranks_are_drawn_where_there_are_several_and_of_many_the_slowest(tmp_path: Path, chromium: Any) -> None:
    slow = {"event": "straggler", "step": 30, "rank": 1, "host": "<b>node1</b>", "own_step_s": 0.5, "over": 0.25}
    few = [of_ranks(10, [9.0]), *(of_ranks(step, [0.4, 0.5]) for step in (20, 30)), slow, slow | {"waits_for": "data"}]
    own_s = [1 + (rank * 7 % 15) / 100 for rank in range(15)]  # 0, 13 and 11 are the fastest
    many = [of_ranks(1, own_s[::-1]), *(of_ranks(step, own_s) for step in (2, 3))]
    folders = [write_run(tmp_path / name, lines) for name, lines in (("few", few), ("many", many))]
    alone = write_run(tmp_path / "alone", [train_line(1)])
    report(*folders, alone, "--out", tmp_path / "ranks.html", "--no-evaluate")
    with opened(chromium, tmp_path / "ranks.html", window=PHONE) as (page, seen):
        assert not scrolls_sideways(page)
        assert [*complaints(page), *seen.errors] == []
        assert page.locator("#curves summary").all_inner_texts() == ["2 ranks of few", "15 ranks of many"]
        assert "The 12 slowest of 15 ranks are drawn." in page.text_content("#curves")
        charts = page.locator("#curves details svg[role=img]")
        labels = [charts.nth(i).get_attribute("aria-label") for i in range(charts.count())]
        assert labels[0] == (
            "Own time for a step by rank, s: rank 0 goes from 0.4 s at step 20 to 0.4 s at step 30; "
            "rank 1 goes from 0.5 s at step 20 to 0.5 s at step 30"
        )
        assert "rank 1 goes from 6.25 % at step 20" in labels[1]
        drawn = [rank for rank in range(15) if f"rank {rank} goes" in labels[2]]
        assert drawn == [rank for rank in range(15) if rank not in (0, 11, 13)]
        rows = page.locator("#curves table").all_inner_texts()
        assert len(rows) == 1
        assert rows[0].splitlines()[-1].split("\t") == ["30", "1", "<b>node1</b>", "data", "0.5 s", "25.0 %"]
    assert pages.ranks_of(read_run(alone)) is None


def scored(folder: Path, videos: list[tuple[str, str, str, float]]) -> tuple[Run, pages.Scores]:
    read = read_run(write_run(folder, [train_line(1)]))
    return read, pages.read_scores(write_scores(folder, CLASSES, videos))


def test_an_evaluation_is_told_by_class_and_the_surest_mistakes_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, scores = scored(tmp_path, VIDEOS)
    result = pages.result_of(read, scores, [], num_clips=0)
    assert (result.num_videos, result.num_wrong) == (7, 4)
    assert result.classes == [
        ("dive", 2, 0.5, "swing (1)"), ("jump", 3, pytest.approx(1 / 3), "dive (2)"), ("swing", 2, 0.5, "dive (1)"),
    ]  # fmt: skip
    assert result.matrix == (["dive", "jump", "swing"], [[1, 0, 1], [2, 1, 0], [1, 0, 1]])
    assert result.mistakes[0] == ("jump/v3.avi", "jump", "dive", 0.95)
    assert [video["key"] for video in pages.mistakes_of(scores)] == ["v3", "v0", "v2", "v5"]
    scores["predictions"][1]["labels"] = ["dive", "swing"]  # of several labels any is right
    assert [video["key"] for video in pages.mistakes_of(scores)] == ["v3", "v0", "v5"]
    scores["class_ap"] = {"dive": 0.75, "jump": None, "swing": 0.5}
    result = pages.result_of(read, scores, [], num_clips=0)
    assert (result.num_wrong, result.precisions) == (3, [("dive", 2, 0.75), ("swing", 3, 0.5)])
    monkeypatch.setattr(pages, "MAX_IN_MATRIX", 2)  # of more classes it has those with the most mistakes
    read, scores = scored(tmp_path, VIDEOS[2:4] + VIDEOS[5:])
    assert pages.result_of(read, scores, [], num_clips=0).matrix == (["dive", "jump"], [[0, 0], [2, 1]])


def test_shards_are_those_given_else_those_that_the_run_names(squares: ShardIndex, tmp_path: Path) -> None:
    same = {"name": "squares", "fingerprint": squares.fingerprint}
    rebuilt = {"name": "squares", "fingerprint": "other"}
    for data, given, is_found, said in (
        (same, [squares], True, ""),
        (same | {"folder": str(squares.data_dir)}, [], True, ""),
        (rebuilt, [squares], True, "The shards have been built anew;"),
        (same | {"folder": str(tmp_path / "gone")}, [], False, "The shards of this run are not f"),
        (same, [], False, "The shards of this run are not f"),
    ):
        read = read_run(write_run(tmp_path / "run", [train_line(1)], about={"data": data}))
        index, remark = pages.shards_of(read, given)
        assert (index is not None and index.fingerprint == squares.fingerprint, remark[:32]) == (is_found, said)


def test_a_run_is_to_be_scored_when_its_checkpoint_is_newer_than_its_scores(tmp_path: Path) -> None:
    read = read_run(write_run(tmp_path, [train_line(1)]))
    assert not pages.is_to_score(read)
    (tmp_path / "latest.pt").touch()
    assert pages.is_to_score(read)
    assert not pages.is_to_score(replace(read, is_locked=True))
    scores = write_scores(tmp_path, CLASSES, VIDEOS)
    os.utime(tmp_path / "latest.pt", (100, 100))
    assert not pages.is_to_score(read)
    os.utime(scores, (99, 99))
    assert pages.is_to_score(read)


def test_mistakes_that_cannot_be_read_are_named_and_other_keys_are_left_out(tmp_path: Path) -> None:
    index = build_squares(tmp_path, classes={"left": -3, "right": 3}, num_groups=2)
    mistakes: list[Any] = [
        {"key": key, "label": "left", "predicted": "right", "top5": {"right": 0.75}}
        for key in (index.key(int(index.samples_of("1", "test")[0])), "no-such-key")
    ]
    config = TrainConfig(clip=ClipSpec(4, 2, 32))
    (clip,) = pages.mistake_clips(index, mistakes, config)
    assert (clip.caption, clip.fault) == ("left, predicted right, 75 %", "")
    tar = index.data_dir / index.tars[0]
    tar.write_bytes(bytes(len(tar.read_bytes())))
    (clip,) = pages.mistake_clips(open_index(index.data_dir), mistakes, config)
    assert clip.fault.startswith(f"{mistakes[0]['key']}: ")


def test_the_chance_level_is_drawn_where_all_runs_share_it(tmp_path: Path) -> None:
    runs = []
    for name, chance in (("a", 0.2), ("b", 0.2), ("c", 0.01)):
        lines = [train_line(1), scored_line("eval", 1, 0.5) | {"chance": chance}]
        runs.append(read_run(write_run(tmp_path / name, lines)))
    assert "chance, 20 %" in pages.charts(runs[:2])[1]
    assert "chance" not in pages.charts(runs)[1]
