"""Filters and clips of a run: the sprites hold what the weights and the shards hold."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.tools.figures.filters import as_colors, read_filters
from res3d_video.tools.pages.run.clips import mistake_players, shards_of
from res3d_video.tools.pages.run.facts import Run
from res3d_video.tools.pages.run.filters import filter_figure, filter_sprite
from res3d_video.tools.pages.run.reading import read_run
from res3d_video.tools.pages.run.scores import Mistake
from tests.tools.figures.made import write_checkpoint
from tests.tools.pages.made_runs import train_line, write_run
from tests.train.conftest import build_squares

WEIGHT = np.random.default_rng(0).normal(size=(5, 3, 4, 7, 7)).astype(np.float32)


def test_a_filter_sprite_has_a_grid_a_slice_and_nothing_between_the_filters() -> None:
    sprite, (width, height) = filter_sprite(WEIGHT)
    pixels = np.asarray(Image.open(io.BytesIO(sprite.content)))
    assert pixels.shape == (4 * height, width, 4)
    assert sprite.num_tiles == 4
    colors = as_colors(WEIGHT)
    scale = next(n for n in range(1, 99) if pixels[0, n * 7, 3] == 0)  # up to the first gap
    for t in range(4):
        grid = pixels[t * height : (t + 1) * height]
        assert (grid[: 7 * scale : scale, : 7 * scale : scale, :3] == colors[0, t]).all()
    assert set(np.unique(pixels[..., 3])) == {0, 255}
    assert (pixels[..., 3] == 255).sum() == 5 * 4 * (7 * scale) ** 2


def test_3d_filters_play_and_2d_filters_stand_still(tmp_path: Path) -> None:
    moving = filter_figure(read_filters(write_checkpoint(tmp_path / "3d.pt", model="res3d10")), name="three")
    still = filter_figure(read_filters(write_checkpoint(tmp_path / "2d.pt", model="res2d18")), name="two")
    assert 'class="player"' in moving
    assert "slice 3 of 3" in moving
    assert 'class="player"' not in still
    assert 'alt="4 filters of 7×7 of two"' in still


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return build_squares(tmp_path_factory.mktemp("squares"), classes={"left": -3, "right": 3}, num_groups=2)


def run_on(folder: Path, /, **data: str) -> Run:
    return read_run(write_run(folder, [train_line(1)], about={"data": data}), name=folder.name)


def test_shards_are_those_given_else_those_that_the_run_names(squares: ShardIndex, tmp_path: Path) -> None:
    same = {"name": "squares", "fingerprint": squares.fingerprint}
    assert shards_of(run_on(tmp_path / "a", **same), [squares]) == (squares, "")
    index, remark = shards_of(run_on(tmp_path / "b", **same, folder=str(squares.data_dir)), [])
    assert index is not None
    assert (index.fingerprint, remark) == (squares.fingerprint, "")
    rebuilt = {"name": "squares", "fingerprint": "other"}
    index, remark = shards_of(run_on(tmp_path / "c", **rebuilt), [squares])
    assert index is squares
    assert "another build of squares" in remark
    index, remark = shards_of(run_on(tmp_path / "d", **rebuilt, folder=str(squares.data_dir)), [])
    assert "have been built anew since" in remark


def test_shards_that_are_gone_are_said_to_be(squares: ShardIndex, tmp_path: Path) -> None:
    run = run_on(tmp_path / "a", name="other", fingerprint="1", folder=str(tmp_path / "gone"))
    assert shards_of(run, [squares]) == (
        None,
        f"The shards are no longer in {tmp_path / 'gone'}; give them with --data to see the clips.",
    )
    assert shards_of(run_on(tmp_path / "b", name="other"), [])[1].endswith("given with --data.")


def test_the_clip_of_a_mistake_is_the_centre_one_and_other_keys_are_left_out(squares: ShardIndex) -> None:
    row = int(squares.samples_of("1", "test")[0])
    known = Mistake(squares.key(row), "left/a.mp4", "left", "<right>", 0.75, 0.25, 2)
    unknown = Mistake("no-such-key", "b.mp4", "left", "right", 0.7, None, None)
    players = mistake_players(squares, [known, unknown], ClipSpec(4, 2, 32), name="run")
    assert len(players) == 1
    # 20 frames, 4 at stride 2 span 7: 14 starts, the middle one is 13 // 2 = 6
    assert "clip: frames 6…12 of 20" in players[0]
    assert "&lt;right&gt;" in players[0]
    assert "<right>" not in players[0]


def test_a_mistake_whose_strips_are_damaged_is_left_out(tmp_path: Path) -> None:
    index = build_squares(tmp_path, classes={"left": -3, "right": 3}, num_groups=2)
    row = int(index.samples_of("1", "test")[0])
    mistake = Mistake(index.key(row), "left/a.mp4", "left", "right", 0.75, 0.25, 2)
    tar = index.data_dir / index.tars[0]
    tar.write_bytes(bytes(len(tar.read_bytes())))
    assert mistake_players(open_index(index.data_dir), [mistake], ClipSpec(4, 2, 32), name="run") == []
