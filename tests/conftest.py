"""Fixtures: the videos of the tests, made on the spot, and shards made from them."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import Listing, list_folder
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.tools.numbered import write_numbered_video
from tests.s3_server import S3Server, s3_server

# Lengths around every corner of the arithmetic: one frame, shorter than a clip, a block of 16 and one more, long.
NUMBERED_LENGTHS = (1, 2, 7, 15, 16, 17, 33, 40, 64, 120, 505)


# Two of pytest's workers and their children share few cores, where threads that wait for one another only cost time.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded; children inherit it

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by a shell in the background, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write tests/golden/golden.json anew")


def pytest_configure(config: pytest.Config) -> None:
    """Close a pytest-xdist worker's pipes in every process that it forks: while such a process lives, pytest would wait
    for a worker that has died."""
    workers = [plugin for plugin in config.pluginmanager.get_plugins() if type(plugin).__name__ == "WorkerInteractor"]
    pipes = [
        file.fileno() for it in workers for file in (it.channel.gateway._io.infile, it.channel.gateway._io.outfile)
    ]
    os.register_at_fork(after_in_child=lambda: [os.close(pipe) for pipe in pipes])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is alone at the end (Makefile: --no-loadscope-reorder)."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips beside the checkout; they may not be published, so they are not in it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "facts.json").is_file():
        pytest.skip(f"no real videos at {folder}")
    return folder


@pytest.fixture(scope="session")
def numbered_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/<class>/<video>: two classes of videos that know their own frame numbers."""
    root = tmp_path_factory.mktemp("numbered")
    for i, num_frames in enumerate(NUMBERED_LENGTHS):
        path = root / ("even" if i % 2 == 0 else "odd") / f"g{i:02d}_{num_frames}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_numbered_video(path, num_frames)
    return root


@pytest.fixture(scope="session")
def numbered(numbered_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """The numbered videos as shards, four to a tar; all but one are training samples of split 1."""
    return build_numbered(numbered_raw, tmp_path_factory.mktemp("shards"), samples_per_shard=4)


@pytest.fixture(scope="session")
def numbered_h264(numbered_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """The same videos in H.264, a keyframe every eight frames."""
    return build_numbered(numbered_raw, tmp_path_factory.mktemp("h264"), samples_per_shard=4, codec="h264")


@pytest.fixture(params=["numbered", "numbered_h264"])
def shards(request: pytest.FixtureRequest) -> ShardIndex:
    """The numbered videos in each codec, for what does not depend on it."""
    return request.getfixturevalue(request.param)


def numbered_listing(raw: Path) -> Listing:
    """The numbered videos; the one of a single frame is the test side."""
    return list_folder(raw, name="numbered", group_pattern=r"^(g\d+)_", test_groups=("g00",))


def build_numbered(raw: Path, out: Path, **settings: object) -> ShardIndex:
    build_shards(numbered_listing(raw), out, BuildSettings(**settings), workers=2)
    return open_index(out)


@pytest.fixture(scope="session")
def ucf_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UCF101 of six numbered videos in two classes, with the official lists' form: CRLF, labels from 1."""
    raw = tmp_path_factory.mktemp("ucf") / "ucf101"
    lists = raw / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_bytes(b"1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    train, test = [], []
    for label, (name, spelt) in enumerate([("ApplyEyeMakeup",) * 2, ("HandstandPushups", "HandStandPushups")], start=1):
        folder = raw / "UCF-101" / name
        folder.mkdir(parents=True)
        for group in (1, 2, 3):
            video = f"v_{spelt}_g{group:02d}_c01.avi"
            write_numbered_video(folder / video, 20 + group, vcodec="mpeg4")
            (test if group == 3 else train).append(f"{name}/{video}" + ("" if group == 3 else f" {label}"))
    test.append("HandstandPushups/v_HandStandPushups_g09_c01.avi")  # named, but not there
    for split in (1, 2, 3):
        (lists / f"trainlist0{split}.txt").write_bytes("".join(f"{line}\r\n" for line in train).encode())
        (lists / f"testlist0{split}.txt").write_bytes("".join(f"{line}\r\n" for line in test).encode())
    return raw


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server with an empty bucket named shards; s3:// in this process means it."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with s3_server(tmp_path_factory.mktemp("bucket")) as server:
        yield server
