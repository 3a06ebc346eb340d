"""What tests of several commands share."""

from pathlib import Path

import pytest

from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.main import main
from tests.browser import chromium
from tests.tools.commands import run
from tests.train.conftest import SMALL, squares

__all__ = ["chromium", "squares"]


@pytest.fixture(scope="session")
def trained(squares: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps on the squares, evaluated at two."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    options = ["--steps", 4, "--eval-every", 2, "--save-every", 2, "--width", 4]
    run(main, "--data", squares.data_dir, "--out", out, *SMALL, *options)
    return out
