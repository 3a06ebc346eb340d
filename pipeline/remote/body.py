"""The bytes of one file as a server sends them: from any place on, and with a deadline on progress.

A line that brings less than `PROGRESS_BYTES` in the time it is given is a stall, whatever keeps it open.
"""

import asyncio
import contextlib
import importlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO, Protocol

from pipeline.remote.errors import ContentError, RemoteError, StallError

PIECE_BYTES = 2**20  # handed on at a time, at most
PROGRESS_BYTES = 2**16  # in 30 seconds: 2 kB/s
BLOCK_BYTES = 2**24  # of one request, where a file system of fsspec asks for parts: long enough to hide its latency
GONE, REFUSED, MAY_PASS = (404, 410), (401, 403), (408, 425, 429)


class Body(Protocol):
    """An open file of a server.

    Attributes:
        size: Bytes of the whole file; None where the server does not say.
    """

    size: int | None

    def read_into(self, into: bytearray) -> None:
        """Add the next bytes; none at the end. What came before an error stays in `into`.

        Raises:
            OSError: The line broke, or stalled; the file may be opened again where this one ended.
        """

    def close(self) -> None: ...


class StreamBody:
    """A body that comes by itself, in a loop of asyncio.

    Args:
        read: Gives some bytes, at most so many; none at the end.
        skip: Bytes at the beginning that are not wanted: the server cannot begin later.
        wait_s: Within which there must be progress.
    """

    def __init__(
        self,
        read: Callable[[int], Awaitable[bytes]],
        close: Callable[[], Any],
        *,
        size: int | None,
        skip: int,
        wait_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.size = size
        self._read, self._close, self._skip, self._wait_s, self._loop = read, close, skip, wait_s, loop

    def read_into(self, into: bytearray) -> None:
        run(self._loop, self._read_into(into))

    async def _read_into(self, into: bytearray) -> None:
        while len(into) < PIECE_BYTES:
            async with progress_within(self._wait_s):
                came = 0
                while came < PROGRESS_BYTES:
                    piece = await self._read(PROGRESS_BYTES)
                    if not piece:
                        return
                    came += len(piece)
                    into += piece[self._skip :]
                    self._skip = max(0, self._skip - len(piece))

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended with the program
            self._loop.call_soon_threadsafe(self._close)


class FileBody:
    """A body that is asked for, part by part: an open file of fsspec."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self.size: int | None = None  # told by Content-Length alone; that of a pipe is wrong
        self._file, self._end = file, getattr(file, "size", None)
        file.seek(start)

    def read_into(self, into: bytearray) -> None:
        # No more than there are, where that is known; some servers mind.
        left = BLOCK_BYTES if self._end is None else self._end - self._file.tell()
        into += self._file.read(max(0, min(BLOCK_BYTES, left)))

    def close(self) -> None:
        with contextlib.suppress(Exception):  # it is read from; nothing can be lost
            self._file.close()


@contextlib.asynccontextmanager
async def progress_within(seconds: float) -> Any:
    """Raise StallError for a block that takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise StallError(f"less than {PROGRESS_BYTES} bytes in {seconds:.0f} s") from None


def run(loop: asyncio.AbstractEventLoop, work: Any) -> Any:
    """What a coroutine returns, which runs in another thread's loop."""
    return importlib.import_module("fsspec.asyn").sync(loop, lambda: work)


def open_web(files: Any, url: str, *, start: int, wait_s: float, what: str) -> StreamBody:
    """A file of a web server.

    Args:
        files: fsspec's file system, whose connections are used.
        what: The URL without secrets, for messages.

    Raises:
        FileNotFoundError: 404 or 410, and nothing else.
        PermissionError: 401 or 403.
        OSError: The server has other troubles; they may pass.
        RemoteError: It answers what no time can heal.
    """

    async def get() -> StreamBody:
        session = await files.set_session()
        async with progress_within(wait_s):
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
            answer = await session.get(files.encode_url(url), headers=headers)
        try:
            size, skip = read_head(answer.status, answer.headers, start=start, what=what)
        except BaseException:
            answer.close()
            raise
        return StreamBody(
            answer.content.read, answer.close, size=size, skip=skip, wait_s=wait_s, loop=asyncio.get_running_loop()
        )

    return run(files.loop, get())


def read_head(status: int, headers: Any, *, start: int, what: str) -> tuple[int | None, int]:
    """What the head of a web server's answer says of a file that was asked for from `start` on.

    Returns:
        Bytes of the whole file, None where it is not said; and bytes at the beginning of the answer to pass over.

    Raises:
        As `open_web`.

    >>> read_head(200, {"Content-Length": "9"}, start=5, what="x")
    (9, 5)
    >>> read_head(206, {"Content-Range": "bytes 5-8/9"}, start=5, what="x")
    (9, 0)
    """
    if status in GONE:
        raise FileNotFoundError(what)
    if status in REFUSED:
        raise PermissionError(f"HTTP {status}")
    if status >= 500 or status in MAY_PASS:
        raise ConnectionError(f"HTTP {status}")
    if status not in (200, 206):
        raise RemoteError(f"{what}: the server answers HTTP {status}, not the file; look at the URL")
    encoding = headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise ContentError(f"{what}: comes with Content-Encoding {encoding[:20]!r}; have it served as it is")
    if status == 200:
        length = headers.get("Content-Length", "")
        return (int(length) if re.fullmatch(r"\d{1,18}", length) else None), start
    part = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", headers.get("Content-Range", ""))
    if not part or int(part[1]) != start:
        raise ContentError(f"{what}: the server sends another part of it than was asked for; use another server")
    return (None if part[2] == "*" else int(part[2])), 0


def web_stamp(files: Any, url: str, *, names: tuple[str, ...], wait_s: float) -> dict[str, str]:
    """Headers of these names, in small letters, that a web server gives for a file.

    None where it answers no HEAD as it should; what is wrong is found out when the file is read.
    """
    bad_answer = importlib.import_module("aiohttp").ClientResponseError

    async def head() -> dict[str, str]:
        session, headers = await files.set_session(), {"Accept-Encoding": "identity"}
        with contextlib.suppress(bad_answer):
            async with (
                progress_within(wait_s),
                session.head(files.encode_url(url), headers=headers, allow_redirects=True) as answer,
            ):
                found = answer.headers.items() if answer.status == 200 else ()
                return {name.lower(): value for name, value in found if name.lower() in names and value}
        return {}

    return run(files.loop, head())


@contextlib.asynccontextmanager
async def answer_of_s3(what: str, *, wait_s: float) -> Any:
    """Wait for an answer in a block and read it; RemoteError where a part of it is missing, else as s3fs."""
    try:
        async with progress_within(wait_s):
            yield
    except KeyError as missing:
        raise RemoteError(f"{what}: the server's answer has no {missing}, so it is not S3; look at the URL") from None


def open_s3(files: Any, path: str, *, start: int, wait_s: float, what: str) -> StreamBody:
    """A file of S3, or of what speaks its language; raises what s3fs does, too."""

    async def get() -> StreamBody:
        bucket, key, _ = files.split_path(path)
        part = {"Range": f"bytes={start}-"} if start else {}
        async with answer_of_s3(what, wait_s=wait_s):
            answer = await files._call_s3("get_object", Bucket=bucket, Key=key, **part)
            body, is_part = answer["Body"], answer["ResponseMetadata"]["HTTPStatusCode"] == 206
        length, skip = answer.get("ContentLength"), 0 if is_part else start
        size = None if length is None else length + start - skip
        return StreamBody(body.read, body.close, size=size, skip=skip, wait_s=wait_s, loop=asyncio.get_running_loop())

    return run(files.loop, get())


def s3_info(files: Any, path: str, *, wait_s: float, what: str) -> dict[str, Any]:
    """What S3 says of a file without sending it; raises what s3fs does, too."""

    async def info() -> dict[str, Any]:
        async with answer_of_s3(what, wait_s=wait_s):
            return await files._info(path)

    return run(files.loop, info())


def bounded_s3_client() -> dict[str, Any]:
    """Options of S3's client, under which it takes no message longer than `BLOCK_BYTES`: it reads errors whole.

    An older aiobotocore, which takes no class of one's own, stays as it is.
    """
    aiohttp, config = importlib.import_module("aiohttp"), importlib.import_module("aiobotocore.config")
    if not hasattr(config.AioConfig(), "http_session_cls"):
        return {}

    answer: Any = aiohttp.ClientResponse
    client: Any = importlib.import_module("aiobotocore.httpsession").AIOHTTPSession

    class Response(answer):
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
    """A client of web servers for fsspec: keeps no cookies, unpacks nothing, and has a connection for each request.

    What a server sends after an answer is not taken for the next one.
    """
    aiohttp = importlib.import_module("aiohttp")
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),  # `progress_within` has the time
        **options,
    )
