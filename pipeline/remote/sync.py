"""Copy a dataset between any two places, checked and able to go on; dataset.json is last, so nobody reads half."""

import contextlib
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from res3d_video.pipeline.index import parse_info
from res3d_video.pipeline.remote.cache import folder_name, private_folder
from res3d_video.pipeline.remote.dataset import (
    CHECKSUMS,
    OPTIONAL,
    Checksums,
    DatasetFile,
    ListedFile,
    dataset_files,
    default_cache,
)
from res3d_video.pipeline.remote.errors import ContentError, RemoteError
from res3d_video.pipeline.remote.store import WEB, RemoteStore
from res3d_video.pipeline.remote.url import is_url
from res3d_video.pipeline.shard_writer import sha256_of, to_json
from res3d_video.pipeline.typed_json import SchemaError, decode

SAVE_EVERY_S = 10.0  # the list of what is there already; a kill costs at most so much work


@dataclass(frozen=True)
class SyncResult:
    """What a copy did."""

    num_copied: int
    num_kept: int
    num_bytes_copied: int


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
    urls = [str(end) if is_url(str(end)) else f"file://{Path(end).absolute()}" for end in (source, destination)]
    stores = [RemoteStore(url, timeout_s=timeout_s, say=say) for url in urls]
    copy = Copy(stores[0], stores[1], stop or threading.Event())
    if copy.to.kind in WEB:
        raise RemoteError(f"{copy.to.shown}: web servers take no files; choose s3://, gs:// or a folder")
    if copy.source.url == copy.to.url:
        raise RemoteError(f"{copy.to.shown}: is the source itself; choose another place")
    content = copy.content()
    files = dataset_files(parse_info(content, where=copy.source.address("dataset.json")))
    with copy.folder(scratch) as folder, ThreadPoolExecutor(workers) as pool:
        result = copy.run(content, files, folder=folder, pool=pool, report=report)
        if read_back:
            copy.check(pool)
    return result


class Copy:
    """One copy under way.

    Attributes:
        listed: checksums.json of the destination: name -> {"num_bytes", "sha256"}.
    """

    def __init__(self, source: RemoteStore, to: RemoteStore, stop: threading.Event) -> None:
        self.source, self.to = source, to
        self.listed: dict[str, ListedFile] = {}
        self._sizes: dict[str, int] = {}
        self._stop = stop
        self._lock = threading.Lock()
        self._saved_s = time.monotonic()
        self._opened = False  # for writing: no reader takes the destination for a finished dataset any more

    def content(self) -> bytes:
        """dataset.json of the source; reads what the destination has, too."""
        try:
            content = self.source.read("dataset.json", stop=self._stop)
        except FileNotFoundError:
            raise RemoteError(f"{self.source.shown}: no dataset.json, so no finished shards to copy") from None
        with contextlib.suppress(
            FileNotFoundError, SchemaError
        ):  # without a list all is copied, and there is one again
            self.listed = decode(self.to.read(CHECKSUMS, stop=self._stop), Checksums)["files"]
        self._sizes = self.to.sizes(stop=self._stop)
        return content

    @contextmanager
    def folder(self, scratch: Path | None) -> Iterator[Path]:
        """Where files from a server are put before they go on; next to their place, where that is a folder."""
        inside = Path(self.to.url.removeprefix("file://")) if self.to.is_local else scratch
        if inside is not None:
            inside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".sync-", dir=inside) as folder:
            yield private_folder(Path(folder))

    def run(
        self,
        content: bytes,
        files: list[DatasetFile],
        *,
        folder: Path,
        pool: ThreadPoolExecutor,
        report: Callable[[int, int], None],
    ) -> SyncResult:
        """Copy what is not there yet."""
        copied = []
        try:
            work = [pool.submit(self._bring, file, folder) for file in files]
            for done, size in enumerate(in_any_order(work, self._stop), start=1):
                copied.append(size)
                report(done, len(files) + 1)
            sha256 = hashlib.sha256(content).hexdigest()
            if not self._is_there("dataset.json", len(content), sha256):
                self._open_for_writing()
            names = {file.name for file in files}
            self.listed = {name: self.listed[name] for name in sorted(self.listed) if name in names}
            self.listed["dataset.json"] = {"num_bytes": len(content), "sha256": sha256}
        except BaseException:
            if self._opened:
                with contextlib.suppress(RemoteError, OSError):  # what was copied is copied again; not this error hides
                    self._save()
            raise
        if self._opened:
            self._save()
            self.to.write("dataset.json", content, stop=self._stop)
        report(len(files) + 1, len(files) + 1)
        sizes = [size for size in copied if size is not None]
        num_copied = len(sizes) + self._opened
        return SyncResult(num_copied, len(self.listed) - num_copied, sum(sizes))

    def check(self, pool: ThreadPoolExecutor) -> None:
        """Read everything at the destination again; raises ContentError for a file that is not what was copied."""

        def check(name: str) -> None:
            size = self.listed[name]["num_bytes"]
            with open(os.devnull, "wb") as nowhere:
                sha256 = self.to.download(name, nowhere, stop=self._stop, at_most=size, num_bytes=size)
            if sha256 != self.listed[name]["sha256"]:
                raise ContentError(f"{self.to.address(name)}: is not what was copied; run the same command again")

        for _ in in_any_order([pool.submit(check, name) for name in self.listed], self._stop):
            pass

    def _bring(self, file: DatasetFile, folder: Path) -> int | None:
        """Copy a file, if it has to be; its bytes, None when it is there already or need not be.

        Raises:
            ContentError: The source's is damaged.
        """
        if file.sha256 is not None and self._is_there(file.name, file.num_bytes, file.sha256):
            return None
        with self._local(file, folder) as path:
            if path is None:
                with self._lock:
                    self.listed.pop(file.name, None)
                return None
            num_bytes, sha256 = path.stat().st_size, sha256_of(path)
            if file.sha256 is not None and (num_bytes, sha256) != (file.num_bytes, file.sha256):
                raise ContentError(
                    f"{self.source.address(file.name)}: is not what dataset.json says; run tools/check_shards.py"
                )
            if self._is_there(file.name, num_bytes, sha256):
                return None
            self._open_for_writing()
            self.to.upload(path, file.name, stop=self._stop)
        with self._lock:
            self.listed[file.name] = {"num_bytes": num_bytes, "sha256": sha256}
            if time.monotonic() - self._saved_s > SAVE_EVERY_S:
                self._save()
        return num_bytes

    @contextmanager
    def _local(self, file: DatasetFile, folder: Path) -> Iterator[Path | None]:
        """A file of the source as one of this machine; None for one that may be missing and is."""
        if self.source.is_local:
            path = Path(self.source.url.removeprefix("file://")) / file.name
        else:
            path = folder / file.name.replace("/", "-")
            with contextlib.suppress(FileNotFoundError):
                self.source.download_to(file.name, path, stop=self._stop, at_most=file.at_most)
        there = path.is_file()
        if not there and file.name not in OPTIONAL:
            raise RemoteError(f"{self.source.address(file.name)}: is missing; run tools/check_shards.py")
        try:
            yield path if there else None
        finally:
            if not self.source.is_local:
                path.unlink(missing_ok=True)

    def _is_there(self, name: str, num_bytes: int | None, sha256: str) -> bool:
        listed = self.listed.get(name)
        return listed is not None and self._sizes.get(name) == num_bytes and listed["sha256"] == sha256

    def _open_for_writing(self) -> None:
        """Before the first change: readers must not take what is there for a finished dataset."""
        with self._lock:
            if not self._opened:
                self.to.remove("dataset.json", stop=self._stop)
                self._opened = True

    def _save(self) -> None:
        self.to.write(CHECKSUMS, to_json({"files": self.listed}), stop=self._stop)
        self._saved_s = time.monotonic()


def in_any_order(work: list[Future], stop: threading.Event) -> Iterator[Any]:
    """Results as they come; after an error the rest is stopped."""
    try:
        for future in as_completed(work):
            yield future.result()
    except BaseException:
        for future in work:
            future.cancel()
        stop.set()
        raise
