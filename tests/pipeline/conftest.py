"""A few short videos of two classes, and what one local build makes of them."""

from pathlib import Path

import pytest

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import Listing, list_folder
from res3d_video.tools.numbered import write_numbered_video

SETTINGS = BuildSettings(size=32, samples_per_shard=2)


def write_few_videos(raw: Path, count: int, *, broken: int) -> None:
    """So many videos below raw/class0 and raw/class1, and one that cannot be read in the first `broken` of these."""
    for i in range(count):
        path = raw / f"class{i % 2}" / f"v{i}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_numbered_video(path, 5 + i, height=48, width=64)
    for i in range(broken):
        (raw / f"class{i}/broken.mp4").write_text("no video")


@pytest.fixture(scope="module")
def listing(raw: Path) -> Listing:
    """Of the module's own fixture `raw`."""
    return list_folder(raw, name="few", test_fraction=0.25)


@pytest.fixture(scope="module")
def local(listing: Listing, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one local build into a folder makes."""
    out = tmp_path_factory.mktemp("local")
    build_shards(listing, out, SETTINGS, workers=2)
    return out
