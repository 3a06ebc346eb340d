"""A folder behind a URL: s3://, gs://, https:// and whatever else fsspec knows."""

import contextlib
import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit, urlunsplit

from pipeline.remote.errors import RemoteError
from pipeline.remote.files import new_file, put_file_in_place

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
LOCAL = ("file", "local")
CHUNK_BYTES = 2**24  # of one request, where a server answers parts: long enough to hide its latency
# What servers tell of a file that changes with its content; HTTP may give none of them.
STAMPS = ("etag", "content-md5", "digest", "last-modified", "lastmodified", "md5hash", "generation", "mtime", "created")
CONNECT_S, SILENCE_S = 10, 30  # until a server must have answered, and between two pieces of an answer
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {"connect_timeout": CONNECT_S, "read_timeout": SILENCE_S, "retries": {"total_max_attempts": 1}}
    },
    "http": {"encoded": True},
}


def is_url(text: str) -> bool:
    """Whether this is a URL and not a path.

    >>> is_url("s3://bucket/shards"), is_url("shards/ucf101"), is_url("memory://x")
    (True, False, True)
    """
    return "://" in text and text.split("://")[0].isidentifier()


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

    Raises:
        RemoteError: The URL's kind is unknown, or a package for it is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url if url.endswith("://") else url.rstrip("/")
        self.kind = url.split("://")[0]
        self._files = open_filesystem(self.kind, url)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self.kind in LOCAL

    def address(self, name: str) -> str:
        """For people, and for the server."""
        return address(self.url, name)

    def open(self, name: str) -> BinaryIO:
        """A file, to be read from its beginning."""
        return self._files.open(self._path(name), "rb", block_size=CHUNK_BYTES, cache_type="none")

    def read(self, name: str) -> bytes:
        """All of a small file."""
        return self._files.cat_file(self._path(name))

    def stamp(self, name: str) -> str | None:
        """Changes when a file does; None when the server tells nothing that would. Reads no content.

        Raises:
            FileNotFoundError: There is no such file.
        """
        info = self._files.info(self._path(name))
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
                shutil.copyfileobj(file, temporary, CHUNK_BYTES)
        else:
            self._files.put_file(str(source), self._path(name))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def refuse_read_only(self) -> None:
        """Raise RemoteError where nothing can be written."""
        if self.kind in ("http", "https"):
            raise RemoteError(f"{self.url}: web servers take no files; choose s3://, gs:// or a folder")

    def _path(self, name: str) -> str:
        return self._files._strip_protocol(self.address(name))

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
    if kind in ("http", "https"):
        aiohttp = importlib.import_module("aiohttp")  # its own default ends any download after five minutes
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        options["client_kwargs"] = {"timeout": timeout}
    try:
        files = fsspec.filesystem(kind, use_listings_cache=False, **options)
    except (ValueError, ImportError) as error:
        known = "s3://, gs://, https:// or a folder"
        raise RemoteError(f"{url}: cannot be opened ({error}); choose {known}") from None
    if hasattr(files, "retries"):  # s3fs would try again for long and say nothing; `Patience` does it
        files.retries = 1
    return files
