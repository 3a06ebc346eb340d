"""Copy a dataset between any two places, checked and able to go on; dataset.json is last, so nobody reads half."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.index import parse_info
from pipeline.remote.cache import folder_name
from pipeline.remote.copying import Copy, SyncResult
from pipeline.remote.dataset import default_cache
from pipeline.remote.errors import RemoteError
from pipeline.remote.files import private_folder
from pipeline.remote.names import dataset_files
from pipeline.remote.patience import Patience
from pipeline.remote.place import Place, is_url

__all__ = ["SyncResult", "place_of", "staging_folder", "sync_dataset"]


def place_of(text: str | Path) -> Place:
    """A URL, or a folder of this machine."""
    return Place(str(text) if is_url(str(text)) else f"file://{Path(text).absolute()}")


def staging_folder(url: str) -> Path:
    """Where a dataset for a URL is built before it is copied there; it stays, so that the build can go on.

    Raises:
        RemoteError: It cannot be made.
    """
    return private_folder(default_cache().parent / "staging" / folder_name(url))


def sync_dataset(
    source: str | Path,
    destination: str | Path,
    *,
    workers: int = 4,
    read_back: bool = False,
    timeout_s: float = 180.0,
    scratch: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    report: Callable[[int, int], None] = lambda done, total: None,
    stop: threading.Event | None = None,
) -> SyncResult:
    """Copy a finished dataset: tars, their .idx, the index, quarantine.jsonl, and at the end dataset.json.

    What the destination's checksums.json lists with the same size and sha256 stays. Only one copy to a destination may
    run at a time.

    Args:
        workers: Files in work at a time.
        read_back: Read everything at the destination again afterwards, and check it.
        timeout_s: How long a server may be gone.
        scratch: Folder for files on their way from one server to another; None for the system's.
        report: Called with (files done, files).

    Raises:
        ShardError: The source is not finished or damaged, or a server is gone, in one line.
    """
    stop = stop or threading.Event()
    places = place_of(source), place_of(destination)
    copy = Copy(*places, {place: Patience(timeout_s=timeout_s, say=say) for place in places}, stop)
    copy.to.refuse_read_only()
    if copy.source.url == copy.to.url:
        raise RemoteError(f"{copy.to.shown}: is the source itself; choose another place")
    content = copy.content()
    files = dataset_files(parse_info(content, where=copy.source.address("dataset.json")))
    with copy.folder(scratch) as folder, ThreadPoolExecutor(workers) as pool:
        result = copy.run(content, files, folder=folder, pool=pool, report=report)
        if read_back:
            copy.check(files, pool)
    return result
