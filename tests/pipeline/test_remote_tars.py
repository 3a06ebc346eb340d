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
from res3d_video.pipeline.remote import RemoteSettings, RemoteTars, is_in_use, open_remote, private_folder
from res3d_video.pipeline.remote_store import RemoteError
from res3d_video.pipeline.shard_writer import sha256_of
from res3d_video.pipeline.sync import sync_dataset
from tests.clips import train_plan
from tests.s3_server import S3Server
from tests.until import until

CHECKOUT = Path(__file__).resolve().parents[2]
NEVER = threading.Event()  # nobody sets it
# Fetches every tar of a dataset; waits for a line before, so that several begin together.
FETCH_ALL = """
import sys, threading
import pipeline
from pathlib import Path
from res3d_video.pipeline.remote import RemoteSettings, open_remote
index = open_remote(sys.argv[1], RemoteSettings(cache=Path(sys.argv[2])), say=lambda line: print(line, flush=True))
print("ready", flush=True)
sys.stdin.readline()
before = index.store.store.num_bytes_fetched
for number in range(len(index.tars)):
    with index.store.open(number, stop=threading.Event()) as tar:
        assert len(tar.read()) == index.info["shards"][number]["num_bytes"]
print(index.store.store.num_bytes_fetched - before)
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
    index = open_remote(url, RemoteSettings(cache=cache, **settings), say=say)
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
    assert sum(counts) == sum(shard["num_bytes"] for shard in numbered.info["shards"])
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
    before = tars.store.num_bytes_fetched
    with tars.open(1, stop=NEVER) as tar:
        assert tar.read() == content
    assert not temporary.exists()
    assert tars.store.num_bytes_fetched - before == len(content)


def test_what_a_killed_process_left_is_not_in_use_and_what_one_fetches_is(tmp_path: Path) -> None:
    left, held = tmp_path / ".a.tar.tmp", tmp_path / ".b.tar.tmp"
    for path in (left, held):
        path.write_bytes(b"half")
    with open(held, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert (is_in_use(left), is_in_use(held)) == (False, True)
    assert not is_in_use(held)


def present(index: ShardIndex) -> list[int]:
    """The tars in the cache."""
    return [number for number, tar in enumerate(index.tars) if (index.data_dir / tar).exists()]


def test_the_least_recently_used_tar_gives_way_and_one_in_use_never(there: str, tmp_path: Path) -> None:
    index, tars = opened(there, tmp_path)
    sizes = [shard["num_bytes"] for shard in index.info["shards"]]
    assert len(sizes) == 3
    said: list[str] = []
    _, tars = opened(there, tmp_path, said.append, limit_bytes=sum(sizes) - 1)
    for number in (0, 1, 0, 2):
        tars.open(number, stop=NEVER).close()
    assert present(index) == [0, 2], "1 was the one not used for longest"
    assert said == []
    with tars.open(0, stop=NEVER), tars.open(2, stop=NEVER):
        tars.open(1, stop=NEVER).close()
        assert present(index) == [0, 1, 2], "beyond the limit, for it is needed"
        assert ["the cache is too small" in line for line in said] == [True]
    os.truncate(index.data_dir / index.tars[2], 0)
    tars.open(2, stop=NEVER).close()
    assert len(present(index)) == 2, "it shrinks again as tars are let go"
    assert len(said) == 1


def test_a_reader_has_one_tar_open_at_a_time(there: str, numbered: ShardIndex, tmp_path: Path) -> None:
    largest, said = max(shard["num_bytes"] for shard in numbered.info["shards"]), []
    index, _ = opened(there, tmp_path, said.append, limit_bytes=largest, fetch_ahead=0)
    reader = StepReader(index, train_plan(index, global_batch_size=6), rows=slice(0, 6))
    reader.read(0)
    assert present(index) == [2]
    assert said == []
    reader.read(1)
    assert ["tars are fetched again" in line for line in said] == [True]


def test_what_fits_in_no_case_pushes_nothing_out(there: str, tmp_path: Path) -> None:
    index, tars = opened(there, tmp_path, limit_bytes=10**9)
    tars.open(0, stop=NEVER).close()
    index.info["shards"][1]["num_bytes"] = 10**17
    with pytest.raises(RemoteError, match="make room, or choose another --cache"):
        tars.open(1, stop=NEVER)
    assert present(index) == [0]
    assert not list(index.data_dir.glob(".*.tmp"))


def test_what_is_not_ours_stays_in_the_cache(there: str, tmp_path: Path) -> None:
    index, tars = opened(there, tmp_path, limit_bytes=1)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/other.tar").write_bytes(b"other")
    for number in (0, 1):
        tars.open(number, stop=NEVER).close()
    assert sorted(path.name for path in tmp_path.rglob("*.tar")) == [index.tars[1], "other.tar"]


def test_a_tar_cut_short_in_the_cache_is_fetched_anew(there: str, tmp_path: Path) -> None:
    index, tars = opened(there, tmp_path)
    tars.open(0, stop=NEVER).close()
    path = index.data_dir / index.tars[0]
    os.truncate(path, 1000)
    tars.open(0, stop=NEVER).close()
    assert sha256_of(path) == index.info["shards"][0]["sha256"]


def test_a_link_in_the_cache_is_not_followed(there: str, tmp_path: Path) -> None:
    index, tars = opened(there, tmp_path / "cache")
    (tmp_path / "precious").write_bytes(b"precious")
    (index.data_dir / f".{index.tars[0]}.tmp").symlink_to(tmp_path / "precious")
    tars.open(0, stop=NEVER).close()
    (index.data_dir / index.tars[1]).symlink_to(tmp_path / "precious")
    with tars.open(1, stop=NEVER) as tar:
        assert os.fstat(tar.fileno()).st_size == index.info["shards"][1]["num_bytes"]
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_cache_must_be_ones_own_and_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RemoteError, match=r"file/x: cannot be made \(Not a directory\); choose another --cache"):
        private_folder(tmp_path / "file" / "x")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(RemoteError, match="open: is a link, or others own it or may .* chmod 700 .*/open$"):
        private_folder(tmp_path / "open")
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(RemoteError, match="link: is a link, or others own it"):
        private_folder(tmp_path / "link")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(RemoteError, match="is a link, or others own it"):
        private_folder(tmp_path)


def test_a_full_disk_is_said_in_one_line(there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    index, tars = opened(there, tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RemoteError, match="No space left on device; make room, or choose another --cache"):
        tars.open(0, stop=NEVER)
    assert not list(index.data_dir.glob(".*.tmp"))
