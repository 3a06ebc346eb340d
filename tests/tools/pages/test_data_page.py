"""The page of a dataset: its numbers against those counted by hand, its videos, and how it behaves in a browser."""

import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.pipeline.remote import RemoteSettings
from res3d_video.pipeline.schema import CRC32
from res3d_video.tools.numbered import number_of, read_bits
from res3d_video.tools.pages import data_page as pages
from res3d_video.tools.pages.markup import MAX_FRAMES, MAX_HEIGHT, video_of
from res3d_video.tools.report import main
from res3d_video.tools.samples import read_key_json
from res3d_video.train.data_options import Data
from tests.browser import DESK, PHONE, Scheme, complaints, leaves, opened, scrolls_sideways, walk
from tests.clips import damaged_copy, sample_of_length
from tests.pipeline.large_index import make as make_large
from tests.tools.commands import run
from tests.tools.pages.made_shards import Row, make_shards

HOSTILE = [
    "<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "$\\frac{1}{0$ & {{ 7 * 7 }}",
    "Bogenschießen 射箭 🏹", "very long " * 60, "line\nbreak \x1b[31m",
]  # fmt: skip
ROWS = [
    Row(0, "tt", "a/1", "a1.avi", 20, content=7), Row(0, "te", "a/1", "a2.avi", 33), Row(0, "e-", "a/2", "a3.avi", 20),
    Row(1, "et", "b/1", "b1.avi", 20, content=7), Row(1, "ee", "b/2", "b2.avi", 40), Row(2, "tt", "c/1", "c1.avi", 33),
    Row(2, "e-", "c/1", "c1.avi", 20, content=9), Row(2, "t-", "c/2", "c2.avi", 200),
]  # fmt: skip


def page_of(index: ShardIndex, path: Path, **options: Any) -> str:
    html = pages.data_page(index, **options, seed=0, report=lambda *_, **__: None)
    path.write_text(html)
    return html


@pytest.fixture(scope="module")
def stored(numbered: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    page_of(numbered, path, per_class=4)
    return path


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
    ("name", "scheme", "window"), [("stored", "light", DESK), ("stored", "dark", PHONE), ("hostile", "light", PHONE)]
)
def test_a_page_shows_without_errors_requests_or_barriers_at_every_size_and_in_every_color(
    chromium: Any, request: pytest.FixtureRequest, name: str, scheme: Scheme, window: tuple[int, int]
) -> None:
    path = request.getfixturevalue(name)
    with opened(chromium, path, scheme=scheme, window=window) as (page, seen):
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert not scrolls_sideways(page)
        assert [*complaints(page), *seen.errors, *leaves(seen, path)] == []
        assert page.query_selector_all("main script, main img, main b, main i") == []


def test_names_that_mean_harm_stay_text(chromium: Any, hostile: Path) -> None:
    with opened(chromium, hostile) as (page, _):
        headings = [heading.text_content() for heading in page.query_selector_all(".group h3")]
        assert sorted(headings) == sorted(HOSTILE)
        assert "<script>alert(1)</script>" in page.text_content("#leaks")
        assert "<script>alert(" in page.text_content("#absent")
        policy = page.get_attribute("meta[http-equiv='Content-Security-Policy']", "content")
        assert policy.startswith("default-src 'none'; media-src data:;")


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_video_plays_under_the_pointer_unless_no_motion_is_wanted(chromium: Any, stored: Path, motion: str) -> None:
    with opened(chromium, stored, motion=motion) as (page, _):
        video = page.locator("video").first
        video.hover()
        assert video.evaluate("one => one.paused") == (motion == "reduce")
        page.hover("h1")
        assert video.evaluate("one => one.paused")


def test_the_keyboard_reaches_navigation_and_every_video_and_shows_its_controls(chromium: Any, stored: Path) -> None:
    with opened(chromium, stored) as (page, _):
        assert walk(page, steps=4) == ["Skip to the content", "Gallery", "Classes", "Lengths and rates"]
        videos = page.locator("video")
        assert videos.count() == 8
        for place in range(8):
            videos.nth(place).focus()
            assert videos.nth(place).evaluate("one => one.controls")


@pytest.mark.parametrize("num_frames", [1, 33, 505])
def test_the_video_of_a_sample_shows_its_frames_at_their_speed(shards: ShardIndex, num_frames: int) -> None:
    row, frames = sample_of_length(shards, num_frames), np.arange(num_frames)
    clip = video_of(shards, row, frames, files=FrameFiles(shards), fps=25, caption="")
    with av.open(io.BytesIO(clip.video)) as video:
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.duration == pytest.approx(1e6 * num_frames / 25, rel=0.01)  # microseconds
    step = 2 if num_frames > MAX_FRAMES else 1
    numbers = [number_of(read_bits(one, scale=one.shape[1] / 171, grey=128)) for one in pictures]
    assert numbers == list(range(0, num_frames, step))
    assert pictures[0].shape[0] <= MAX_HEIGHT


def test_damaged_and_missing_videos_are_named_in_their_place(numbered: ShardIndex, tmp_path: Path) -> None:
    sample = sample_of_length(numbered, 40)
    index = damaged_copy(numbered, tmp_path / "copy", sample, fix_checksum=False)
    html = page_of(index, tmp_path / "page.html", per_class=6)
    assert html.count("Cannot be read") == 1
    assert f"{index.key(sample)}: a frame is missing or fails its crc32, in {index.tars[index.tar[sample]]}" in html
    for tar in index.tars:
        (index.data_dir / tar).unlink()
    html = page_of(open_index(index.data_dir), tmp_path / "page.html", per_class=6)
    assert html.count("Cannot be read") == 11
    assert "The key.json of 11 samples could not be read" in html


def test_each_class_shows_both_sides_in_turn(tmp_path: Path) -> None:
    rows = [Row(label, side) for label in range(9) for side in "tttttteeee--"]
    index = make_shards(tmp_path / "made", rows, classes=[f"c{k}" for k in range(9)])
    rng = np.random.default_rng(1)
    drawn = np.array(pages.draw(index, rng, num_classes=7, per_class=4)).reshape(7, 4)
    assert (np.diff(index.labels[drawn], axis=1) == 0).all()
    assert len(np.unique(index.labels[drawn])) == 7
    assert (np.sort(index.subsets[drawn[:, :2], 0]) == [1, 2]).all()
    assert len(np.unique(drawn)) == 28
    assert len(pages.draw(index, rng, num_classes=1, per_class=99)) == 12


def test_of_a_dataset_behind_a_url_only_what_is_shown_is_fetched(numbered: ShardIndex, tmp_path: Path) -> None:
    index = Data(numbered.data_dir.as_uri(), RemoteSettings(tmp_path / "cache")).open()
    before = index.store.bytes_fetched
    html = page_of(index, tmp_path / "page.html", per_class=1)
    assert not list(index.data_dir.glob("*.tar"))
    assert "Cannot be read" not in html
    assert "could not be read" not in html
    size = sum(shard["num_bytes"] for shard in numbered.info["shards"])
    assert 0 < index.store.bytes_fetched - before < size


def test_a_validation_side_is_counted_and_no_leak_into_it_is_missed(tmp_path: Path) -> None:
    index = make_shards(tmp_path / "made", [Row(0, "t", "g"), Row(0, "v", "g"), Row(0, "e", "h")], classes=["a"])
    assert pages.side_counts(index).tolist() == [[1, 1, 1, 0]]
    assert [leak.num_test for leak in pages.leaks(index) if leak.kind == "group"] == [1]


def test_counts_of_classes_and_what_is_on_both_sides_are_those_counted_by_hand(tmp_path: Path) -> None:
    index = make_shards(tmp_path / "made", ROWS, classes=["a", "b", "c", "none"])
    assert pages.side_counts(index).tolist() == [[2, 0, 1, 0], [0, 0, 2, 0], [2, 0, 1, 0], [0, 0, 0, 0]]
    found = {(leak.split, leak.kind): leak for leak in pages.leaks(index)}
    assert {key: (leak.num_both, leak.num_test) for key, leak in found.items()} == {
        ("1", "group"): (1, 1), ("1", "source video"): (1, 1), ("1", "identical segment"): (1, 1),
        ("2", "group"): (1, 1), ("2", "source video"): (0, 0), ("2", "identical segment"): (0, 0),
    }  # fmt: skip
    assert found["1", "group"].examples == ["00000005 c1.avi (train), 00000006 c1.avi (held out)"]
    assert found["1", "identical segment"].examples == ["00000000 a1.avi (train), 00000003 b1.avi (held out)"]
    assert found["1", "group"].num_things == 6


def test_samples_without_a_name_are_of_no_group_and_one_frame_makes_a_difference(tmp_path: Path) -> None:
    index = make_shards(tmp_path / "made", [Row(0, "t", content=5), Row(0, "e", content=5)], classes=["a"])
    assert [(leak.num_things, leak.num_both) for leak in pages.leaks(index)] == [(0, 0), (0, 0), (1, 1)]
    frames = np.load(index.data_dir / "index/frames.npy")
    frames[10, CRC32] += 1  # of 20 frames of the first sample
    np.save(index.data_dir / "index/frames.npy", frames)
    assert [leak.num_both for leak in pages.leaks(open_index(index.data_dir))] == [0, 0, 0]


def test_a_sample_lasts_as_long_as_its_frames_at_its_own_rate(shards: ShardIndex) -> None:
    metas = {row: read_key_json(shards, row) for row in range(shards.num_samples)}
    assert list(metas.values()) == [{"fps": 25.0, "source_size": (320, 240)}] * 11
    assert pages.seconds_of(shards, metas).sum() == pytest.approx(820 / 25)
    rows = {what: values for what, *values in pages.lengths(shards, metas)}
    assert [rows["stored frames of a sample"][n] for n in (0, 4)] == ["1", "505"]
    assert rows["rate of the source, frames/s"] == ["25"] * 5
    assert rows["height of the source, pixels"] == ["240"] * 5


def test_a_key_json_that_says_impossible_things_is_unreadable(numbered: ShardIndex, tmp_path: Path) -> None:
    for said, lie in ((b'"fps": 25.0', b'"fps": 1e99'), (b"[320, 240]", b"[-20, 240]")):
        copy = shutil.copytree(numbered.data_dir, tmp_path / lie.decode())
        tar = copy / numbered.tars[0]
        tar.write_bytes(tar.read_bytes().replace(said, lie))
        assert [read_key_json(open_index(copy), row) is None for row in range(5)] == [True] * 4 + [False]


def test_failures_are_counted_by_reason_and_a_damaged_line_is_one(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    assert pages.failures(path) is None
    lines = [{"source": f"x/v{i}.avi", "stage": "decode", "reason": f"v{i}.avi: {i} of 9 frames"} for i in range(7)]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"cut\n')
    assert pages.failures(path) == {"… of … frames": 7, "a damaged line of quarantine.jsonl": 1}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 0, "page page.html  0."),
        (["--classes", "0"], 0, "page page.html  0.0 MB"),
        (["--per-class", "0"], 2, "0 is not in the range 1<=x"),
        (["--out", "page.pdf"], 2, "page.pdf must end in .html or .htm"),
    ],
)
def test_the_command_writes_a_page_or_says_in_one_line_what_is_wrong(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(main, "data", numbered.data_dir, "--quiet", "--out", "page.html", *options, code=code)
    assert words in result.output.splitlines()[-1]
    assert Path("page.html").exists() == (code == 0)


@pytest.mark.slow
@pytest.mark.parametrize("count", [150_000, pytest.param(1_100_000, marks=pytest.mark.long)])
def test_a_page_of_very_many_videos_is_small_and_quickly_made(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "large"
    make_large(folder, count)
    videos = np.char.mod("%07d", np.arange(count)).astype("S11")
    for name in ("key", "group", "source"):
        np.load(folder / f"index/{name}.npy", mmap_mode="r+")[:] = videos
    frames = np.load(folder / "index/frames.npy", mmap_mode="r+")
    frames[:, CRC32] = np.arange(len(frames)) % 2**32
    started_s = time.process_time()
    html = page_of(open_index(folder), tmp_path / "page.html")
    assert time.process_time() - started_s < 5 + count / 20_000
    assert len(html) < 1_000_000
    assert html.count(f"{count:,}") >= 4  # samples, groups, source videos, segments
    assert html.count("is missing or fails its crc32") == 24
