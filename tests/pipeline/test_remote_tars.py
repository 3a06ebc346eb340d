"""One cache for many processes: each tar is fetched once, kept while it is used, and never torn."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.remote import FREE_BYTES, RemoteSettings, RemoteTars, open_remote, private_folder
from res3d_video.pipeline.remote_store import RemoteError
from res3d_video.pipeline.shard_writer import sha256_of
from res3d_video.pipeline.sync import sync_dataset
from tests.s3_server import S3Server
from tests.until import until

CHECKOUT = Path(__file__).resolve().parents[2]
# Fetches every tar of a dataset; waits for a line before, so that several begin together.
FETCH_ALL = """
import sys
import pipeline
from pathlib import Path
from res3d_video.pipeline.remote import RemoteSettings, open_remote
index = open_remote(sys.argv[1], RemoteSettings(cache=Path(sys.argv[2])), say=lambda line: print(line, flush=True))
print("ready", flush=True)
sys.stdin.readline()
for number in range(len(index.tars)):
    with index.store.open(number) as tar:
        assert len(tar.read()) == index.info["shards"][number]["num_bytes"]
"""


def fetcher(url: str, cache: Path) -> subprocess.Popen:
    """A process that fetches all tars once it is told to."""
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE) | {"stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([sys.executable, "-c", FETCH_ALL, url, str(cache)], cwd=CHECKOUT, bufsize=1, **pipes)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture(scope="module")
def there(numbered: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The numbered videos behind a file:// URL, which needs no server."""
    folder = tmp_path_factory.mktemp("there")
    sync_dataset(numbered.data_dir, folder)
    return f"file://{folder}"


def present(index: ShardIndex) -> list[int]:
    """The tars in the cache."""
    return [number for number, tar in enumerate(index.tars) if (index.data_dir / tar).exists()]


def opened(url: str, cache: Path, *, say: Any = print, **settings: object) -> tuple[ShardIndex, RemoteTars]:
    index = open_remote(url, RemoteSettings(cache=cache, **settings), say=say)
    return index, index.store


def test_two_processes_that_share_a_cache_fetch_each_tar_once(
    numbered: ShardIndex, s3: S3Server, tmp_path: Path
) -> None:
    sync_dataset(numbered.data_dir, "s3://shards/shared")
    processes = [fetcher("s3://shards/shared", tmp_path) for _ in range(2)]
    s3.forget_requests()
    for process in processes:
        process.stdin.write("go\n")
    assert [process.communicate(timeout=60)[0] for process in processes] == ["", ""]
    assert [len(s3.requests("GET", tar)) for tar in numbered.tars] == [1] * len(numbered.tars)


def test_a_process_killed_while_it_fetches_leaves_no_tar_and_the_next_goes_on(there: str, tmp_path: Path) -> None:
    index, tars = opened(there, tmp_path)
    slow = Path(there.removeprefix("file://")) / index.tars[1]
    content = slow.read_bytes()
    slow.unlink()
    os.mkfifo(slow)  # who opens it waits for a writer
    try:
        process = fetcher(there, tmp_path)
        process.stdin.write("go\n")
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
    with tars.open(1) as tar:
        assert tar.read() == content
    assert not temporary.exists()


def test_the_least_recently_used_tar_gives_way_and_one_in_use_never(there: str, tmp_path: Path) -> None:
    index, _ = opened(there, tmp_path)
    sizes = [shard["num_bytes"] for shard in index.info["shards"]]
    (tmp_path / "a").mkdir()
    (tmp_path / "a/other.tar").write_bytes(b"other")
    said: list[str] = []
    _, tars = opened(there, tmp_path, say=said.append, limit_bytes=sum(sizes) - 1)
    for number in (0, 1, 0, 2):
        tars.open(number).close()
    assert present(index) == [0, 2], "1 was the one not used for longest"
    with tars.open(0), tars.open(2):
        tars.open(1).close()
        assert present(index) == [0, 1, 2], "beyond the limit, for it is needed"
        assert ["the cache is too small" in line for line in said] == [True]
    os.truncate(index.data_dir / index.tars[2], 0)  # what was cut short is fetched anew
    tars.open(2).close()
    assert sha256_of(index.data_dir / index.tars[2]) == index.info["shards"][2]["sha256"]
    assert (len(present(index)), len(said)) == (2, 1), "it shrinks again as tars are let go"
    assert (tmp_path / "a/other.tar").exists(), "what is not ours stays"


def test_the_room_of_a_cache_is_its_limit_or_what_the_disk_has(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, tars = opened(there, tmp_path)
    tars.open(0).close()
    size = index.info["shards"][0]["num_bytes"]
    for free, room in ((FREE_BYTES + 1000, size + 1000), (FREE_BYTES, size), (0, 0)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Mock(free=free))
        assert tars.room() == room
        assert opened(there, tmp_path, limit_bytes=size + 500)[1].room() == min(room, size + 500)


def test_what_fits_in_no_case_pushes_nothing_out(there: str, tmp_path: Path) -> None:
    index, tars = opened(there, tmp_path, limit_bytes=10**9)
    tars.open(0).close()
    index.info["shards"][1]["num_bytes"] = 10**17
    with pytest.raises(RemoteError, match="; make room, or choose another --cache"):
        tars.open(1)
    assert present(index) == [0]
    assert not list(index.data_dir.glob(".*.tmp"))


def test_a_link_in_the_cache_is_not_followed(there: str, tmp_path: Path) -> None:
    index, tars = opened(there, tmp_path / "cache")
    (tmp_path / "precious").write_bytes(b"precious")
    (index.data_dir / f".{index.tars[0]}.tmp").symlink_to(tmp_path / "precious")
    tars.open(0).close()
    (index.data_dir / index.tars[1]).symlink_to(tmp_path / "precious")
    with tars.open(1) as tar:
        assert os.fstat(tar.fileno()).st_size == index.info["shards"][1]["num_bytes"]
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_cache_must_be_ones_own_and_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(private_folder(tmp_path / "mine"))
    for name, words in {
        "file/x": r"cannot be made \(Not a directory\); choose another --cache",
        "open": "is a link, or others own it or may .* chmod 700 .*/open$",
        "link": "is a link, or others own it",
    }.items():
        with pytest.raises(RemoteError, match=f"{tmp_path / name}: {words}"):
            private_folder(tmp_path / name)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(RemoteError, match="is a link, or others own it"):
        private_folder(tmp_path)
