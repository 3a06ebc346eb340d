"""Files as a server sends them, from their beginning, with a deadline on progress.

A line that brings less than `PROGRESS_BYTES` in the time it is given is a stall, whatever keeps it open.
"""

import asyncio
import contextlib
import importlib
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from res3d_video.pipeline.remote.errors import ContentError, RemoteError, StallError

PIECE_BYTES = 2**20  # handed on at a time, at most
PROGRESS_BYTES = 2**16  # in 30 seconds: 2 kB/s
BLOCK_BYTES = 2**24  # of one request, where a file system of fsspec asks for parts: long enough to hide its latency
GONE, REFUSED, MAY_PASS = (404, 410), (401, 403), (408, 425, 429)


@dataclass(frozen=True)
class Answer:
    """A server's answer that brings a file.

    Attributes:
        size: Bytes of the file; None where the server does not say.
        read: Gives some bytes, at most so many; none at the end.
    """

    size: int | None
    read: Callable[[int], Awaitable[bytes]]
    close: Callable[[], Any]


def stream(loop: asyncio.AbstractEventLoop, request: Any, *, at_most: int, wait_s: float, what: str) -> Iterator[bytes]:
    """The bytes of a file that a server sends.

    Args:
        loop: Of fsspec; runs in another thread.
        request: Coroutine that returns an `Answer`.
        at_most: Bytes that the file may have; where the server says before that it has more, nothing is read.
        wait_s: Within which there must be progress.

    Raises:
        ContentError: It is larger.
        OSError: The line broke, or stalled.
    """
    answer = run(loop, request)
    try:
        if answer.size is not None and answer.size > at_most:
            raise ContentError(f"{what}: {answer.size} bytes, more than the {at_most} that are possible")
        while piece := run(loop, next_piece(answer, wait_s)):
            yield piece
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has ended with the program
            loop.call_soon_threadsafe(answer.close)


async def next_piece(answer: Answer, wait_s: float) -> bytes:
    """The next bytes of a file; none at the end."""
    piece = bytearray()
    while len(piece) < PIECE_BYTES:
        begin = len(piece)
        async with progress_within(wait_s):
            while len(piece) < begin + PROGRESS_BYTES:
                came = await answer.read(PROGRESS_BYTES)
                if not came:
                    return bytes(piece)
                piece += came
    return bytes(piece)


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


async def ask_web(files: Any, url: str, *, wait_s: float, what: str) -> Answer:
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
    session = await files.set_session()
    async with progress_within(wait_s):
        answer = await session.get(files.encode_url(url), headers={"Accept-Encoding": "identity"})
    try:
        size = size_in_head(answer.status, answer.headers, what=what)
    except BaseException:
        answer.close()
        raise
    return Answer(size, answer.content.read, answer.close)


def size_in_head(status: int, headers: Any, *, what: str) -> int | None:
    """Bytes of a file, as the head of a web server's answer says; None where it does not. Raises as `ask_web`.

    >>> size_in_head(200, {"Content-Length": "9"}, what="x")
    9
    """
    if status in GONE:
        raise FileNotFoundError(what)
    if status in REFUSED:
        raise PermissionError(f"HTTP {status}")
    if status >= 500 or status in MAY_PASS:
        raise ConnectionError(f"HTTP {status}")
    if status != 200:
        raise RemoteError(f"{what}: the server answers HTTP {status}, not the file; look at the URL")
    encoding = headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise ContentError(f"{what}: comes with Content-Encoding {encoding[:20]!r}; have it served as it is")
    length = headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"\d{1,18}", length) else None


async def web_headers(files: Any, url: str, *, names: tuple[str, ...], wait_s: float) -> dict[str, str]:
    """Headers of these names, in small letters, that a web server gives for a file.

    Nothing where it answers no HEAD as it should; what is wrong is found out when the file is read.
    """
    bad_answer = importlib.import_module("aiohttp").ClientResponseError
    session, headers = await files.set_session(), {"Accept-Encoding": "identity"}
    with contextlib.suppress(bad_answer):
        async with (
            progress_within(wait_s),
            session.head(files.encode_url(url), headers=headers, allow_redirects=True) as answer,
        ):
            found = answer.headers.items() if answer.status == 200 else ()
            return {name.lower(): value for name, value in found if name.lower() in names and value}
    return {}


@contextlib.asynccontextmanager
async def answer_of_s3(what: str, *, wait_s: float) -> Any:
    """Wait for an answer in a block and read it; RemoteError where a part of it is missing, else as s3fs."""
    try:
        async with progress_within(wait_s):
            yield
    except KeyError as missing:
        raise RemoteError(f"{what}: the server's answer has no {missing}, so it is not S3; look at the URL") from None


async def ask_s3(files: Any, path: str, *, wait_s: float, what: str) -> Answer:
    """A file of S3, or of what speaks its language; raises what s3fs does, too."""
    bucket, key, _ = files.split_path(path)
    async with answer_of_s3(what, wait_s=wait_s):
        answer = await files._call_s3("get_object", Bucket=bucket, Key=key)
        body = answer["Body"]
    return Answer(answer.get("ContentLength"), body.read, body.close)


async def s3_info(files: Any, path: str, *, wait_s: float, what: str) -> dict[str, Any]:
    """What S3 says of a file without sending it; raises what s3fs does, too."""
    async with answer_of_s3(what, wait_s=wait_s):
        return await files._info(path)


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
