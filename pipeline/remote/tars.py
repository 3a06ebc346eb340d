"""The tars of a remote dataset: fetched whole when first needed, checked, and then read like any other."""

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.plan import Plan
from pipeline.remote.ahead import TarsAhead
from pipeline.remote.cache import CacheFolder
from pipeline.remote.download import download
from pipeline.remote.errors import ContentError, RemoteError
from pipeline.remote.files import is_still, pause, put_file_in_place, try_lock
from pipeline.remote.patience import Patience
from pipeline.remote.place import Place
from pipeline.remote.settings import RemoteSettings, size_text

NUM_TRIES = 2  # of a tar whose checksum is wrong, before its samples are replaced


class RemoteTars:
    """What a `ShardIndex` asks for its tars. Any number of threads and processes may share the folder.

    Args:
        folder: In the cache, of this dataset.
        shards: Of a dataset.json that has been checked.
        say: Takes a line for a person.

    Attributes:
        url: Of the dataset, without secrets.
        unreadable: Tars given up in this process, by number, and why.
        num_fetched: Tars that this process has fetched.
        is_short: Whether the cache was found too small for what is needed at once.
    """

    def __init__(
        self,
        place: Place,
        folder: Path,
        shards: list[dict[str, Any]],
        *,
        cache: CacheFolder,
        settings: RemoteSettings,
        patience: Patience,
        say: Callable[[str], None],
    ) -> None:
        self.url, self.settings = place.shown, settings
        self.unreadable: dict[int, str] = {}
        self.num_fetched = 0
        self.is_short = False
        self._place, self._folder, self._shards = place, folder, shards
        self._cache, self._patience, self._say = cache, patience, say
        self._warned = threading.Lock()  # taken for good by the first thread that warns

    def open(
        self, number: int, *, stop: threading.Event, let_go: Callable[[], None] | None = None, wait: bool = True
    ) -> BinaryIO | None:
        """A tar, open and locked against eviction until it and all copies of its descriptor are closed.

        Args:
            let_go: Called when the cache is full, to close tars of the caller's own; without it, a full cache gives
                None.
            wait: Fetch it when it is not there.

        Returns:
            None for a tar that cannot be had; `unreadable` says why if that is for good.

        Raises:
            RemoteError: The server is gone for too long, the disk is full, or the cache cannot be used.
            OSError: Too many files are open (EMFILE).
            Interrupted: `stop` was set.
        """
        try:
            while True:
                file = self._open_present(number, stop)
                if file is not None or not wait or number in self.unreadable:
                    return file
                temporary = self._locked_temporary(number, stop)
                if temporary is None:  # another process was faster
                    continue
                with temporary:
                    if not self._fetch(number, temporary, stop, let_go):
                        return None
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
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                at_most = self._shards[number]["num_bytes"]  # it names the tar's members, and is shorter
                download(self._place, path.name, file, patience=self._patience, stop=stop, at_most=at_most)
            temporary.replace(path)
        except FileNotFoundError:
            path.unlink(missing_ok=True)
        finally:
            temporary.unlink(missing_ok=True)

    def ahead(self, plan: Plan, *, rows: slice) -> TarsAhead:
        """What fetches the tars of a plan's coming steps."""
        limit = self._cache.limit_bytes
        sizes = [shard["num_bytes"] for shard in self._shards]
        return TarsAhead(self, plan, rows=rows, tar_bytes=sizes, limit_bytes=limit, settings=self.settings)

    def asked_for_room_ns(self) -> int:
        """When a process last found the cache full of tars in use."""
        return self._cache.asked_for_room_ns()

    def warn_short(self, num_bytes: int) -> None:
        """Say, once, that tars will be fetched again and again because the cache does not hold what is needed."""
        self.is_short = True
        if self._warned.acquire(blocking=False):
            limit = self._cache.limit_bytes
            has = f"{size_text(limit)} (--cache-limit)" if limit is not None else "the free disk"
            self._say(
                f"warning: {self.url}: {size_text(num_bytes)} of tars are needed together, more than {has}: they are "
                "fetched again and again; give a larger --cache-limit or a smaller --shuffle-window"
            )

    def _path(self, number: int) -> Path:
        return self._folder / self._shards[number]["tar"]

    def _open_present(self, number: int, stop: threading.Event) -> BinaryIO | None:
        """A tar that lies in the cache, with a shared lock; None when it does not."""
        path = self._path(number)
        while True:
            try:
                file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
            except FileNotFoundError:
                return None
            if try_lock(file, exclusive=False):
                if is_still(file, path):
                    whole = os.fstat(file.fileno()).st_size == self._shards[number]["num_bytes"]
                    if whole and self.touch(number):
                        return file
                    file.close()
                    return None
                file.close()
            else:  # it is being evicted
                file.close()
                pause(stop)

    def _locked_temporary(self, number: int, stop: threading.Event) -> BinaryIO | None:
        """The file to fetch a tar into, empty and locked; None when the tar has come meanwhile."""
        path = self._path(number)
        temporary = path.with_name(f".{path.name}.tmp")
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.fdopen(os.open(temporary, flags, 0o600), "r+b")
            if not try_lock(file, exclusive=True):  # another process fetches it
                file.close()
                pause(stop)
            elif is_still(file, temporary):
                if not self._is_whole(number):
                    file.truncate(0)  # what a killed process may have left
                    return file
                temporary.unlink(missing_ok=True)
                file.close()
                return None
            else:
                file.close()
            if self._is_whole(number):
                return None

    def _is_whole(self, number: int) -> bool:
        try:
            return os.stat(self._path(number)).st_size == self._shards[number]["num_bytes"]
        except FileNotFoundError:
            return False

    def _fetch(self, number: int, file: BinaryIO, stop: threading.Event, let_go: Callable[[], None] | None) -> bool:
        """Fill a locked temporary file and give it its name; False when the tar cannot be had, or has no room."""
        path, shard = self._path(number), self._shards[number]
        temporary, what = path.with_name(f".{path.name}.tmp"), self._place.address(path.name)
        fault = ""
        try:
            if number in self.unreadable:  # found out by another thread
                return False
            if not self._make_room(file, shard["num_bytes"], stop, let_go):
                return False
            for _ in range(NUM_TRIES):
                file.seek(0)
                try:
                    sha256 = download(
                        self._place,
                        path.name,
                        file,
                        patience=self._patience,
                        stop=stop,
                        at_most=shard["num_bytes"],
                        num_bytes=shard["num_bytes"],
                    )
                except FileNotFoundError:
                    fault = f"{what}: is not there"
                    break
                except ContentError as error:
                    fault = str(error)
                    continue
                if sha256 == shard["sha256"]:
                    put_file_in_place(file, temporary, path)
                    self.num_fetched += 1
                    return True
                fault = f"{what}: its sha256 is not the one in dataset.json"
        finally:
            if is_still(file, temporary):
                temporary.unlink()
        self.unreadable[number] = fault
        self._say(f"warning: {fault}; its {shard.get('num_samples', '')} samples count as damaged")
        return False

    def _make_room(
        self, file: BinaryIO, num_bytes: int, stop: threading.Event, let_go: Callable[[], None] | None
    ) -> bool:
        """Give a file its size within the limit, or beyond it when everything there is in use."""
        if self._cache.reserve(file, num_bytes, force=False, stop=stop):
            return True
        if let_go is None:
            return False
        let_go()
        if not self._cache.reserve(file, num_bytes, force=False, stop=stop):
            self._cache.ask_for_room()
            self.warn_short(num_bytes + sum(tar.num_bytes for tar in self._cache.tars()))
            self._cache.reserve(file, num_bytes, force=True, stop=stop)
        return True
