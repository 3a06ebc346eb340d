"""A folder behind a URL: s3://, gs://, https:// and whatever else fsspec knows."""

import contextlib
import errno
import hashlib
import importlib
import io
import json
import re
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from res3d_video.pipeline.remote.cache import new_file, put_in_place, write_whole
from res3d_video.pipeline.remote.errors import ContentError, Interrupted, RemoteError
from res3d_video.pipeline.remote.streams import (
    BLOCK_BYTES,
    GONE,
    ask_s3,
    ask_web,
    bounded_s3_client,
    run,
    s3_info,
    stream,
    web_client,
    web_headers,
)
from res3d_video.pipeline.remote.url import address, public_url
from res3d_video.pipeline.schema import MAX_INFO_BYTES

Result = TypeVar("Result")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 15.0
MAX_REASON = 300  # characters
STALL_S = 30.0  # in which a server must answer, and bring some bytes: see streams.py
NO_TIME_HEALS = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
FULL_OR_LOCKED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of a folder that is written to
CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ProfileNotFound")
BAD_URLS = {
    "TooManyRedirects", "InvalidURL", "InvalidUrlClientError", "InvalidUrlRedirectClientError",
    "NonHttpUrlClientError", "NonHttpUrlRedirectClientError", "ClientConnectorCertificateError",
}  # fmt: skip
NETWORK_PACKAGES = ("aiohttp", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "requests", "urllib3")


class RetryPolicy:
    """Repeats requests to one server; all threads share it, so that an outage takes two lines.

    Args:
        timeout_s: Without progress, before a request is given up.
        say: Takes a line for a person.
    """

    def __init__(self, *, timeout_s: float, say: Callable[[str], None]) -> None:
        self._timeout_s, self._say = timeout_s, say
        self._is_gone = False
        self.wait_s = min(STALL_S, max(1.0, timeout_s))  # for an answer, and for some bytes each time

    def call(
        self,
        request: Callable[[], Result],
        *,
        what: str,
        stop: threading.Event,
        progress: Callable[[], int] = lambda: 0,
    ) -> Result:
        """The result of a request, repeated while the server is gone.

        Args:
            what: The URL, for messages.
            progress: How far the request has come so far; the time begins anew when that is further than before.

        Raises:
            RemoteError: It is gone for longer than the timeout, or refuses.
            FileNotFoundError: There is no such file.
            Interrupted: `stop` was set meanwhile.
        """
        furthest, since_s, pause_s = -1, 0.0, FIRST_PAUSE_S
        while True:
            try:
                result = request()
            except (FileNotFoundError, RemoteError):
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
                    self._is_gone = True
                    self._say(f"{what}: no answer ({reason(error)}); trying again for up to {self._timeout_s:.0f} s")
            else:
                if self._is_gone:
                    self._is_gone = False
                    self._say(f"{what}: answers again; going on")
                return result
            if stop.wait(min(pause_s, left_s)):
                raise Interrupted
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def raise_if_final(error: Exception, what: str) -> None:
    """Raise what the same request would meet again, as the error it is for a person; a bug as itself."""
    if isinstance(error, PermissionError) or type(error).__name__ in CREDENTIALS or http_status(error) in (401, 403):
        raise RemoteError(f"{what}: refused ({reason(error)}); look at the credentials") from None
    if http_status(error) in GONE:
        raise FileNotFoundError(what) from None
    if type(error).__name__ in BAD_URLS:
        raise RemoteError(f"{what}: leads to no file ({reason(error)}); look at the URL") from None
    if isinstance(error, OSError):
        if isinstance(error, NO_TIME_HEALS) or error.errno in FULL_OR_LOCKED:
            raise RemoteError(f"{what}: {error.strerror or error}; look at that folder") from None
    elif type(error).__module__.split(".")[0] not in NETWORK_PACKAGES:
        raise error


def http_status(error: BaseException | None) -> int | None:
    """The answer that an error of S3's or Google's client is about; None where it is about none."""
    if error is None:
        return None
    answer = getattr(error, "response", None)
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    return status or vars(error).get("code") or http_status(error.__cause__)


def reason(error: Exception) -> str:
    """An exception in one line, without secrets: what a server made of it may hold anything.

    >>> reason(OSError("no\\x1b[2J way to https://me:pw@host/a?token=1"))
    'OSError: no[2J way to https://host/a'
    """
    text = "".join(c for c in " ".join(str(error).split()) if c.isprintable())[:MAX_REASON]
    text = re.sub(r"\w+://[^\s'\"]+", lambda url: public_url(url[0]), text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
LOCAL, WEB, S3 = ("file", "local"), ("http", "https"), ("s3", "s3a")
# What servers tell of a file that changes with its content; HTTP may give none of them.
STAMPS = ("etag", "content-md5", "digest", "last-modified", "lastmodified", "md5hash", "generation", "mtime", "created")
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 30, "retries": {"total_max_attempts": 1}}},
    "http": {"encoded": True, "get_client": web_client},
}


class RemoteStore:
    """A folder behind a URL, and its files by their names in it. Requests are repeated while the server is gone.

    Every method that asks the server takes `stop`, which ends its wait with `Interrupted`, and raises what
    `RetryPolicy.call` does.

    Args:
        timeout_s: How long the server may be gone.
        say: Takes a line for a person.

    Attributes:
        url: Where it is, with whatever secrets it holds: for the server.
        shown: The same without them: for everything that people read, and for files.
        is_local: Whether it is a folder of this machine.

    Raises:
        RemoteError: The URL's kind is unknown, or a package for it is missing.
    """

    def __init__(self, url: str, *, timeout_s: float = 180.0, say: Callable[[str], None] = lambda line: None) -> None:
        self.url = url if url.endswith("://") else url.rstrip("/")
        self.shown = public_url(self.url)
        self.kind = url.split("://")[0]
        self.is_local = self.kind in LOCAL
        try:
            address(self.url, "")
        except ValueError as error:
            raise RemoteError(f"{self.shown}: is no URL ({error}); correct it") from None
        self._files = open_filesystem(self.kind, self.shown)
        self._retry = RetryPolicy(timeout_s=timeout_s, say=say)

    def address(self, name: str) -> str:
        """The URL of a file, for people."""
        return address(self.shown, name)

    def download(
        self, name: str, into: BinaryIO, *, stop: threading.Event, at_most: int, num_bytes: int | None = None
    ) -> str:
        """Write a file into an open one, from its beginning; one that breaks off is begun again.

        Args:
            at_most: Bytes that it may have; where the server says before that it has more, nothing is read.
            num_bytes: What it must have; None for as many as it has.

        Returns:
            Its sha256, hex.

        Raises:
            ContentError: It has another size.
            FileNotFoundError: There is none.
        """
        what, furthest = self.address(name), 0

        def attempt() -> str:
            nonlocal furthest
            digest, done = hashlib.sha256(), 0
            into.seek(0)
            with contextlib.closing(self._pieces(name, at_most=at_most)) as pieces:
                for piece in pieces:
                    digest.update(piece)
                    done += into.write(piece)
                    if done > at_most:
                        raise ContentError(f"{what}: has more than the {at_most} bytes that are possible")
                    if stop.is_set():
                        raise Interrupted
                    furthest = max(furthest, done)
            if num_bytes is None:
                into.truncate()  # what a longer attempt may have left
            elif done != num_bytes:
                raise ContentError(f"{what}: {done} bytes, dataset.json says {num_bytes}")
            return digest.hexdigest()

        return self._retry.call(attempt, what=what, stop=stop, progress=lambda: furthest)

    def download_to(self, name: str, path: Path, *, stop: threading.Event, at_most: int) -> str:
        """Make a file of this machine, mode 0600, of one there, in one step; as `download`."""
        temporary = path.with_name(f".{path.name}.{threading.get_native_id()}.tmp")
        try:
            with new_file(temporary) as file:
                sha256 = self.download(name, file, stop=stop, at_most=at_most)
                put_in_place(file, temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return sha256

    def read(self, name: str, *, stop: threading.Event) -> bytes:
        """All of dataset.json or checksums.json, which may be as long as the first."""
        into = io.BytesIO()
        self.download(name, into, stop=stop, at_most=MAX_INFO_BYTES)
        return into.getvalue()

    def stamp(self, name: str, *, stop: threading.Event) -> str | None:
        """Changes when a file does; None when the server tells nothing that would. Reads no content.

        Raises:
            FileNotFoundError: There is no such file; web servers say so when it is read.
        """
        path, what, wait_s = self._path(name), self.address(name), self._retry.wait_s

        def ask() -> str | None:
            if self.kind in WEB:
                names = (*STAMPS, "content-length")
                told = run(self._files.loop, web_headers(self._files, path, names=names, wait_s=wait_s))
                return json.dumps(told, sort_keys=True) if set(told) & set(STAMPS) else None
            if self.kind in S3:
                info = run(self._files.loop, s3_info(self._files, path, wait_s=wait_s, what=what))
            else:
                info = self._files.info(path)
            told = {key.lower(): str(value) for key, value in info.items() if key.lower() in STAMPS and value}
            return json.dumps({**told, "size": info.get("size")}, sort_keys=True) if told else None

        return self._ask(ask, name, stop)

    def sizes(self, *, stop: threading.Event) -> dict[str, int]:
        """Bytes of every file in the folder and below, by its name; of none where there is no folder."""
        root = self._files._strip_protocol(self.url)
        try:
            found = self._ask(lambda: self._files.find(root, detail=True), "", stop)
        except FileNotFoundError:
            return {}
        return {path[len(root) :].lstrip("/"): int(info["size"]) for path, info in found.items()}

    def write(self, name: str, content: bytes, *, stop: threading.Event) -> None:
        """Make a small file, in one step."""
        path = self._path(name)
        if self.is_local:
            self._ask(lambda: write_whole(local(path), content, mode=0o666), name, stop)
        else:
            self._ask(lambda: self._files.pipe_file(path, content), name, stop)

    def upload(self, source: Path, name: str, *, stop: threading.Event) -> None:
        """Copy a file there; it appears when it is whole."""
        path = self._path(name)

        def put() -> None:
            if self.is_local:
                with open(source, "rb") as content:
                    write_whole(local(path), content, mode=0o666)
            else:
                self._files.put_file(str(source), path)

        self._ask(put, name, stop)

    def remove(self, name: str, *, stop: threading.Event) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda: self._files.rm_file(self._path(name)), name, stop)

    def _ask(self, request: Callable[[], Result], name: str, stop: threading.Event) -> Result:
        return self._retry.call(request, what=self.address(name), stop=stop)

    def _path(self, name: str) -> str:
        return self._files._strip_protocol(address(self.url, name))

    def _pieces(self, name: str, *, at_most: int) -> Generator[bytes, None, None]:
        """The bytes of a file, asked for once; raises what the network does."""
        path, what, wait_s = self._path(name), self.address(name), self._retry.wait_s
        if self.kind in (*WEB, *S3):
            request = (ask_web if self.kind in WEB else ask_s3)(self._files, path, wait_s=wait_s, what=what)
            yield from stream(self._files.loop, request, at_most=at_most, wait_s=wait_s, what=what)
            return
        with self._files.open(path, "rb", block_size=BLOCK_BYTES, cache_type="none") as file:
            end, at = getattr(file, "size", None), 0
            # No more than there are, where that is known; some servers mind.
            while piece := file.read(BLOCK_BYTES if end is None else max(0, min(BLOCK_BYTES, end - at))):
                at += len(piece)
                yield piece


def local(path: str) -> Path:
    """A path of this machine, whose folder is there afterwards."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)


def open_filesystem(kind: str, url: str) -> Any:
    """fsspec's file system for a kind of URL; it reads credentials and endpoints where its tools keep them.

    Args:
        url: For messages.

    Raises:
        RemoteError: One line that says what to install, or which kinds there are.
    """
    try:
        fsspec = importlib.import_module("fsspec")
        if kind in PACKAGES:
            importlib.import_module(PACKAGES[kind])
    except ImportError as error:
        raise RemoteError(f'{url}: needs the package {error.name}; pip install "res3d-video[remote]"') from None
    options = dict(OPTIONS.get(kind.replace("https", "http").replace("s3a", "s3"), {}))
    if kind in S3:
        options["config_kwargs"] = options["config_kwargs"] | bounded_s3_client()
    try:
        files = fsspec.filesystem(kind, use_listings_cache=False, **options)
    except (ValueError, ImportError) as error:
        known = "s3://, gs://, https:// or a folder"
        raise RemoteError(f"{url}: cannot be opened ({error}); choose {known}") from None
    if hasattr(files, "retries"):  # s3fs would try again for long and say nothing; `RetryPolicy` does it
        files.retries = 1
    return files
