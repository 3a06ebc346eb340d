"""One copy of a dataset under way: what has to be copied, in which order, and the list of what is there."""

import contextlib
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.remote.dataset import CHECKSUMS, ListedFile, parse_checksums
from pipeline.remote.download import download, read_small
from pipeline.remote.errors import ContentError, RemoteError
from pipeline.remote.files import new_file, private_folder
from pipeline.remote.names import OPTIONAL, DatasetFile
from pipeline.remote.patience import Patience
from pipeline.remote.place import Place
from pipeline.shard_writer import sha256_of, to_json
from pipeline.typed_json import SchemaError

SAVE_EVERY_S = 10.0  # the list of what is there already; a kill costs at most so much work


@dataclass(frozen=True)
class SyncResult:
    """What a copy did."""

    num_copied: int
    num_kept: int
    num_bytes_copied: int


class Copy:
    """One copy under way.

    Attributes:
        listed: checksums.json of the destination: name -> {"num_bytes", "sha256"}.
    """

    def __init__(self, source: Place, to: Place, patience: dict[Place, Patience], stop: threading.Event) -> None:
        self.source, self.to = source, to
        self.listed: dict[str, ListedFile] = {}
        self._sizes: dict[str, int] = {}
        self._patience, self._stop = patience, stop
        self._lock = threading.Lock()
        self._saved_s = time.monotonic()
        self._num_absent = 0  # optional files that the source has not
        self._opened = False  # for writing: no reader takes the destination for a finished dataset any more

    def content(self) -> bytes:
        """dataset.json of the source; reads what the destination has, too."""
        try:
            content = self._read(self.source, "dataset.json")
        except FileNotFoundError:
            raise RemoteError(f"{self.source.shown}: no dataset.json, so no finished shards to copy") from None
        with contextlib.suppress(
            FileNotFoundError, SchemaError
        ):  # without a list all is copied, and there is one again
            self.listed = parse_checksums(self._read(self.to, CHECKSUMS))
        try:
            self._sizes = self._ask(self.to.sizes, self.to, "")
        except FileNotFoundError:
            self._sizes = {}
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
            self.listed = {name: self.listed[name] for name in sorted(self.listed) if name in {f.name for f in files}}
            self.listed["dataset.json"] = {"num_bytes": len(content), "sha256": sha256}
        except BaseException:
            if self._opened:
                with contextlib.suppress(RemoteError, OSError):  # what was copied is copied again; not this error hides
                    self._save()
            raise
        if self._opened:
            self._save()
            self._ask(lambda: self.to.write("dataset.json", content), self.to, "dataset.json")
        report(len(files) + 1, len(files) + 1)
        sizes = [size for size in copied if size is not None]
        num_kept = len(copied) - len(sizes) - self._num_absent + (not self._opened)
        return SyncResult(len(sizes) + self._opened, num_kept, sum(sizes))

    def check(self, files: list[DatasetFile], pool: ThreadPoolExecutor) -> None:
        """Read everything at the destination again; raises ContentError for a file that is not what was copied."""

        def check(name: str) -> None:
            with open(os.devnull, "wb") as nowhere:
                sha256 = self._download(self.to, name, nowhere, at_most=self.listed[name]["num_bytes"])
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
                self._num_absent += 1
                return None
            num_bytes, sha256 = path.stat().st_size, sha256_of(path)
            if file.sha256 is not None and (num_bytes, sha256) != (file.num_bytes, file.sha256):
                raise ContentError(
                    f"{self.source.address(file.name)}: is not what dataset.json says; run tools/check_shards.py"
                )
            if self._is_there(file.name, num_bytes, sha256):
                return None
            self._open_for_writing()
            self._ask(lambda: self.to.upload(path, file.name), self.to, file.name)
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
            there = path.is_file()
        else:
            path, there = folder / file.name.replace("/", "-"), True
            with new_file(path) as into:
                try:
                    self._download(self.source, file.name, into, at_most=file.at_most)
                except FileNotFoundError:
                    there = False
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
                self._ask(lambda: self.to.remove("dataset.json"), self.to, "dataset.json")
                self._opened = True

    def _save(self) -> None:
        content = to_json({"files": self.listed})
        self._ask(lambda: self.to.write(CHECKSUMS, content), self.to, CHECKSUMS)
        self._saved_s = time.monotonic()

    def _ask(self, request: Callable[[], Any], place: Place, name: str) -> Any:
        return self._patience[place].until_done(request, what=place.address(name), stop=self._stop)

    def _download(self, place: Place, name: str, into: BinaryIO, *, at_most: int) -> str:
        return download(place, name, into, patience=self._patience[place], stop=self._stop, at_most=at_most)

    def _read(self, place: Place, name: str) -> bytes:
        return read_small(place, name, patience=self._patience[place], stop=self._stop)


def in_any_order(work: list[Future], stop: threading.Event) -> Iterator[Any]:
    """Results as they come; after an error the rest is stopped."""
    waiting = set(work)
    try:
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BaseException:
        for future in waiting:
            future.cancel()
        stop.set()
        raise
