"""The small world in which pages are read."""

from pathlib import Path

import pytest

from tests.docs.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, ucf_raw: Path) -> World:
    """Raw data sets as the pages lay them out; shards and runs are made when something asks for them."""
    return World(tmp_path_factory.mktemp("home"), ucf_raw=ucf_raw)


@pytest.fixture
def at_home(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world, which is also the working folder."""
    monkeypatch.chdir(world.home)
    return world
