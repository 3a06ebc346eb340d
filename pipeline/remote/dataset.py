"""A dataset behind a URL as a `ShardIndex`: its index is fetched into the cache, its tars as they are needed."""

import hashlib
import importlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.remote.cache import CacheFolder
from pipeline.remote.download import download
from pipeline.remote.errors import ContentError, RemoteError
from pipeline.remote.files import locked, new_file, private_folder, put_file_in_place, write_private
from pipeline.remote.names import check_shard_list, index_files
from pipeline.remote.patience import Patience
from pipeline.remote.place import Place, is_url
from pipeline.remote.settings import RemoteSettings
from pipeline.remote.tars import RemoteTars
from pipeline.shard import PICTURE_NAMES, ShardIndex, open_index

CHECKSUMS = "checksums.json"  # beside dataset.json where tools/sync_shards.py has copied it
KNOWN = "known.json"  # in the cache: what state of the dataset was found last
MAX_CHANGES = 5  # of a dataset, while it is being opened


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
    place = Place(str(data))
    cache = CacheFolder(settings.cache or default_cache(), limit_bytes=settings.limit_bytes)
    patience = Patience(timeout_s=settings.timeout_s, say=say)
    folder = bring_index(place, cache.home(place.url), patience=patience, stop=stop)
    index = open_index(folder)
    shards = check_shard_list(place.url, index.info["shards"])
    tars = RemoteTars(place, folder, shards, cache=cache, settings=settings, patience=patience, say=say)
    return replace(index, store=tars)


def default_cache() -> Path:
    """The user's cache folder, where the system has it.

    Raises:
        RemoteError: The package that knows is missing.
    """
    try:
        return importlib.import_module("platformdirs").user_cache_path("res3d-video") / "shards"
    except ImportError:
        raise RemoteError('--cache: give a folder, or pip install "res3d-video[remote]"') from None


def bring_index(place: Place, home: Path, *, patience: Patience, stop: threading.Event) -> Path:
    """Have dataset.json and index/*.npy of a URL here; one process fetches them, the others wait.

    Returns:
        A folder like that of a local dataset, without its tars. A dataset that changes gets another one.

    Raises:
        RemoteError: There is none, it changes all the time, or it cannot be reached.
    """

    def ask(request: Callable[[], Any]) -> Any:
        try:
            return patience.until_done(request, what=place.address("dataset.json"), stop=stop)
        except FileNotFoundError:
            raise RemoteError(
                f"{place.url}: no dataset.json, so no finished shards; tools/sync_shards.py copies them there"
            ) from None

    with locked(home / ".lock", stop=stop):
        stamp = ask(lambda: place.stamp("dataset.json"))
        known = read_json(home / KNOWN)
        if stamp is not None and known.get("stamp") == stamp:
            folder = home / str(known["folder"])
            if (folder / "dataset.json").is_file():
                return folder
        for _ in range(MAX_CHANGES):
            content = ask(lambda: place.read("dataset.json"))
            folder = private_folder(home / hashlib.sha256(content).hexdigest()[:16])
            if not (folder / "dataset.json").is_file():
                fetch_index(place, content, folder, patience=patience, stop=stop)
            now = ask(lambda: place.stamp("dataset.json"))
            if now == stamp and (now is not None or ask(lambda: place.read("dataset.json")) == content):
                write_private(home / KNOWN, json.dumps({"stamp": stamp, "folder": folder.name}).encode())
                return folder
            stamp = now
    raise RemoteError(f"{place.url}: changes while it is read; wait until it is finished")


def fetch_index(place: Place, content: bytes, folder: Path, *, patience: Patience, stop: threading.Event) -> None:
    """Fetch the arrays that a dataset.json of this content needs, and put it beside them last."""
    info = parse_info(place.url, content)
    checksums = read_checksums(place, content, patience=patience, stop=stop)
    private_folder(folder / "index")
    for name in index_files(info):
        path = folder / name
        temporary = path.with_name(f".{path.name}.tmp")
        with new_file(temporary) as file:
            try:
                sha256 = download(place, name, file, patience=patience, stop=stop)
            except FileNotFoundError:
                raise RemoteError(f"{place.address(name)}: is not there; copy the dataset again") from None
            if checksums.get(name, {}).get("sha256", sha256) != sha256:
                raise ContentError(f"{place.address(name)}: its sha256 is not the one in {CHECKSUMS}; copy it again")
            put_file_in_place(file, temporary, path)
    write_private(folder / "dataset.json", content)


def parse_info(url: str, content: bytes) -> dict[str, Any]:
    """dataset.json, if its tars may be fetched and its arrays are known.

    Raises:
        RemoteError: It is damaged, or of a codec that this program does not know.
    """
    try:
        info = json.loads(content)
        codec = info["codec"]["name"]
        check_shard_list(url, info["shards"])
    except RemoteError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise RemoteError(f"{url}/dataset.json: damaged ({error}); build the shards again") from None
    if codec not in PICTURE_NAMES:
        raise RemoteError(f"{url}/dataset.json: codec {codec!r} is unknown; install a newer version of this program")
    return info


def read_checksums(place: Place, content: bytes, *, patience: Patience, stop: threading.Event) -> dict[str, Any]:
    """What checksums.json says of the files of this very dataset.json; nothing where there is none.

    Returns:
        Name -> {"num_bytes", "sha256"}.
    """
    try:
        raw = patience.until_done(lambda: place.read(CHECKSUMS), what=place.address(CHECKSUMS), stop=stop)
        files = json.loads(raw)["files"]
        fits = files["dataset.json"]["sha256"] == hashlib.sha256(content).hexdigest()
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, RemoteError):
            raise
        return {}
    return files if fits else {}


def read_json(path: Path) -> dict[str, Any]:
    """A small file of ours; nothing when it is missing or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
