"""What is fetched arrives whole, whatever the network does meanwhile; a server that refuses is not asked for ever."""

import builtins
import hashlib
import http.server
import importlib
import io
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.remote.body
import pipeline.remote.patience
from pipeline.errors import UserError
from pipeline.index import ShardIndex
from pipeline.remote.body import FileBody
from pipeline.remote.cache import folder_name
from pipeline.remote.dataset import open_dataset
from pipeline.remote.download import download
from pipeline.remote.errors import ContentError, Interrupted, RemoteError
from pipeline.remote.files import private_folder, write_private
from pipeline.remote.patience import Patience, reason
from pipeline.remote.place import Place, is_url, public_url
from pipeline.remote.settings import RemoteSettings, parse_size
from train.data_options import Data

CONTENT = bytes(range(256)) * 40
NEVER = threading.Event()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that take no time."""
    monkeypatch.setattr(pipeline.remote.patience, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(pipeline.remote.body, "BLOCK_BYTES", 1000)


class BadLine:
    """A place whose files break off after so many bytes each time they are opened."""

    def __init__(self, *, breaks: int) -> None:
        self.left, self.num_opened = breaks, 0

    def address(self, name: str) -> str:
        return f"bad://{name}"

    def open(self, name: str, start: int, *, wait_s: float) -> FileBody:
        place, self.num_opened = self, self.num_opened + 1

        class File(io.BytesIO):
            num_read = 0

            def read(self, size: int | None = -1) -> bytes:
                data = super().read(size)
                self.num_read += len(data)
                if place.left and self.num_read > 3000:
                    place.left -= 1
                    raise ConnectionResetError("cut off")
                return data

        return FileBody(File(CONTENT), start)


def test_a_broken_line_is_taken_up_where_it_broke(impatient: None) -> None:
    place, said, into = BadLine(breaks=2), [], io.BytesIO()
    patience = Patience(timeout_s=30, say=said.append)
    sha256 = download(place, "x", into, patience=patience, stop=NEVER, at_most=len(CONTENT), num_bytes=len(CONTENT))
    assert into.getvalue() == CONTENT
    assert sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert place.num_opened == 3
    assert [line.split(": ")[0] for line in said if "no answer" in line] == ["bad://x"] * (len(said) // 2)


def test_a_file_of_another_size_is_refused(impatient: None) -> None:
    place, patience = BadLine(breaks=0), Patience(timeout_s=0, say=print)
    for num_bytes, words in (
        (len(CONTENT) - 1, "has more than the 10239 bytes"),
        (len(CONTENT) + 1, "10240 bytes, dataset.json"),
    ):
        with pytest.raises(ContentError, match=words):
            download(place, "x", io.BytesIO(), patience=patience, stop=NEVER, at_most=num_bytes, num_bytes=num_bytes)


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (FileNotFoundError("x"), FileNotFoundError, "x"),
        (PermissionError("Forbidden"), RemoteError, r"a: refused \(PermissionError: Forbidden\); look at the cred"),
        (KeyError("a mistake of ours"), KeyError, "a mistake"),
        (ConnectionRefusedError("nobody"), RemoteError, r"a: no answer for 0 s \(ConnectionRefusedError: nobody\)"),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, raised: type, words: str) -> None:
    def request() -> None:
        raise error

    with pytest.raises(raised, match=words):
        Patience(timeout_s=0, say=lambda line: None).until_done(request, what="a", stop=NEVER)


def test_who_is_told_to_stop_does_not_wait() -> None:
    def request() -> None:
        stop.set()
        raise ConnectionResetError

    stop = threading.Event()
    with pytest.raises(Interrupted):
        Patience(timeout_s=600, say=lambda line: None).until_done(request, what="a", stop=stop)


def test_a_package_that_is_missing_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_gcsfs(name: str) -> object:
        if name == "gcsfs":
            raise ImportError(name=name)
        return builtins.__import__(name)

    monkeypatch.setattr(importlib, "import_module", without_gcsfs)
    with pytest.raises(RemoteError, match=r'^gs://b: needs the package gcsfs; pip install "res3d-video\[remote\]"$'):
        Place("gs://b")


def test_paths_are_no_urls() -> None:
    assert [is_url(text) for text in ("a/b", "/a", "C:/a", "a://b", "s3://b", "simplecache::s3://b")] == [
        False, False, False, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "GB", "1XB", "-1GB", "0", "1.2.3", "1iB", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="choose"):
        parse_size(text)


def test_sizes_have_the_units_that_people_use() -> None:
    assert [parse_size(text) for text in ("1kB", "1KB", "1KiB", "1k", "2 tb", "0.5MB")] == [
        1000, 1000, 1024, 1000, 2 * 10**12, 500_000,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="limit_bytes: 0 is not possible; choose 1 to "):
        RemoteSettings(limit_bytes=0)


def test_files_and_folders_of_a_cache_are_private_whatever_the_umask(tmp_path: Path) -> None:
    private_folder(tmp_path / "a/b")
    write_private(tmp_path / "a/b/c", b"c")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b", "a/b/c")]
    assert modes == [0o700, 0o700, 0o600]


@pytest.fixture(params=[True, False], ids=["parts", "whole"])
def web(numbered: ShardIndex, request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    """A web server with the numbered videos, which answers parts of files or only whole ones; and its requests."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(numbered.data_dir))

        def log_request(self, *_: object) -> None:
            asked.append(f"{self.command} {self.path}")

        def send_head(self) -> object:
            part, path = self.headers.get("Range"), Path(self.translate_path(self.path))
            if not request.param or not part or not path.is_file():
                return super().send_head()
            content = path.read_bytes()
            first, _, last = part.removeprefix("bytes=").partition("-")
            end = int(last or len(content) - 1) + 1
            if end > len(content):
                return self.send_error(416, "there is no such part")  # as some servers do
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(content)}")
            self.send_header("Content-Length", str(end - int(first)))
            self.end_headers()
            return io.BytesIO(content[int(first) : end])

        def end_headers(self) -> None:
            if request.param:
                self.send_header("Accept-Ranges", "bytes")
            super().end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def test_any_web_server_will_do(web: tuple[str, list[str]], numbered: ShardIndex, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    url, asked = web
    for _ in range(2):
        index = open_dataset(url, RemoteSettings(cache=tmp_path))
        for number, name in enumerate(numbered.tars):
            with index.store.open(number, stop=NEVER) as tar:
                assert tar.read() == (numbered.data_dir / name).read_bytes()
    assert sum(line.startswith("GET") and ".tar" in line for line in asked) == len(numbered.tars)
    assert sum(line == "GET /dataset.json" for line in asked) == 1


@pytest.mark.parametrize("name", ["limit_bytes", "timeout_s", "fetch_ahead", "num_fetchers"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -1, 10**30])
def test_settings_have_bounds(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name}: .* is not possible; choose . to "):
        RemoteSettings(**{name: value})


@pytest.mark.parametrize("text", ["9" * 400 + "GB", "2000000TiB", "0.1"])
def test_sizes_have_bounds(text: str) -> None:
    with pytest.raises(UserError, match="is not possible; choose 1 byte to"):
        parse_size(text)


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
        texts += [Place(url).address("x"), Place(url).shown]
    except RemoteError as error:
        texts.append(str(error))
    assert not [text for text in texts if "secret" in text or "se/cret" in text or "me" in text.split("host")[0]]
    assert folder_name("https://me:a@host/b") == folder_name("https://host/b") != folder_name("https://host/b?c")
