"""Files behind a URL: s3://, gs://, https:// and others of fsspec. An unreachable server is tried again."""

import asyncio
import contextlib
import errno
import hashlib
import importlib
import io
import re
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from res3d_video.pipeline.errors import printable
from res3d_video.pipeline.files import new_file_opener
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.schema import MAX_INFO_BYTES

T = TypeVar("T")
NEVER = threading.Event()  # is never set

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 15.0  # between two attempts
STALL_S = 30.0  # within which a server must answer, and send `PIECE_BYTES`
PIECE_BYTES = 2**18
MAX_CONNECTIONS = 1024  # of a client: the most `--workers`, for who waits for a connection would take that for a stall
BLOCK_BYTES = 2**24  # of one request where a file system asks for parts; of an error message at most

WEB, S3 = ("http", "https"), ("s3", "s3a")
NO_TIME_HEALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EISDIR, errno.ENOTDIR)
NO_CREDENTIALS = re.compile("Credentials|ProfileNotFound")  # names of exceptions
BAD_URL = re.compile("URL|Url|Redirect|Certificate|ParamValidation")
NETWORK_PACKAGES = ("aiohttp", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "requests", "urllib3")


class RemoteError(ShardError):
    """A remote dataset cannot be used, in one line."""


class ContentError(RemoteError):
    """A file at the server differs from what is listed; a second request may return another."""


class NoRangesError(RemoteError):
    """The server sends only whole files."""


class _LocalError(Exception):
    """Holds an OSError of the file that a download is written to, which no other answer of the server heals."""


class Interrupted(RemoteError):
    """`stop` was set."""

    def __init__(self) -> None:
        super().__init__("interrupted while waiting for a remote dataset")


def is_url(text: str) -> bool:
    """Whether this is a URL, not a path.

    >>> is_url("s3://bucket/shards"), is_url("shards/ucf101"), is_url("memory://x")
    (True, False, True)
    """
    return "://" in text and text.split("://")[0].isidentifier()


def public_url(url: str) -> str:
    """A URL without possible secrets: user, password, and everything after a question mark.

    >>> public_url("https://me:pass@host/shards?token=1"), public_url("s3://bucket/shards"), public_url("/a/b?c")
    ('https://host/shards', 's3://bucket/shards', '/a/b?c')
    >>> public_url("https://me:pa/ss@host/shards")
    'https://…'
    """
    scheme, is_one, rest = url.partition("://")
    if not is_one:
        return url
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    host = host.rpartition("@")[2]
    known = re.fullmatch(r"([^:\[\]]*|\[[\da-fA-F:.]*\])(:\d*)?", host)  # a password that is not quoted cuts it
    return f"{scheme}://{host}{slash}{path}" if known else f"{scheme}://…"


def address(root: str, name: str) -> str:
    """The URL of a file in a folder; a query (?…) stays at the end, names are quoted as URLs need.

    >>> address("https://host/shards/?token=1", "my set-000000.tar")
    'https://host/shards/my%20set-000000.tar?token=1'
    >>> address("s3://bucket/shards", "my set-000000.tar")
    's3://bucket/shards/my set-000000.tar'
    """
    if not root.startswith(("http://", "https://")):
        return f"{root.rstrip('/')}/{name}"
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))


def raise_if_final(error: Exception, what: str) -> None:
    """Raise errors that a retry would meet again, as a RemoteError for people; a bug is raised as it is."""
    name, package = type(error).__name__, type(error).__module__.split(".")[0]
    if isinstance(error, PermissionError) or NO_CREDENTIALS.search(name):
        raise RemoteError(f"{what}: refused ({reason(error)}); look at the credentials") from None
    if isinstance(error, OSError) and error.errno in NO_TIME_HEALS:
        raise RemoteError(f"{what}: {error.strerror}; make room there, or choose another folder") from None
    if str(error).startswith("Invalid endpoint"):  # botocore's ValueError
        raise RemoteError(f"{what}: AWS_ENDPOINT_URL is no URL; set it to one like http://host:9000") from None
    if package in NETWORK_PACKAGES and BAD_URL.search(name):
        raise RemoteError(f"{what}: leads to no file ({reason(error)}); look at the URL") from None
    if package not in NETWORK_PACKAGES and not isinstance(error, OSError):
        raise error


def reason(error: Exception) -> str:
    """An exception in one line, without secrets, which a server may repeat in its messages.

    >>> reason(OSError("no\\x1b[2J way to https://me:pw@host/a?token=1"))
    'OSError: no?[2J way to https://host/a'
    """
    text = re.sub(r"\w+://[^\s'\"]+", lambda url: public_url(url[0]), printable(str(error)))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class RemoteStore:
    """A folder behind a URL; files are named relative to it. Requests are retried while the server is unreachable.

    Every method raises RemoteError when the server is gone for `timeout_s` or refuses, FileNotFoundError with the URL
    when there is no such file, and Interrupted when `stop` was set meanwhile.

    `say` takes a line for a person, when an outage begins.

    Attributes:
        url: Where it is, with whatever secrets it holds: for the server.
        shown: The same without them: for everything that people read, and for files.
        folder: Where it is on this machine; None for all but file://.
        bytes_fetched: Of files, those of attempts that broke off too.
    """

    def __init__(self, url: str, *, timeout_s: float = 180.0, say: Callable[[str], None] = lambda line: None) -> None:
        self.url = url if url.endswith("://") else url.rstrip("/")
        self.shown = public_url(self.url)
        self.kind = url.split("://")[0]
        self.folder = Path(url.removeprefix("file://")) if self.kind == "file" else None
        self._files = open_filesystem(self.url, self.kind)
        self._timeout_s, self._say, self._is_gone = timeout_s, say, False
        self.bytes_fetched, self._counting = 0, threading.Lock()

    def address(self, name: str) -> str:
        """The URL of a file, without secrets."""
        return address(self.shown, name)

    def require_writable(self) -> None:
        """Raise RemoteError for a web server."""
        if self.kind in WEB:
            raise RemoteError(f"{self.shown}: web servers take no files; choose s3://, gs:// or a folder")

    def download(
        self, name: str, into: BinaryIO, *, at_most: int, sha256: str | None = None, stop: threading.Event = NEVER
    ) -> str:
        """Download a file of at most `at_most` bytes into an open file, from its beginning; returns its sha256.

        An attempt that breaks off is begun again.

        Raises:
            ContentError: It is too long, or its sha256 is not the one given.
            OSError: It cannot be written here.
        """
        what, furthest = self.address(name), 0

        def attempt() -> str:
            nonlocal furthest
            digest, done = hashlib.sha256(), 0
            into.seek(0)
            with contextlib.closing(self._pieces(name, at_most=at_most)) as pieces:
                for piece in pieces:
                    self._count(piece)
                    digest.update(piece)
                    done += local(into.write, piece)
                    if done > at_most:
                        raise ContentError(f"{what}: has more than the {at_most} bytes that are possible")
                    if stop.is_set():
                        raise Interrupted
                    furthest = max(furthest, done)
            local(into.truncate)  # removes what a longer attempt has left, and flushes
            if sha256 not in (None, digest.hexdigest()):
                raise ContentError(f"{what}: its sha256 is not the listed one; run tools/check_shards.py")
            return digest.hexdigest()

        try:
            return self._ask(attempt, name, stop, progress=lambda: furthest)
        except _LocalError as error:
            raise error.args[0] from None

    def download_to(self, name: str, path: Path, **expected: Any) -> str:
        """`download` to a path, atomically."""
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with open(temporary, "wb", opener=new_file_opener) as file:
                sha256 = self.download(name, file, **expected)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return sha256

    def read(self, name: str) -> bytes:
        """The content of dataset.json or checksums.json, which have the same size limit."""
        into = io.BytesIO()
        self.download(name, into, at_most=MAX_INFO_BYTES)
        return into.getvalue()

    def read_range(self, name: str, first: int, size: int, *, stop: threading.Event = NEVER) -> bytes:
        """`size` bytes of a file from an offset, unchecked; fewer if it ends before.

        Raises:
            NoRangesError: The server sends whole files only.
        """

        def attempt() -> bytes:
            found = bytearray()
            try:
                with contextlib.closing(self._pieces(name, at_most=size, first=first)) as pieces:
                    for piece in pieces:
                        self._count(piece)
                        found += piece
                        if stop.is_set():
                            raise Interrupted
                        if len(found) >= size:
                            break
            except OSError as error:
                if error.errno != errno.EINVAL:  # HTTP 416: it ends before
                    raise
            return bytes(found[:size])

        return self._ask(attempt, name, stop)

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of every file in the folder and below; empty if there is no folder."""
        root = self._files._strip_protocol(self.url)
        try:
            found = self._ask(lambda: self._files.find(root, detail=True), "")
        except FileNotFoundError:
            return {}
        return {path[len(root) :].lstrip("/"): int(info["size"]) for path, info in found.items()}

    def upload(self, source: Path, name: str, *, stop: threading.Event = NEVER) -> None:
        """Upload a file, atomically. For file:// the file itself is moved."""
        if self.folder is None:
            try:
                self._ask(lambda: self._files.put_file(str(source), self._path(name)), name, stop)
            except FileNotFoundError as missing:
                raise RemoteError(f"{missing}: there is no such bucket; create it, or look at the URL") from None
        else:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            source.replace(path)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda: self._files.rm_file(self._path(name)), name)

    def _count(self, piece: bytes) -> None:
        with self._counting:  # there are many threads
            self.bytes_fetched += len(piece)

    def _path(self, name: str) -> str:
        return self._files._strip_protocol(address(self.url, name))

    def _ask(
        self,
        request: Callable[[], T],
        name: str,
        stop: threading.Event = NEVER,
        progress: Callable[[], int] = lambda: 0,
    ) -> T:
        """The result of a request, retried with growing pauses while the server is unreachable.

        The time begins anew when `progress`, the bytes that the best attempt has brought, grows.
        """
        what, furthest, since_s, pause_s = self.address(name), -1, 0.0, FIRST_PAUSE_S
        while True:
            try:
                result, self._is_gone = request(), False
                return result
            except FileNotFoundError:
                raise FileNotFoundError(what) from None
            except RemoteError:
                raise
            except Exception as error:
                raise_if_final(error, what)
                if progress() > furthest:
                    furthest, since_s, pause_s = progress(), time.monotonic(), FIRST_PAUSE_S
                left_s = since_s + self._timeout_s - time.monotonic()
                if left_s <= 0:
                    raise RemoteError(
                        f"{what}: no answer for {self._timeout_s:.0f} s ({reason(error)}); look at the server, "
                        "or give a longer --remote-timeout"
                    ) from None
                if not self._is_gone:
                    self._is_gone = True  # shared by all threads: an outage is reported once
                    self._say(f"{what}: no answer ({reason(error)}); trying again for up to {self._timeout_s:.0f} s")
            if stop.wait(min(pause_s, left_s)):
                raise Interrupted
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _pieces(self, name: str, *, at_most: int, first: int | None = None) -> Generator[bytes, None, None]:
        """The bytes of a file, or `at_most` of them from `first` on, in one request; raises the network's errors."""
        path, what = self._path(name), self.address(name)
        if self.kind not in (*WEB, *S3):
            with self._files.open(path, "rb", block_size=BLOCK_BYTES, cache_type="none") as file:
                end, at = getattr(file, "size", None), first or 0
                if first is not None:
                    file.seek(first)
                    end = first + at_most if end is None else min(end, first + at_most)
                # Not beyond the end, if it is known: some servers refuse that.
                while piece := file.read(BLOCK_BYTES if end is None else max(0, min(BLOCK_BYTES, end - at))):
                    at += len(piece)
                    yield piece
            return
        part = None if first is None else f"bytes={first}-{first + at_most - 1}"
        size, body, close = self._run((ask_web if self.kind in WEB else ask_s3)(self._files, path, what, part))
        try:
            if size is not None and size > at_most:
                raise ContentError(f"{what}: {size} bytes, more than the {at_most} that are possible")
            while piece := self._run(read_piece(body)):
                yield piece
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended with the program
                self._files.loop.call_soon_threadsafe(close)

    def _run(self, work: Any) -> Any:
        """Run a coroutine in fsspec's thread and return its result; TimeoutError if it takes too long."""
        in_time = asyncio.wait_for(work, min(STALL_S, max(1.0, self._timeout_s)))
        return importlib.import_module("fsspec.asyn").sync(self._files.loop, lambda: in_time)


def local(work: Callable[..., T], *args: Any) -> T:
    """What a function returns that writes a file of this machine. Raises _LocalError."""
    try:
        return work(*args)
    except OSError as error:
        raise _LocalError(error) from None


async def read_piece(body: Any) -> bytes:
    """The next `PIECE_BYTES` of an answer; fewer at the end."""
    piece = bytearray()
    while len(piece) < PIECE_BYTES and (came := await body.read(PIECE_BYTES - len(piece))):
        piece += came
    return bytes(piece)


async def ask_web(files: Any, url: str, what: str, part: str | None) -> tuple[int | None, Any, Callable[[], None]]:
    """Ask a web server for a file, or a part of it as in an HTTP header.

    Returns:
        How many bytes come, None where the server does not say; what reads them; what ends that.
    """
    session = await files.set_session()
    headers = {"Accept-Encoding": "identity"} | ({"Range": part} if part else {})
    answer = await session.get(files.encode_url(url), headers=headers)
    status, encoding = answer.status, answer.headers.get("Content-Encoding", "identity")
    length = answer.headers.get("Content-Length", "")
    if status == (206 if part else 200) and encoding == "identity":
        return int(length) if re.fullmatch(r"\d{1,18}", length) else None, answer.content, answer.close
    answer.close()
    if status in (404, 410):
        raise FileNotFoundError(what)
    if status in (401, 403):
        raise PermissionError(f"HTTP {status}")
    if status >= 500 or status in (408, 425, 429):
        raise ConnectionError(f"HTTP {status}")  # may be temporary
    if part and status == 200:
        raise NoRangesError(f"{what}: comes whole when a part is asked for")
    if status == 416:
        raise OSError(errno.EINVAL, "HTTP 416")  # as s3fs has it
    if status not in (200, 206):
        raise RemoteError(f"{what}: the server answers HTTP {status}, not the file; look at the URL")
    raise ContentError(f"{what}: comes with Content-Encoding {encoding[:20]!r}; have it served as it is")


async def ask_s3(files: Any, path: str, what: str, part: str | None) -> tuple[int | None, Any, Callable[[], None]]:
    """The same for S3 and compatible servers; also raises the errors of s3fs."""
    bucket, key, _ = files.split_path(path)
    try:
        answer = await files._call_s3("get_object", Bucket=bucket, Key=key, **({"Range": part} if part else {}))
        return answer.get("ContentLength"), answer["Body"], answer["Body"].close
    except KeyError as missing:
        raise RemoteError(f"{what}: the server's answer has no {missing}, so it is not S3; look at the URL") from None


def open_filesystem(url: str, kind: str) -> Any:
    """fsspec's file system for a URL of a kind; it finds credentials and endpoints as its tools do."""
    options: dict[str, Any] = {}
    try:
        address(url, "")  # ValueError if it is not a URL
        if kind in S3:
            limits = {"connect_timeout": 10, "read_timeout": 30, "retries": {"total_max_attempts": 1}}
            limits["max_pool_connections"] = MAX_CONNECTIONS
            options = {"config_kwargs": limits | bounded_s3_client()}
        elif kind in WEB:
            options = {"encoded": True, "get_client": web_client}
        files = importlib.import_module("fsspec").filesystem(kind, use_listings_cache=False, **options)
    except (ValueError, ImportError) as error:
        raise RemoteError(
            f"{public_url(url)}: cannot be opened ({error}); choose s3://, gs://, https:// or a folder, and "
            'pip install "res3d-video[remote]"'
        ) from None
    if hasattr(files, "retries"):  # s3fs would retry for long without a message; `_ask` retries instead
        files.retries = 1
    return files


def bounded_s3_client() -> dict[str, Any]:
    """Options under which S3's client reads `BLOCK_BYTES` of an error at most, and waits `STALL_S` at most for a server
    that takes nothing of a request; none for an older aiobotocore."""
    aiohttp, config = importlib.import_module("aiohttp"), importlib.import_module("aiobotocore.config")
    if not hasattr(config.AioConfig(), "http_session_cls"):
        return {}
    answer: Any = aiohttp.ClientResponse
    client: Any = importlib.import_module("aiobotocore.httpsession").AIOHTTPSession

    class Response(answer):
        def num_sent(self) -> int | None:
            """Bytes of the request so far; None when all are sent, for from then on aiohttp has a limit of its own."""
            writer = getattr(self, "_stream_writer", None)  # an older aiohttp has none
            return None if writer is None else writer.output_size

        async def start(self, connection: Any) -> Any:
            head, before = asyncio.ensure_future(super().start(connection)), self.num_sent()
            try:
                while not (await asyncio.wait({head}, timeout=STALL_S))[0]:
                    if (sent := self.num_sent()) is not None and sent == before:
                        raise TimeoutError
                    before = sent
                return await head
            finally:
                head.cancel()

        async def read(self) -> bytes:
            found = bytearray()
            while piece := await self.content.readany():
                found += piece
                if len(found) > BLOCK_BYTES:
                    self.close()
                    raise aiohttp.ClientPayloadError(f"a message of more than {BLOCK_BYTES} bytes")
            return bytes(found)

    class Session(client):
        async def _get_session(self, *proxy: Any) -> Any:
            session = await super()._get_session(*proxy)
            session._response_class = Response
            return session

    return {"http_session_cls": Session}


async def web_client(**options: Any) -> Any:
    """A client of web servers for fsspec: keeps no cookies, unpacks nothing, has a new connection for each request."""
    aiohttp = importlib.import_module("aiohttp")
    return aiohttp.ClientSession(
        # A new one each time, so that data after an answer cannot become part of the next one.
        connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),  # `RemoteStore._run` has the time
        **options,
    )
