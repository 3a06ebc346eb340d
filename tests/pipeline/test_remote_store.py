"""What is fetched arrives whole, whatever the network does meanwhile; a server that refuses is not asked for ever."""

import contextlib
import functools
import hashlib
import http.server
import io
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
import s3fs
from botocore.exceptions import ParamValidationError

import res3d_video.pipeline.remote_store
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.remote import (
    MAX_INDEX_BYTES,
    RemoteSettings,
    folder_name,
    index_files,
    open_remote,
    parse_size,
)
from res3d_video.pipeline.remote_store import ContentError, Interrupted, RemoteError, RemoteStore, public_url, reason
from res3d_video.train.data_options import Data
from tests.s3_server import S3Server

CONTENT = bytes(range(256)) * 40


class BadLine(RemoteStore):
    """A store whose files break off after so many bytes, each time they are asked for."""

    def __init__(self, *breaks: int) -> None:
        self.breaks, self.num_asked, self.said = list(breaks), 0, []
        super().__init__("memory://bad", timeout_s=0.3, say=self.said.append)

    def _pieces(self, name: str, *, at_most: int) -> Iterator[bytes]:
        self.num_asked += 1
        end = self.breaks.pop(0) if self.breaks else len(CONTENT)
        for start in range(0, end, 1000):
            yield CONTENT[start : min(start + 1000, end)]
        if end < len(CONTENT):
            raise ConnectionResetError("cut off")


def test_a_download_that_breaks_is_begun_again_and_nothing_is_left_of_a_longer_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(res3d_video.pipeline.remote_store, "FIRST_PAUSE_S", 0.0)
    store, into = BadLine(3000, 7000), io.BytesIO(bytes(20_000))
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert store.download("x", into, at_most=20_000, sha256=sha256) == sha256
    assert into.getvalue() == CONTENT
    assert store.num_asked == 3
    assert store.said == ["memory://bad/x: no answer (ConnectionResetError: cut off); trying again for up to 0 s"]


def test_only_who_comes_further_than_before_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    stop = Mock(**{"is_set.return_value": False}, wait=waits.append)
    monkeypatch.setattr(res3d_video.pipeline.remote_store.time, "monotonic", lambda: sum(waits))
    store = BadLine(*range(1000, 9000, 100))
    store.download("x", io.BytesIO(), stop=stop, at_most=len(CONTENT))
    assert store.num_asked == 81
    assert sum(waits) > 10 * 0.3
    waits.clear()
    with pytest.raises(RemoteError, match=r"no answer for 0 s \(ConnectionResetError: cut off\)"):
        BadLine(*[3000] * 1000).download("x", io.BytesIO(), stop=stop, at_most=len(CONTENT))
    assert sum(waits) == pytest.approx(0.3)


def test_a_file_that_is_too_long_or_another_is_refused() -> None:
    with pytest.raises(ContentError, match="has more than the 10239 bytes"):
        BadLine().download("x", io.BytesIO(), at_most=len(CONTENT) - 1)
    with pytest.raises(ContentError, match="its sha256 is not the listed one"):
        BadLine().download("x", io.BytesIO(), at_most=len(CONTENT) + 1, sha256="0" * 64)


def test_a_full_disk_here_is_no_fault_of_the_server() -> None:
    store = BadLine()
    with (
        open("/dev/full", "wb", buffering=0) as full,
        pytest.raises(OSError, match="No space left on device") as caught,
    ):
        store.download("x", full, at_most=len(CONTENT))
    assert not isinstance(caught.value, RemoteError)
    assert (store.num_asked, store.said) == (1, [])


@pytest.fixture
def is_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Takes what listens on a port of this machine for S3."""

    def is_s3(port: int) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3fs.S3FileSystem.clear_instance_cache()  # clients keep the address that they began with

    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    yield is_s3
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("talks", [False, True], ids=["takes nothing", "answers nothing"])
def test_an_upload_that_nobody_takes_or_answers_ends(
    talks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_s3: Callable[[int], None]
) -> None:
    monkeypatch.setattr(res3d_video.pipeline.remote_store, "STALL_S", 0.5)
    (tmp_path / "large").write_bytes(bytes(2**25))
    connections = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                connections.append(listener.accept()[0])
                while talks and connections[-1].recv(2**20):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        is_s3(listener.getsockname()[1])
        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(RemoteError, match=r"s3://silent/large: no answer for 0 s \(ReadTimeoutError"):
            RemoteStore("s3://silent", timeout_s=0.0).upload(tmp_path / "large", "large")
    for connection in connections:
        connection.close()


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (FileNotFoundError("x"), FileNotFoundError, "^memory://b/a$"),
        (PermissionError("Forbidden"), RemoteError, r"a: refused \(PermissionError: Forbidden\); look at the cred"),
        (KeyError("a mistake of ours"), KeyError, "a mistake"),
        (
            ParamValidationError(report="Invalid bucket name"),
            RemoteError,
            r"a: leads to no file \(ParamVal.* at the URL",
        ),
        (ValueError("Invalid endpoint: minio:9000"), RemoteError, "a: AWS_ENDPOINT_URL is no URL; set it to one like"),
        (ConnectionRefusedError("nobody"), RemoteError, r"a: no answer for 0 s \(ConnectionRefusedError: nobody\)"),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, raised: type, words: str) -> None:
    with pytest.raises(raised, match=words):
        RemoteStore("memory://b", timeout_s=0)._ask(Mock(side_effect=error), "a")


def test_who_is_told_to_stop_neither_waits_nor_finishes_a_download() -> None:
    def request() -> None:
        stop.set()
        raise ConnectionResetError

    stop = threading.Event()
    with pytest.raises(Interrupted):
        RemoteStore("memory://b", timeout_s=600)._ask(request, "a", stop)
    with pytest.raises(Interrupted, match="interrupted while waiting"):
        BadLine().download("x", io.BytesIO(), stop=stop, at_most=len(CONTENT))


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_nobody_waits_for_a_connection(scheme: str, is_s3: Callable[[int], None]) -> None:
    together = threading.Barrier(120)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            together.wait(timeout=20)
            self.send_response(200)
            self.send_header("Content-Length", "1")
            self.end_headers()
            self.wfile.write(b"x")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = together.parties

    with Server(("127.0.0.1", 0), Handler) as server, ThreadPoolExecutor(together.parties) as threads:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        is_s3(server.server_port)
        url = {"http": f"http://127.0.0.1:{server.server_port}", "s3": "s3://bucket"}[scheme]
        names = map(str, range(together.parties))
        assert (
            list(threads.map(RemoteStore(url, timeout_s=60, say=pytest.fail).read, names)) == [b"x"] * together.parties
        )
        server.shutdown()


def test_a_package_that_is_missing_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(RemoteError, match="^gs://b: cannot be opened .*gcs.*; .* pip install "):
        RemoteStore("gs://b")


def test_the_index_of_sports_1m_is_not_too_large() -> None:
    num_samples = 6_800_000  # docs/scale.md
    info = {"num_samples": num_samples, "num_frames": 55 * num_samples, "split_names": ["1"]}
    frames_bytes = info["num_frames"] * 3 * 4
    assert index_files(info)["index/frames.npy"] > frames_bytes
    assert frames_bytes + 200 * num_samples < MAX_INDEX_BYTES, "with all that a sample has"


def test_what_is_no_size_is_refused() -> None:
    for text in ["", "GB", "1XB", "-1GB", "0", "0.1", "1.2.3", "1iB", "nan", "9" * 400 + "GB", "2000000TiB"]:
        with pytest.raises(UserError, match="is no size; choose one like"):
            parse_size(text)


def test_any_web_server_will_do(numbered: ShardIndex, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked.append(f"{self.command} {self.path}")

    handler = functools.partial(Handler, directory=str(numbered.data_dir))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for _ in range(2):
            index = open_remote(f"http://127.0.0.1:{server.server_address[1]}", RemoteSettings(cache=tmp_path))
            for number, name in enumerate(numbered.tars):
                with index.store.open(number) as tar:
                    assert tar.read() == (numbered.data_dir / name).read_bytes()
        by_tars = list(asked)
        index = open_remote(index.store.store.url, RemoteSettings(cache=tmp_path / "of its own"))
        (part,) = index.store.read_parts([0], [600], [50])
        assert bytes(part) == (numbered.data_dir / numbered.tars[0]).read_bytes()[600:650]
        assert (index.data_dir / numbered.tars[0]).is_file(), "this server sends no parts"
        server.shutdown()
    assert sum(line.startswith("GET") and ".tar" in line for line in by_tars) == len(numbered.tars)
    assert by_tars.count("GET /dataset.json") == 3, "twice at first, once when all is there"


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@host/shards", "https://me:secret@host", "https://secret@host:1/a", "http://host/a?secret",
        "http://host/a#secret", "https://me:se/cret@host/a", "https://me:se?secret@host/a", "s3://me:secret@bucket/a?b",
        "https://me:secret@[::1]:80/a?secret", "https://me:secret@[::1/a", "http://a@b:secret@host/a",
    ],
)  # fmt: skip
def test_secrets_of_a_url_are_in_nothing_that_is_shown(url: str) -> None:
    texts = [public_url(url), folder_name(url), reason(OSError(f"no way to ({url})")), str(Data(url))]
    try:
        texts += [RemoteStore(url).address("x"), RemoteStore(url).shown]
    except RemoteError as error:
        texts.append(str(error))
    assert not [text for text in texts if "secret" in text or "se/cret" in text or "me" in text.split("host")[0]]
    assert folder_name("https://me:a@host/b") == folder_name("https://host/b") != folder_name("https://host/b?c")


@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_a_part_of_a_file_is_just_that(scheme: str, s3: S3Server, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/x").write_bytes(CONTENT)
    s3.put(tmp_path / "parts", "parts")
    store = RemoteStore({"file": f"file://{tmp_path}/parts", "s3": "s3://shards/parts"}[scheme], timeout_s=5)
    assert store.read_range("x", 300, 1000) == CONTENT[300:1300]
    assert store.read_range("x", len(CONTENT) - 7, 100) == CONTENT[-7:]
    assert store.bytes_fetched == 1007
    with pytest.raises(FileNotFoundError, match="parts/y"):
        store.read_range("y", 0, 1)
    assert store.read_range("x", 20_000, 10) == b""


def test_parts_of_tars_that_are_near_come_together_and_what_is_not_there_is_none(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_remote(numbered.data_dir.as_uri(), RemoteSettings(cache=tmp_path))
    asked, read_range = [], RemoteStore.read_range

    def recorded(self: RemoteStore, name: str, first: int, size: int, **stop: threading.Event) -> bytes:
        asked.append((name, first, size))
        return read_range(self, name, first, size, **stop)

    monkeypatch.setattr(RemoteStore, "read_range", recorded)
    contents = [(numbered.data_dir / tar).read_bytes() for tar in numbered.tars]
    parts = [(2, 900_000, 5), (0, 700, 1000), (2, 10, 30), (0, 500, 300), (1, 2**40, 5), (2, 900_003, 9)]
    found = index.store.read_parts(*zip(*parts, strict=True))
    expected = [contents[tar][first : first + size] or None for tar, first, size in parts]
    assert [None if part is None else bytes(part) for part in found] == expected
    assert sorted(asked) == [
        (numbered.tars[0], 500, 1200),
        (numbered.tars[2], 10, 30),
        (numbered.tars[2], 900_000, 12),
    ]
    said: list[str] = []
    lost = open_remote(numbered.data_dir.as_uri(), RemoteSettings(cache=tmp_path), say=said.append)
    lost.store.store.url += "/nowhere"
    assert lost.store.read_parts([1, 1], [0, 400_000], [10, 10]) == [None, None]
    assert len(said) == 1
    assert "is not there; its 4 samples count as damaged" in said[0]
