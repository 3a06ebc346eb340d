"""The tars of a remote dataset: fetched whole when first needed, checked, and then read like any other."""

import errno
import fcntl
import math
import os
import threading
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

from res3d_video.pipeline.plan import Plan
from res3d_video.pipeline.remote.cache import CacheFolder, locked, put_in_place
from res3d_video.pipeline.remote.errors import ContentError, RemoteError
from res3d_video.pipeline.remote.store import RemoteStore
from res3d_video.pipeline.remote.tar_prefetcher import TarPrefetcher

SHARE_AHEAD = 0.5  # of the limit, for tars of coming steps; the rest is for those in use
NUM_TRIES = 2  # of a tar whose checksum is wrong, before its samples are replaced


class RemoteTars:
    """What a `ShardIndex` asks for its tars. Any number of threads and processes may share the folder.

    Args:
        folder: In the cache, of this dataset.
        shards: Of a dataset.json that has been checked.
        fetch_ahead: Steps of a plan whose tars are fetched before they are needed.
        say: Takes a line for a person.

    Attributes:
        url: Of the dataset, without secrets.
        unreadable: Tars given up in this process, by number, and why.
        num_fetched: Tars that this process has fetched.
    """

    def __init__(
        self,
        store: RemoteStore,
        folder: Path,
        shards: list[dict[str, Any]],
        *,
        cache: CacheFolder,
        fetch_ahead: int,
        say: Callable[[str], None],
    ) -> None:
        self.url = store.shown
        self.unreadable: dict[int, str] = {}
        self.num_fetched = 0
        self._store, self._folder, self._shards, self._cache = store, folder, shards, cache
        self._fetch_ahead, self._say = fetch_ahead, say
        self._fetched: set[int] = set()
        self._warned = threading.Lock()  # taken for good by the first thread that warns

    def open(self, number: int, *, stop: threading.Event, wait: bool = True, is_needed: bool = True) -> FileIO | None:
        """A tar; while it is open, it is not evicted.

        Args:
            wait: Fetch it when it is not there.
            is_needed: Fetch it beyond the limit of the cache too, when the tars in use leave no room.

        Returns:
            None for a tar that cannot be had; `unreadable` says why if that is for good.

        Raises:
            RemoteError: The server is gone for too long, the disk is full, or the cache cannot be used.
            OSError: Too many files are open (EMFILE).
            Interrupted: `stop` was set.
        """
        try:
            file = self._open_present(number)
            if file is not None or not wait:
                return file
            path = self._path(number)
            with locked(path.with_name(f".{path.name}.lock"), stop=stop):
                file = self._open_present(number)  # another process or thread may have been faster
                if file is not None or number in self.unreadable:
                    return file
                return self._fetch(number, stop, force=is_needed)
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise
            raise RemoteError(f"{self._folder}: {error.strerror or error}; choose another --cache") from None

    def touch(self, number: int) -> bool:
        """Whether a tar is there; it counts as used now."""
        try:
            # A time of our own, for the kernel's clock is coarse.
            os.utime(self._path(number), ns=(time.time_ns(),) * 2, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def fetch_beside(self, number: int, *, stop: threading.Event) -> None:
        """Fetch the small .idx of a tar, which only checks need; a missing one is left out."""
        path = self._path(number).with_suffix(".idx")
        at_most = self._shards[number]["num_bytes"]  # it names the tar's members, and is shorter
        try:
            self._store.download_to(path.name, path, stop=stop, at_most=at_most)
        except FileNotFoundError:
            path.unlink(missing_ok=True)

    def prefetcher(self, plan: Plan, *, rows: slice) -> TarPrefetcher:
        """What fetches the tars of a plan's coming steps."""
        sizes = [shard["num_bytes"] for shard in self._shards]
        most = SHARE_AHEAD * (self._cache.limit_bytes or math.inf)
        return TarPrefetcher(self, plan, rows=rows, tar_bytes=sizes, most_bytes=most, num_steps=self._fetch_ahead)

    def _path(self, number: int) -> Path:
        return self._folder / self._shards[number]["tar"]

    def _open_present(self, number: int) -> FileIO | None:
        """A tar that lies in the cache, with a shared lock; None when it does not."""
        try:
            file = FileIO(os.open(self._path(number), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)  # waits for who looks whether it is in use
        if os.fstat(file.fileno()).st_size != self._shards[number]["num_bytes"]:
            file.close()
            return None
        self.touch(number)
        return file

    def _fetch(self, number: int, stop: threading.Event, *, force: bool) -> FileIO | None:
        """Fetch a tar, give it its name and open it; None when it cannot be had, or has no room."""
        path, num_bytes = self._path(number), self._shards[number]["num_bytes"]
        temporary = path.with_name(f".{path.name}.tmp")
        file, fits = self._cache.new_tar(temporary, num_bytes, force=force, stop=stop)
        if file is None:
            return None
        if not fits or number in self._fetched:
            self._warn_small()
        try:
            with file:
                fault = self._fill(file, number, stop)
                if fault is None:
                    put_in_place(file, temporary, path)
                    self.touch(number)
                    fcntl.flock(file, fcntl.LOCK_SH)
                    file.seek(0)
                    self._fetched.add(number)
                    self.num_fetched += 1
                    return FileIO(os.dup(file.fileno()))  # which shares its lock
        finally:
            temporary.unlink(missing_ok=True)
        self.unreadable[number] = fault
        self._say(f"warning: {fault}; its {self._shards[number].get('num_samples', '')} samples count as damaged")
        return None

    def _fill(self, file: Any, number: int, stop: threading.Event) -> str | None:
        """Write a tar into a file; what is wrong with it, if anything is."""
        shard, fault = self._shards[number], None
        for _ in range(NUM_TRIES):
            try:
                size = shard["num_bytes"]
                sha256 = self._store.download(shard["tar"], file, stop=stop, at_most=size, num_bytes=size)
            except FileNotFoundError:
                return f"{self._store.address(shard['tar'])}: is not there"
            except ContentError as error:
                fault = str(error)
                continue
            if sha256 == shard["sha256"]:
                return None
            fault = f"{self._store.address(shard['tar'])}: its sha256 is not the one in dataset.json"
        return fault

    def _warn_small(self) -> None:
        if self._warned.acquire(blocking=False):
            self._say(
                f"warning: {self.url}: the cache is too small: tars are fetched again, or stay beyond its limit while "
                "they are in use; give a larger --cache-limit or a smaller --shuffle-window"
            )
