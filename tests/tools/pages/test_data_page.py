"""The page of a dataset, in a browser and out of it."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_ucf101
from res3d_video.pipeline.frames import read_frames
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.pipeline.schema import CRC32
from res3d_video.tools.numbered import number_of, read_bits
from res3d_video.tools.pages.data_page import data_page
from res3d_video.tools.pages.markup import data_uri, write_page
from res3d_video.tools.report import main
from tests.browser import DESK, PHONE, Scheme, complaints, leaves, opened, scrolls_sideways, walk
from tests.clips import damaged_copy, sample_of_length
from tests.pipeline.large_index import make as make_large
from tests.schemas import check_schema
from tests.tools.pages.made_shards import Row, make_shards

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "$\\frac{1}{0$ & {{ 7 * 7 }}",
    "Bogenschießen 射箭 🏹",
    "very long " * 60,
    "line\nbreak \x1b[31m",
]


def page_of(index: ShardIndex, path: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    html, facts = data_page(index, **options, report=lambda *_, **__: None)
    write_page(path, html)
    return html, facts


@pytest.fixture(scope="module")
def pages(
    numbered: ShardIndex, numbered_h264: ShardIndex, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Pages of the numbered videos: as stored, in smaller pictures, and of H.264; with their facts."""
    folder, made = tmp_path_factory.mktemp("pages"), {}
    for name, index, per_class, max_bytes in (
        ("stored", numbered, 4, 15_000_000),
        ("smaller", numbered, 3, 600_000),
        ("h264", numbered_h264, 3, 15_000_000),
    ):
        path = folder / f"{name}.html"
        made[name] = path, page_of(index, path, per_class=per_class, max_bytes=max_bytes)[1]
    return made


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a dataset whose names mean harm, and which has a leak."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [Row(i, "te"[i % 2], name, name, 20 + i) for i, name in enumerate(HOSTILE)]
    rows += [Row(0, "e", HOSTILE[0], HOSTILE[0])]
    index = make_shards(folder / "shards", rows, classes=HOSTILE)
    lines = [{"stage": "<i>", "source": name, "reason": f"{name} {i}"} for i, name in enumerate(HOSTILE)]
    (index.data_dir / "quarantine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page_of(index, folder / "page.html")
    return folder / "page.html"


@pytest.mark.parametrize(
    ("name", "scheme", "window"),
    [
        ("stored", "light", DESK),
        pytest.param("stored", "light", PHONE, marks=pytest.mark.long),
        pytest.param("stored", "dark", DESK, marks=pytest.mark.long),
        ("stored", "dark", PHONE),
        ("hostile", "light", PHONE),
    ],
)
def test_a_page_shows_without_errors_requests_or_barriers_at_every_size_and_in_every_colour(
    chromium: Any, pages: dict, hostile: Path, name: str, scheme: Scheme, window: tuple[int, int]
) -> None:
    path = hostile if name == "hostile" else pages[name][0]
    with opened(chromium, path, scheme=scheme, window=window) as (page, seen):
        for details in page.query_selector_all("details"):
            details.evaluate("e => { e.open = true; }")
        assert not scrolls_sideways(page)
        assert complaints(page) == []
        assert seen.errors == []
        assert leaves(seen, path) == []
        assert page.query_selector_all("main script, main img[onerror], main b, main i") == []


def test_names_that_mean_harm_stay_text(chromium: Any, hostile: Path) -> None:
    with opened(chromium, hostile) as (page, _):
        headings = [heading.text_content() for heading in page.query_selector_all(".group h3")]
        assert sorted(headings) == sorted(HOSTILE)
        assert "<script>alert(1)</script>" in page.text_content("#leaks")
        assert "alert(1)" in page.text_content("#absent")
        policy = page.get_attribute("meta[http-equiv='Content-Security-Policy']", "content")
        assert policy.startswith("default-src 'none'; img-src data:;")


@pytest.mark.parametrize("name", ["stored", "smaller", "h264"])
def test_the_frame_that_the_slider_names_is_the_frame_that_is_seen(
    chromium: Any, pages: dict, name: str, tmp_path: Path
) -> None:
    path, facts = pages[name]
    with opened(chromium, path) as (page, _):
        figures = page.query_selector_all(".player")
        assert len(figures) == len(facts["gallery"])
        lasts = [int(figure.query_selector("input").get_attribute("max")) for figure in figures]
        for figure, last in [(f, last) for f, last in zip(figures, lasts, strict=True) if last > 32]:
            width = figure.query_selector(".screen").get_attribute("style").split()[1]
            assert width in {"stored": ["176"], "smaller": ["176", "85"], "h264": ["171"]}[name]
            content_width = 176 if width == "176" else 171  # the shard's own strips show the edge of their tiles
            for place in sorted({min(9, last), last}):
                named = figure.evaluate(SET_SLIDER, place)
                shot = tmp_path / "screen.png"
                figure.query_selector(".screen").screenshot(path=shot)
                frame = np.asarray(Image.open(shot).convert("RGB"))
                bits = read_bits(frame, scale=frame.shape[1] / content_width, grey=128)
                assert named.startswith(f"frame {number_of(bits)},")


SET_SLIDER = """async (figure, place) => {
  const slider = figure.querySelector("input");
  slider.value = place;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  await Promise.all([...figure.querySelectorAll("img")].filter((i) => !i.hidden).map((i) => i.decode()));
  return figure.querySelector("output").textContent;
}"""


def test_pictures_are_the_shards_own_where_there_is_room(pages: dict, numbered: ShardIndex) -> None:
    sample = sample_of_length(numbered, 505)
    jpeg = read_frames(numbered, sample, np.arange(480, 488), files=FrameFiles(numbered))[0][0].tobytes()
    assert data_uri(jpeg, "jpeg") in pages["stored"][0].read_text()
    assert data_uri(jpeg, "jpeg") not in pages["smaller"][0].read_text()
    assert pages["smaller"][0].stat().st_size <= 700_000


def test_a_clip_plays_by_click_and_keyboard_and_its_slider_goes_frame_by_frame(chromium: Any, pages: dict) -> None:
    with opened(chromium, pages["stored"][0]) as (page, _):
        figure = next(f for f in page.query_selector_all(".player") if f.query_selector("input[max='504']"))
        assert figure.get_attribute("data-ms") == "40"  # as fast as its source
        screen = figure.query_selector(".screen")
        for start, stop in ((screen.click, screen.click), (screen.focus, lambda: page.keyboard.press("Enter"))):
            before = int(figure.get_attribute("data-now"))
            start()
            if start == screen.focus:
                page.keyboard.press("Enter")
            page.wait_for_function("([f, n]) => Number(f.dataset.now) >= n", arg=[figure, before + 3])
            stop()
            assert screen.get_attribute("aria-pressed") == "false"
        figure.query_selector("input").focus()
        before = int(figure.get_attribute("data-now"))
        page.keyboard.press("ArrowRight")
        assert int(figure.get_attribute("data-now")) == before + 1
        assert figure.query_selector("input").get_attribute("aria-valuetext").startswith(f"frame {before + 1}, ")


def test_a_clip_plays_under_the_pointer_unless_the_reader_wants_no_motion(chromium: Any, pages: dict) -> None:
    for motion in ("no-preference", "reduce"):
        with opened(chromium, pages["stored"][0], motion=motion) as (page, _):
            figure = page.query_selector(".player")
            figure.query_selector(".screen").hover()
            pressed = figure.query_selector(".screen").get_attribute("aria-pressed")
            assert pressed == ("true" if motion == "no-preference" else "false")
            page.hover("h1")
            assert figure.query_selector(".screen").get_attribute("aria-pressed") == "false"


def test_the_keyboard_reaches_navigation_tables_and_every_player(chromium: Any, pages: dict) -> None:
    with opened(chromium, pages["stored"][0]) as (page, _):
        reached = walk(page, steps=80)
        assert reached[:4] == ["Skip to the content", "Gallery", "Classes", "Lengths and rates"]
        players = {name for name in reached if name.startswith("Play sample ")}
        assert len(players) == 7, "the segment of one frame has nothing to play"
        for play in players:
            assert play.replace("Play ", "Frame of ") in reached


def test_the_facts_are_those_of_the_dataset(pages: dict, numbered: ShardIndex) -> None:
    facts = pages["stored"][1]
    assert (facts["num_samples"], facts["num_sources"], facts["num_frames"]) == (11, 11, 820)
    assert facts["hours"] == pytest.approx(820 / 25 / 3600)
    assert facts["classes"] == {
        "even": {"train": 5, "test": 1, "neither": 0}, "odd": {"train": 5, "test": 0, "neither": 0},
    }  # fmt: skip
    assert facts["lacking"]["no test samples"] == ["odd"]
    assert facts["frames_of_a_sample"] == {"shortest": 1, "median": 17, "longest": 505}
    assert facts["fps"] == {"25": 11}
    assert facts["source_sizes"] == [{"width": 320, "height": 240, "num_samples": 11}]
    assert [leak["count"] for leak in facts["leaks"]] == [0, 0, 0]
    assert facts["quarantine"]["num_lines"] == 0
    json.dumps(facts)


def test_damaged_and_missing_pictures_are_named_in_their_place(numbered: ShardIndex, tmp_path: Path) -> None:
    sample = sample_of_length(numbered, 40)
    index = damaged_copy(numbered, tmp_path / "copy", sample, fix_checksum=False)
    html = page_of(index, tmp_path / "page.html", per_class=6)[0]
    assert html.count("Cannot be read") == 1
    assert f"{index.key(sample)}: a frame is missing or fails its crc32, in {index.tars[index.tar[sample]]}" in html
    for tar in index.tars:
        (index.data_dir / tar).unlink()
    html = page_of(open_index(index.data_dir), tmp_path / "page.html", per_class=6)[0]
    assert html.count("Cannot be read") == 11
    assert "The key.json of 11 samples could not be read" in html


def test_the_gallery_shows_as_many_classes_and_segments_as_are_asked_for(numbered: ShardIndex, tmp_path: Path) -> None:
    facts = page_of(numbered, tmp_path / "page.html", num_classes=1, per_class=2)[1]
    assert len(facts["gallery"]) == 2
    assert len({one["class"] for one in facts["gallery"]}) == 1
    assert page_of(numbered, tmp_path / "page.html", num_classes=0)[1]["gallery"] == []


def test_a_table_of_very_many_classes_is_cut_and_says_so(tmp_path: Path) -> None:
    rows = [Row(i, "t", f"g{i}", f"s{i}") for i in range(2100)]
    index = make_shards(tmp_path / "shards", rows, classes=[f"class {i}" for i in range(2100)])
    html, facts = page_of(index, tmp_path / "page.html")
    assert "Samples of each class, the 2,000 largest of 2,100" in html
    assert len(facts["classes"]) == 2100


def test_the_command_writes_the_page_and_its_facts(numbered: ShardIndex, tmp_path: Path) -> None:
    out, facts = tmp_path / "page.html", tmp_path / "facts.json"
    arguments = ["data", str(numbered.data_dir), "--out", str(out), "--json", str(facts), "--quiet", "--per-class", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert out.read_text().startswith("<!DOCTYPE html>")
    told = json.loads(facts.read_text())
    check_schema("report data", told)
    assert told["num_samples"] == 11
    assert result.output.splitlines() == [f"page {out}  {out.stat().st_size / 1e6:.1f} MB", f"facts {facts}"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--split", "7"], 1, "split 7 does not exist; choose 1"),
        (["--per-class", "0"], 2, "0 is not in the range 1<=x"),
        (["--out", "page.pdf"], 2, "page.pdf must end in .html or .htm"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    numbered: ShardIndex, tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    out = [] if "--out" in options else ["--out", str(tmp_path / "page.html")]
    result = CliRunner().invoke(main, ["data", str(numbered.data_dir), "--quiet", *out, *options])
    assert result.exit_code == code
    assert words in result.output


@pytest.mark.slow
def test_a_page_of_more_than_a_million_videos_is_small_and_quickly_made(tmp_path: Path) -> None:
    folder, count = tmp_path / "large", 1_100_000
    make_large(folder, count)
    videos = np.char.mod("%07d", np.arange(count)).astype("S11")
    for name in ("key", "group", "source"):
        np.load(folder / f"index/{name}.npy", mmap_mode="r+")[:] = videos
    frames = np.load(folder / "index/frames.npy", mmap_mode="r+")
    frames[:, CRC32] = np.arange(len(frames)) % 2**32
    started_s = time.process_time()
    facts = page_of(open_index(folder), tmp_path / "page.html")[1]
    assert time.process_time() - started_s < 60
    assert (tmp_path / "page.html").stat().st_size < 15_000_000
    assert facts["num_sources"] == facts["num_samples"] == count
    assert [leak["count"] for leak in facts["leaks"]] == [0, 0, 0]
    assert len(facts["gallery"]) == 24
    assert all("is missing or fails its crc32" in one["fault"] for one in facts["gallery"])


@pytest.mark.slow
def test_the_page_of_real_videos_of_five_classes_shows_and_plays(
    chromium: Any, shared_data: Path, tmp_path: Path
) -> None:
    listing = list_ucf101(shared_data / "ucf101")
    chosen = [r for r in listing.records if r.group.endswith(("g01", "g16")) and "_c01" in r.source]
    assert len({r.class_name for r in chosen}) == 5
    build_shards(replace(listing, records=chosen), tmp_path / "shards", BuildSettings(), workers=2)
    path = tmp_path / "page.html"
    facts = page_of(open_index(tmp_path / "shards"), path)[1]
    assert len({one["class"] for one in facts["gallery"]}) == 5
    assert facts["quarantine"]["kinds"][0]["pattern"] == "named in the lists, not found"
    with opened(chromium, path, window=PHONE) as (page, seen):
        assert not scrolls_sideways(page)
        assert complaints(page) == []
        page.click("#play-all")
        page.evaluate("document.querySelector('.player').scrollIntoView()")
        page.wait_for_function("() => Number(document.querySelector('.player').dataset.now) >= 2")
        assert (seen.errors, leaves(seen, path)) == ([], [])
