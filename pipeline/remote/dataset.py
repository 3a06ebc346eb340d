"""A dataset behind a URL as a `ShardIndex`: its index is fetched into the cache, its tars as they are needed."""

import contextlib
import hashlib
import importlib
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from res3d_video.pipeline.index import ShardError, ShardIndex, open_index, parse_info
from res3d_video.pipeline.remote.cache import CacheFolder, locked, private_folder, write_whole
from res3d_video.pipeline.remote.errors import ContentError, RemoteError
from res3d_video.pipeline.remote.settings import RemoteSettings
from res3d_video.pipeline.remote.store import RemoteStore
from res3d_video.pipeline.remote.tars import RemoteTars
from res3d_video.pipeline.remote.url import is_url
from res3d_video.pipeline.schema import MAX_INFO_BYTES, specs_of
from res3d_video.pipeline.source.plain_file import read_plain
from res3d_video.pipeline.typed_json import Count, SchemaError, decode

CHECKSUMS = "checksums.json"  # beside dataset.json where tools/sync_shards.py has copied it
KNOWN = "known.json"  # in the cache: what state of the dataset was found last
OPTIONAL = ("quarantine.jsonl", "manifest.jsonl")
# Of all arrays together, and of each file that dataset.json does not bound: Sports-1M's take a tenth.
MAX_INDEX_BYTES = 2**32


class ListedFile(TypedDict):
    """A file in checksums.json."""

    num_bytes: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Checksums(TypedDict):
    """checksums.json."""

    files: dict[str, ListedFile]


class Known(TypedDict):
    """known.json."""

    stamp: str
    folder: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


@dataclass(frozen=True)
class DatasetFile:
    """A file to copy: its name in the dataset, and what dataset.json says of it.

    Attributes:
        at_most: Bytes that it may have.
        num_bytes, sha256: Of a tar; None for others.
    """

    name: str
    at_most: int
    num_bytes: int | None = None
    sha256: str | None = None


def open_dataset(
    data: str | Path,
    settings: RemoteSettings | None = None,
    *,
    say: Callable[[str], None] = lambda line: None,
    stop: threading.Event | None = None,
) -> ShardIndex:
    """Open a dataset folder, or one behind a URL; what is read is the same.

    Args:
        data: Folder, or a URL like s3://bucket/shards/ucf101.
        say: Takes a line for a person: a server is gone, a tar is damaged.
        stop: Ends a wait for the server, with `Interrupted`.

    Raises:
        ShardError: Not a finished dataset; or the server cannot be reached, as `RemoteError`.
    """
    if not is_url(str(data)):
        return open_index(Path(data))
    settings, stop = settings or RemoteSettings(), stop or threading.Event()
    store = RemoteStore(str(data), timeout_s=settings.timeout_s, say=say)
    cache = CacheFolder(settings.cache or default_cache(), limit_bytes=settings.limit_bytes)
    folder = bring_index(store, cache.home(store.url), stop=stop)
    try:
        index = open_index(folder)
    except ShardError as error:
        (folder / "dataset.json").unlink(missing_ok=True)  # or one that is mended there would not be fetched
        raise RemoteError(f"{store.shown}: {error}") from None
    shards, ahead = index.info["shards"], settings.fetch_ahead
    return replace(index, store=RemoteTars(store, folder, shards, cache=cache, fetch_ahead=ahead, say=say))


def default_cache() -> Path:
    """The user's cache folder, where the system has it.

    Raises:
        RemoteError: The package that knows is missing.
    """
    try:
        return importlib.import_module("platformdirs").user_cache_path("res3d-video") / "shards"
    except ImportError:
        raise RemoteError('--cache: give a folder, or pip install "res3d-video[remote]"') from None


def bring_index(store: RemoteStore, home: Path, *, stop: threading.Event) -> Path:
    """Have dataset.json and index/*.npy of a URL here; one process fetches them, the others wait.

    Returns:
        A folder like that of a local dataset, without its tars. A dataset that changes gets another one.

    Raises:
        RemoteError: There is none, it changes meanwhile, or it cannot be reached.
    """
    try:
        with locked(home / ".lock", stop=stop):
            before = store.stamp("dataset.json", stop=stop)
            with contextlib.suppress(OSError, SchemaError):  # missing or damaged
                known = decode(read_plain(home / KNOWN, max_bytes=MAX_INFO_BYTES), Known)
                if known["stamp"] == before and (home / known["folder"] / "dataset.json").is_file():
                    return home / known["folder"]
            content = store.read("dataset.json", stop=stop)
            folder = private_folder(home / hashlib.sha256(content).hexdigest()[:16])
            is_new = not (folder / "dataset.json").is_file()
            if is_new:
                fetch_index(store, content, folder, stop=stop)
            now = store.stamp("dataset.json", stop=stop)
            unknown = None in (before, now)  # servers that tell no stamp, or not every time
            if store.read("dataset.json", stop=stop) != content if unknown else now != before:
                if is_new:
                    shutil.rmtree(folder)  # its arrays may be those of another
                raise RemoteError(f"{store.shown}: changes while it is read; wait until it is finished")
            if now is not None:
                write_whole(home / KNOWN, json.dumps({"stamp": now, "folder": folder.name}).encode())
            return folder
    except FileNotFoundError:
        raise RemoteError(
            f"{store.shown}: no dataset.json, so no finished shards; tools/sync_shards.py copies them there"
        ) from None
    except OSError as error:
        raise RemoteError(f"{home}: {error.strerror or error}; make room, or choose another --cache") from None


def fetch_index(store: RemoteStore, content: bytes, folder: Path, *, stop: threading.Event) -> None:
    """Fetch the arrays that a dataset.json of this content needs, and put it beside them last.

    Raises:
        RemoteError: It is damaged, an array is missing, damaged or too large, or the server is gone.
    """
    files = index_files(parse_info(content, where=store.address("dataset.json")))
    checksums = read_checksums(store, content, stop=stop)
    left = MAX_INDEX_BYTES
    private_folder(folder / "index")
    try:
        for array in files:
            what, path = store.address(array.name), folder / array.name
            try:
                sha256 = store.download_to(array.name, path, stop=stop, at_most=min(left, array.at_most))
            except FileNotFoundError:
                raise RemoteError(f"{what}: is not there; copy the dataset again") from None
            if checksums.get(array.name, sha256) != sha256:
                raise ContentError(f"{what}: its sha256 is not the one in {CHECKSUMS}; copy it again")
            left -= path.stat().st_size
    except BaseException:
        shutil.rmtree(folder / "index", ignore_errors=True)  # it is fetched anew next time
        raise
    write_whole(folder / "dataset.json", content)


def read_checksums(store: RemoteStore, content: bytes, *, stop: threading.Event) -> dict[str, str]:
    """What checksums.json says of the files of this very dataset.json; nothing where there is none.

    Returns:
        The sha256 of each, by its name.

    Raises:
        ContentError: It is damaged.
    """
    try:
        files = decode(store.read(CHECKSUMS, stop=stop), Checksums)["files"]
    except FileNotFoundError:
        return {}
    except SchemaError as error:
        raise ContentError(f"{store.address(CHECKSUMS)}: {error}; copy the dataset again") from None
    sha256 = {name: file["sha256"] for name, file in files.items()}
    return sha256 if sha256.get("dataset.json") == hashlib.sha256(content).hexdigest() else {}


def dataset_files(info: dict[str, Any]) -> list[DatasetFile]:
    """The files of a dataset but dataset.json, tars first; `info` has been checked."""
    tars = [DatasetFile(tar["tar"], tar["num_bytes"], tar["num_bytes"], tar["sha256"]) for tar in info["shards"]]
    idx = [DatasetFile(tar.name.removesuffix(".tar") + ".idx", tar.at_most) for tar in tars]  # shorter than its tar
    return tars + idx + index_files(info) + [DatasetFile(name, MAX_INDEX_BYTES) for name in OPTIONAL]


def index_files(info: dict[str, Any]) -> list[DatasetFile]:
    """The arrays that a checked dataset.json calls for."""
    return [
        DatasetFile(f"index/{name}.npy", min(MAX_INDEX_BYTES, spec.max_bytes)) for name, spec in specs_of(info).items()
    ]
