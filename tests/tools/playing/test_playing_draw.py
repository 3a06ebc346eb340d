"""Sheets and animations: nothing overlaps or is cut off; files are whole or not there."""

import dataclasses
import itertools
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from res3d_video.tools.playing.draw import MARGIN, Moment, Picture, Reel, Show, frames, sheet
from res3d_video.tools.playing.files import write_show
from tests.tools.playing.seen import read_back, tiles

LONG = "a_class_name_without_a_blank_that_is_wider_than_any_page_can_be" * 4


def grey(value: int, *, width: int = 171, height: int = 128) -> Picture:
    return Picture(np.full((height, width, 3), value, np.uint8), width, height)


def made(*, num_reels: int = 1, count: int = 8, width: int = 171, both: bool = True, title: str = "A title") -> Show:
    """Tiles whose grey tells their place; the second of a moment is one brighter."""
    values = (20 + n % 200 for n in itertools.count())
    reels = []
    for _ in range(num_reels):
        moments = []
        for t in range(count):
            value = next(values)
            second = (grey(value, width=112, height=112),) if both else ()
            moments.append(Moment((grey(value, width=width), *second), (f"frame {t}", f"{t / 25:.2f} s")))
        reels.append(Reel(title, moments))
    return Show(["Class: name", "facts about it"], reels, 0.08)


@pytest.mark.parametrize(("num_reels", "count"), [(1, 1), (1, 8), (1, 16), (1, 32), (2, 8), (3, 16), (10, 8)])
@pytest.mark.parametrize("both", [False, True])
def test_every_tile_of_a_sheet_is_whole_and_none_covers_another(num_reels: int, count: int, both: bool) -> None:
    show = made(num_reels=num_reels, count=count, both=both, width=100)
    page = sheet(show)
    found = tiles(page)
    expected = [p.pixels for reel in show.reels for moment in reel.moments for p in moment.pictures]
    assert sorted((t.shape, int(t[0, 0, 0])) for _, _, t in found) == sorted(
        (p.shape, int(p[0, 0, 0])) for p in expected
    )
    assert all((tile == tile[0, 0, 0]).all() for _, _, tile in found)
    assert (page[:, -MARGIN + 1 :] == 255).all()
    assert (page[-MARGIN + 1 :] == 255).all()


@pytest.mark.parametrize("num_reels", [1, 4])
@pytest.mark.parametrize("title", ["A title", LONG, f"{LONG} and more words " * 3, "Größe 中文 я ×"])
def test_every_picture_of_an_animation_has_one_size_even_sides_and_all_words(num_reels: int, title: str) -> None:
    show = made(num_reels=num_reels, count=3, title=title)
    pictures = list(frames(show))
    assert len(pictures) == 3
    assert len({picture.shape for picture in pictures}) == 1
    for t, picture in enumerate(pictures):
        assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
        assert picture.shape[1] < 1200
        assert (picture[:, -MARGIN + 1 :] == 255).all()
        assert (picture[-MARGIN + 1 :] == 255).all()
        shown = sorted(int(tile[0, 0, 0]) for _, _, tile in tiles(picture))
        assert shown == sorted([20 + t + 3 * reel for reel in range(num_reels)] * 2)


@pytest.mark.parametrize("kind", [".gif", ".mp4", ".png"])
@pytest.mark.parametrize("count", [1, 8])
def test_a_file_says_what_it_is(kind: str, count: int, tmp_path: Path) -> None:
    told = []
    facts = write_show(
        tmp_path / f"a/b{kind}", made(count=count), on_frame=lambda done, total: told.append((done, total))
    )
    pictures = read_back(tmp_path / f"a/b{kind}")
    assert {picture.shape for picture in pictures} == {(facts["height"], facts["width"], 3)}
    assert facts["num_bytes"] == (tmp_path / f"a/b{kind}").stat().st_size
    assert facts.get("num_frames", 1) == len(pictures)
    assert told == ([] if kind == ".png" else [(n, count) for n in range(1, count + 1)])


@pytest.mark.parametrize("kind", [".gif", ".mp4", ".png"])
def test_a_file_that_cannot_be_made_leaves_the_old_one(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{kind}"
    path.write_bytes(b"old")
    outside = Moment((Picture(np.zeros((9, 9, 3), np.uint8), 9, 9, box=(0, 0, 99, 99)),), ("frame 8",))
    with pytest.raises(IndexError):
        write_show(path, Show(["x"], [Reel("x", [*made().reels[0].moments, outside])], 0.1))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_without_pillow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"^PIL is not installed; pip install -e '\.\[report\]'$"):
        write_show(tmp_path / "a.png", made())


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.webm: must end in \.gif, \.mp4 or \.png$"):
        write_show(tmp_path / "a.webm", made())


def test_a_gif_takes_as_long_as_its_frames(tmp_path: Path) -> None:
    write_show(tmp_path / "a.gif", dataclasses.replace(made(), frame_s=1 / 30))
    with Image.open(tmp_path / "a.gif") as image:
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(image)] == [30, 40, 30, 30, 40, 30, 30, 40]
        assert image.info["loop"] == 0


def test_an_mp4_plays_at_its_speed(tmp_path: Path) -> None:
    write_show(tmp_path / "a.mp4", dataclasses.replace(made(), frame_s=1 / 12.5))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert [round(1000 * float(frame.time)) for frame in container.decode(video=0)] == [80 * n for n in range(8)]
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
