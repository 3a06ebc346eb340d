"""A folder behind a URL: s3://, gs://, https:// and whatever else fsspec knows."""

import contextlib
import importlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit, urlunsplit

from pipeline.remote.body import (
    BLOCK_BYTES,
    Body,
    FileBody,
    bounded_s3_client,
    open_s3,
    open_web,
    s3_info,
    web_client,
    web_stamp,
)
from pipeline.remote.errors import RemoteError
from pipeline.remote.files import new_file, put_file_in_place

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
LOCAL, WEB, S3 = ("file", "local"), ("http", "https"), ("s3", "s3a")
# What servers tell of a file that changes with its content; HTTP may give none of them.
STAMPS = ("etag", "content-md5", "digest", "last-modified", "lastmodified", "md5hash", "generation", "mtime", "created")
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 30, "retries": {"total_max_attempts": 1}}},
    "http": {"encoded": True, "get_client": web_client},
}


def is_url(text: str) -> bool:
    """Whether this is a URL and not a path.

    >>> is_url("s3://bucket/shards"), is_url("shards/ucf101"), is_url("memory://x")
    (True, False, True)
    """
    return "://" in text and text.split("://")[0].isidentifier()


def public_url(url: str) -> str:
    """A URL without what may be a secret: user, password, and whatever follows a question mark.

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
    """The URL of a file in a folder; what follows a ? stays at the end, names are quoted where URLs need it.

    >>> address("https://host/shards/?token=1", "my set-000000.tar")
    'https://host/shards/my%20set-000000.tar?token=1'
    >>> address("s3://bucket/shards", "my set-000000.tar")
    's3://bucket/shards/my set-000000.tar'
    """
    if not root.startswith(("http://", "https://")):
        return f"{root.rstrip('/')}/{name}"
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))


class Place:
    """A folder behind a URL, and its files by their names in it.

    Attributes:
        url: Where it is, with whatever secrets it holds: for the server.
        shown: The same without them: for everything that people read, and for files.

    Raises:
        RemoteError: The URL's kind is unknown, or a package for it is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url if url.endswith("://") else url.rstrip("/")
        self.shown = public_url(self.url)
        self.kind = url.split("://")[0]
        try:
            address(self.url, "")
        except ValueError as error:
            raise RemoteError(f"{self.shown}: is no URL ({error}); correct it") from None
        self._files = open_filesystem(self.kind, self.shown)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self.kind in LOCAL

    def address(self, name: str) -> str:
        """The URL of a file, for people."""
        return address(self.shown, name)

    def open(self, name: str, start: int = 0, *, wait_s: float) -> Body:
        """A file, to be read from a place on; raises FileNotFoundError where there is none, and what the network does.

        Args:
            wait_s: Within which the server must answer, and bring some bytes each time.
        """
        path = self._path(name)
        if self.kind in WEB:
            return open_web(self._files, path, start=start, wait_s=wait_s, what=self.address(name))
        if self.kind in S3:
            return open_s3(self._files, path, start=start, wait_s=wait_s, what=self.address(name))
        return FileBody(self._files.open(path, "rb", block_size=BLOCK_BYTES, cache_type="none"), start)

    def stamp(self, name: str, *, wait_s: float) -> str | None:
        """Changes when a file does; None when the server tells nothing that would. Reads no content.

        Raises:
            FileNotFoundError: There is no such file; web servers say so when it is read.
        """
        path, what = self._path(name), self.address(name)
        if self.kind in WEB:
            told = web_stamp(self._files, path, names=(*STAMPS, "content-length"), wait_s=wait_s)
            return json.dumps(told, sort_keys=True) if set(told) & set(STAMPS) else None
        info = s3_info(self._files, path, wait_s=wait_s, what=what) if self.kind in S3 else self._files.info(path)
        told = {key.lower(): str(value) for key, value in info.items() if key.lower() in STAMPS and value}
        return json.dumps({**told, "size": info.get("size")}, sort_keys=True) if told else None

    def sizes(self) -> dict[str, int]:
        """Bytes of every file in the folder and below, by its name."""
        root = self._files._strip_protocol(self.url)
        found = self._files.find(root, detail=True)
        return {path[len(root) :].lstrip("/"): int(info["size"]) for path, info in found.items()}

    def write(self, name: str, content: bytes) -> None:
        """Make a small file, in one step."""
        if self.is_local:
            with self._local_file(name) as temporary:
                temporary.write(content)
        else:
            self._files.pipe_file(self._path(name), content)

    def upload(self, source: Path, name: str) -> None:
        """Copy a file there; it appears when it is whole."""
        if self.is_local:
            with self._local_file(name) as temporary, open(source, "rb") as file:
                shutil.copyfileobj(file, temporary, BLOCK_BYTES)
        else:
            self._files.put_file(str(source), self._path(name))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def refuse_read_only(self) -> None:
        """Raise RemoteError where nothing can be written."""
        if self.kind in WEB:
            raise RemoteError(f"{self.shown}: web servers take no files; choose s3://, gs:// or a folder")

    def _path(self, name: str) -> str:
        return self._files._strip_protocol(address(self.url, name))

    @contextlib.contextmanager
    def _local_file(self, name: str) -> Iterator[BinaryIO]:
        path = Path(self._path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        with new_file(temporary, mode=0o666) as file:
            yield file
            put_file_in_place(file, temporary, path)


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
    if hasattr(files, "retries"):  # s3fs would try again for long and say nothing; `Patience` does it
        files.retries = 1
    return files
