"""One cache for many processes: each tar is fetched once, kept while it is used, and never torn."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.reader import StepReader
from res3d_video.pipeline.remote.cache import CacheFolder, is_in_use
from res3d_video.pipeline.remote.dataset import open_dataset
from res3d_video.pipeline.remote.errors import RemoteError
from res3d_video.pipeline.remote.settings import RemoteSettings
from res3d_video.pipeline.remote.sync import sync_dataset
from res3d_video.pipeline.remote.tars import RemoteTars
from res3d_video.pipeline.shard_writer import sha256_of
from tests.clips import train_plan
from tests.s3_server import S3Server
from tests.until import until

CHECKOUT = Path(__file__).resolve().parents[3]
NEVER = threading.Event()  # nobody sets it
# Fetches every tar of a dataset; waits for a line before, so that several begin together.
FETCH_ALL = """
import sys, threading
from pathlib import Path
from res3d_video.pipeline.remote.dataset import open_dataset
from res3d_video.pipeline.remote.settings import RemoteSettings
index = open_dataset(sys.argv[1], RemoteSettings(cache=Path(sys.argv[2])), say=lambda line: print(line, flush=True))
print("ready", flush=True)
sys.stdin.readline()
for number in range(len(index.tars)):
    with index.store.open(number, stop=threading.Event()) as tar:
        assert len(tar.read()) == index.info["shards"][number]["num_bytes"]
print(index.store.num_fetched)
"""


def fetcher(url: str, cache: Path) -> subprocess.Popen:
    """A process that fetches all tars once it is told to."""
    command = [sys.executable, "-c", FETCH_ALL, url, str(cache)]
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture(scope="module")
def there(numbered: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The numbered videos behind a file:// URL, which needs no server."""
    folder = tmp_path_factory.mktemp("there")
    sync_dataset(numbered.data_dir, folder)
    return f"file://{folder}"


def opened(
    url: str, cache: Path, say: Callable[[str], None] = print, **settings: object
) -> tuple[ShardIndex, RemoteTars]:
    index = open_dataset(url, RemoteSettings(cache=cache, **settings), say=say)
    assert isinstance(index.store, RemoteTars)
    return index, index.store


def test_two_processes_that_share_a_cache_fetch_each_tar_once(
    numbered: ShardIndex, s3: S3Server, tmp_path: Path
) -> None:
    sync_dataset(numbered.data_dir, "s3://shards/shared")
    processes = [fetcher("s3://shards/shared", tmp_path) for _ in range(2)]
    s3.forget_requests()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    counts = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(counts) == len(numbered.tars)
    assert [len(s3.requests("GET", tar)) for tar in numbered.tars] == [1] * len(numbered.tars)


def test_a_process_killed_while_it_fetches_leaves_no_tar_and_the_next_goes_on(
    there: str, numbered: ShardIndex, tmp_path: Path
) -> None:
    index, tars = opened(there, tmp_path)
    slow = Path(there.removeprefix("file://")) / index.tars[1]
    content = slow.read_bytes()
    slow.unlink()
    os.mkfifo(slow)  # who opens it waits for a writer
    try:
        process = fetcher(there, tmp_path)
        process.stdin.write("go\n")
        process.stdin.flush()
        temporary = index.data_dir / f".{index.tars[1]}.tmp"
        until(temporary.exists)
        until(lambda: temporary.stat().st_size == len(content))
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        slow.unlink()
        slow.write_bytes(content)
    assert sorted(path.name for path in index.data_dir.glob("*.tar")) == [index.tars[0]]
    assert temporary.exists()
    with tars.open(1, stop=NEVER) as tar:
        assert tar.read() == content
    assert not temporary.exists()
    assert tars.num_fetched == 1


def test_what_a_killed_process_left_is_not_in_use_and_what_one_fetches_is(tmp_path: Path) -> None:
    left, held = tmp_path / ".a.tar.tmp", tmp_path / ".b.tar.tmp"
    for path in (left, held):
        path.write_bytes(b"half")
    with open(held, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert (is_in_use(left), is_in_use(held)) == (False, True)
    assert not is_in_use(held)


def test_the_least_recently_used_tar_gives_way_and_one_in_use_never(there: str, tmp_path: Path) -> None:
    index, tars = opened(there, tmp_path)
    sizes = [shard["num_bytes"] for shard in index.info["shards"]]
    assert len(sizes) == 3
    said: list[str] = []
    _, tars = opened(there, tmp_path, said.append, limit_bytes=sum(sizes) - 1)
    for number in (0, 1):
        tars.open(number, stop=NEVER).close()
    assert tars.touch(0), "so that 1 is the one not used for longest"
    tars.open(2, stop=NEVER).close()
    assert [tars.touch(number) for number in range(3)] == [True, False, True]
    with tars.open(0, stop=NEVER), tars.open(2, stop=NEVER):
        assert tars.open(1, stop=NEVER, is_needed=False) is None, "fetching ahead pushes nothing out that is in use"
        assert [tars.touch(number) for number in range(3)] == [True, False, True]
        assert said == []
        tars.open(1, stop=NEVER).close()
        assert [tars.touch(number) for number in range(3)] == [True, True, True], "beyond the limit, for it is needed"
        assert ["the cache is too small" in line for line in said] == [True]
    os.truncate(index.data_dir / index.tars[2], 0)
    tars.open(2, stop=NEVER).close()
    assert sum(tars.touch(number) for number in range(3)) == 2, "it shrinks again as tars are let go"
    assert len(said) == 1


def test_a_reader_has_one_tar_open_at_a_time(there: str, numbered: ShardIndex, tmp_path: Path) -> None:
    largest, said = max(shard["num_bytes"] for shard in numbered.info["shards"]), []
    index, tars = opened(there, tmp_path, said.append, limit_bytes=largest, fetch_ahead=0)
    reader = StepReader(index, train_plan(index, global_batch_size=6), rows=slice(0, 6))
    reader.read(0)
    assert tars.num_fetched == 3
    assert [tars.touch(number) for number in range(3)] == [False, False, True]
    assert said == []
    reader.read(1)
    assert ["tars are fetched again" in line for line in said] == [True]


def cache_of(folder: Path, sizes: dict[str, int], *, limit_bytes: int | None) -> tuple[CacheFolder, dict[str, Path]]:
    """A cache that holds tars of these sizes, used in this order; and a file of somebody else in the same depth."""
    cache = CacheFolder(folder, limit_bytes=limit_bytes)
    home = cache.home("s3://bucket/data") / "0123456789abcdef"
    home.mkdir()
    (folder / "a/b").mkdir(parents=True)
    paths = {name: home / f"{name}.tar" for name in sizes} | {"other": folder / "a/b/other.tar"}
    for i, (name, path) in enumerate(paths.items()):
        path.write_bytes(bytes(sizes.get(name, 500)))
        os.utime(path, ns=(i + 1, i + 1))
    return cache, paths


@pytest.mark.parametrize(
    ("num_bytes", "force", "limit", "left"),
    [
        (300, False, 1000, ["large", "older", "used", "newer"]),  # one that is used is in the way
        (600, True, 2000, ["older", "used", "newer"]),  # by last use
        (900, False, 1000, ["large", "older", "used", "newer"]),
        (2000, False, 1000, ["large", "older", "used", "newer"]),  # larger than the whole limit
        (2000, True, 1000, ["older", "used", "newer"]),  # and only its like gives way
        (10**17, True, 1000, None),  # larger than the disk
        (10**17, True, None, None),
    ],
)
def test_no_tar_gives_way_in_vain(
    num_bytes: int, force: bool, limit: int | None, left: list[str] | None, tmp_path: Path
) -> None:
    sizes = {"large": 1100, "older": 100, "used": 300, "newer": 100}
    if limit == 1000 and num_bytes < limit:
        sizes["used"] = 900
    cache, paths = cache_of(tmp_path / "cache", sizes, limit_bytes=limit)
    new = tmp_path / "new"
    with open(paths["used"], "rb") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        if left is None:
            with pytest.raises(RemoteError, match=r"the disk has no room for 1e\+05 TB"):
                cache.new_tar(new, num_bytes, force=force, stop=NEVER)
        else:
            file, fits = cache.new_tar(new, num_bytes, force=force, stop=NEVER)
            assert (file is not None) is new.exists() is force
            assert fits is (num_bytes == 600)
            if file is not None:
                file.close()
                assert new.stat().st_size == num_bytes
    assert [name for name in sizes if paths[name].exists()] == (left or list(sizes))
    assert paths["other"].exists(), "not ours"


def test_a_tar_cut_short_in_the_cache_is_fetched_anew(there: str, tmp_path: Path) -> None:
    index, tars = opened(there, tmp_path)
    tars.open(0, stop=NEVER).close()
    path = index.data_dir / index.tars[0]
    os.truncate(path, 1000)
    tars.open(0, stop=NEVER).close()
    assert sha256_of(path) == index.info["shards"][0]["sha256"]
    assert tars.num_fetched == 2


def test_a_link_in_the_cache_is_not_followed(there: str, tmp_path: Path) -> None:
    index, tars = opened(there, tmp_path / "cache")
    (tmp_path / "precious").write_bytes(b"precious")
    (index.data_dir / f".{index.tars[0]}.tmp").symlink_to(tmp_path / "precious")
    tars.open(0, stop=NEVER).close()
    (index.data_dir / index.tars[1]).symlink_to(tmp_path / "precious")
    with pytest.raises(RemoteError, match="symbolic links; choose another --cache"):
        tars.open(1, stop=NEVER)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_cache_must_be_ones_own_and_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RemoteError, match=r"file/x: cannot be made \(Not a directory\); choose another --cache"):
        CacheFolder(tmp_path / "file" / "x", limit_bytes=None)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(RemoteError, match="open: others may write there; run chmod 700 .*/open, or choose another"):
        CacheFolder(tmp_path / "open", limit_bytes=None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(RemoteError, match="link: is no folder of yours, or a link; choose another --cache"):
        CacheFolder(tmp_path / "link", limit_bytes=None)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(RemoteError, match="is no folder of yours, or a link; choose another --cache"):
        CacheFolder(tmp_path, limit_bytes=None)


def test_a_full_disk_is_said_in_one_line(there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    index, tars = opened(there, tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RemoteError, match=r"the disk has no room for .*B; free some, or choose another --cache"):
        tars.open(0, stop=NEVER)
    assert not list(index.data_dir.glob(".*.tmp"))
