"""Copy a dataset between folders and servers, checked; dataset.json is removed first and written last."""

import contextlib
import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from res3d_video.pipeline.errors import os_errors_of_the_user
from res3d_video.pipeline.index import parse_info
from res3d_video.pipeline.remote import (
    CHECKSUMS,
    MAX_INDEX_BYTES,
    ListedFile,
    index_files,
    read_checksums,
)
from res3d_video.pipeline.remote_store import WEB, ContentError, RemoteError, RemoteStore, is_url
from res3d_video.pipeline.shard_writer import sha256_of, to_json

SCRATCH = ".sync-"  # folder for files on their way
OPTIONAL = ("quarantine.jsonl", "manifest.jsonl")


@dataclass(frozen=True)
class SyncResult:
    """What a copy did."""

    num_copied: int
    num_kept: int
    num_bytes_copied: int


def sync_dataset(
    source: str | Path,
    destination: str | Path,
    *,
    workers: int = 4,
    timeout_s: float = 180.0,
    say: Callable[[str], None] = lambda line: None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> SyncResult:
    """Copy a finished dataset: tars, their .idx, the index, quarantine.jsonl, and at the end dataset.json.

    What the destination's checksums.json lists is not copied again. Only one copy to a destination may run at a time.

    Args:
        workers: Files copied at a time.
        timeout_s: How long a server may be gone.
        say: Takes a line for a person.
        report: Called with (files done, files).

    Raises:
        UserError: The source is not finished or damaged, or a server is gone.
    """
    urls = [str(end) if is_url(str(end)) else f"file://{Path(end).absolute()}" for end in (source, destination)]
    store, to = (RemoteStore(url, timeout_s=timeout_s, say=say) for url in urls)
    to.require_writable()
    if store.url == to.url:
        raise RemoteError(f"{to.shown}: is the source itself; choose another place")
    try:
        content = store.read("dataset.json")
    except FileNotFoundError:
        raise RemoteError(f"{store.shown}: no dataset.json, so no finished shards to copy") from None
    files = dataset_files(content, where=store.address("dataset.json"))
    if store.kind not in WEB:  # which list no files
        sizes = store.sizes()
        for name, (most, sha256) in files.items():
            if name not in OPTIONAL and (name not in sizes or (sha256 is not None and sizes[name] != most)):
                raise RemoteError(f"{store.address(name)}: is missing or cut short; run tools/check_shards.py")

    listed: dict[str, ListedFile] = {}  # checksums.json of the destination: what is there whole
    with contextlib.suppress(FileNotFoundError, ContentError):  # without it all is copied
        there, sizes = read_checksums(to), to.sizes()
        listed = {name: file for name, file in there.items() if sizes.get(name) == file["num_bytes"]}
    whole = ListedFile(num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    if listed.get("dataset.json") == whole:
        todo = [name for name in files if name not in listed and name not in OPTIONAL]
        if not todo:
            return SyncResult(0, len(listed), 0)
    else:
        todo = [name for name in files if name not in listed or listed[name]["sha256"] != files[name][1]]

    copied, stop = dict[str, int](), threading.Event()
    way_out = "make room, or make it writable, and run the same command again: copied files are kept"
    with os_errors_of_the_user(to.folder or tempfile.gettempdir(), way_out=way_out):
        if to.folder is not None:
            to.folder.mkdir(parents=True, exist_ok=True)
            for left in to.folder.glob(f"{SCRATCH}*"):  # of a copy that was killed
                shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=to.folder) as folder, ThreadPoolExecutor(workers) as pool:
            scratch = Path(folder)

            def save(name: str, data: bytes) -> None:
                (scratch / name).write_bytes(data)
                to.upload(scratch / name, name)

            to.remove("dataset.json")  # readers must not take what is there for a finished dataset
            work = {
                pool.submit(bring, name, files[name], store, to, listed.get(name), scratch, stop): name for name in todo
            }
            try:
                for num_done, future in enumerate(as_completed(work), start=len(files) - len(todo) + 1):
                    name, found = work[future], future.result()
                    if found is None:
                        listed.pop(name, None)
                    elif found != listed.get(name):
                        listed[name], copied[name] = found, found["num_bytes"]
                        save(CHECKSUMS, to_json({"files": listed}))
                    report(num_done, len(files) + 1)
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
            listed = {name: listed[name] for name in sorted(listed) if name in files} | {"dataset.json": whole}
            save(CHECKSUMS, to_json({"files": listed}))
            save("dataset.json", content)
            report(len(files) + 1, len(files) + 1)
    return SyncResult(len(copied) + 1, len(listed) - len(copied) - 1, sum(copied.values()))


def dataset_files(content: bytes, *, where: str) -> dict[str, tuple[int, str | None]]:
    """The files of a dataset but dataset.json, whose content this is: the bytes each may have, a tar's sha256."""
    info = parse_info(content, where=where)
    files: dict[str, tuple[int, str | None]] = {}
    for tar in info["shards"]:
        files[tar["tar"]] = tar["num_bytes"], tar["sha256"]
        files[f"{tar['tar'].removesuffix('.tar')}.idx"] = tar["num_bytes"], None  # it names members, and is shorter
    others = index_files(info) | dict.fromkeys(OPTIONAL, MAX_INDEX_BYTES)
    return files | {name: (at_most, None) for name, at_most in others.items()}


def bring(
    name: str,
    expected: tuple[int, str | None],
    source: RemoteStore,
    to: RemoteStore,
    there: ListedFile | None,
    scratch: Path,
    stop: threading.Event,
) -> ListedFile | None:
    """Copy a file, unless it is `there`; None for one that the source has not and need not have."""
    at_most, listed_sha256 = expected
    path = temporary = scratch / name.replace("/", "-")
    try:
        if source.folder is not None and to.folder is None:
            path = source.folder / name
            sha256 = sha256_of(path)
            if sha256 != (listed_sha256 or sha256):
                raise ContentError(f"{path}: its sha256 is not the listed one; run tools/check_shards.py")
        else:
            sha256 = source.download_to(name, path, at_most=at_most, sha256=listed_sha256, stop=stop)
        found = ListedFile(num_bytes=path.stat().st_size, sha256=sha256)
        if found != there:
            to.upload(path, name, stop=stop)
        return found
    except FileNotFoundError:
        if name in OPTIONAL:
            return None
        raise RemoteError(f"{source.address(name)}: is missing or cut short; run tools/check_shards.py") from None
    finally:
        temporary.unlink(missing_ok=True)
