"""A dataset behind a URL as a `ShardIndex`: index and tars are downloaded to a cache folder and read there.

All processes of a machine share the folder. A tar has its name there only when it is whole and its sha256 is right. Who
reads one holds a shared lock (flock) on it, who fetches one an exclusive one, under a temporary name; so who makes room
knows which are in use, and a process that ends leaves nothing locked.
"""

import contextlib
import copy
import errno
import fcntl
import hashlib
import math
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, BinaryIO, TypedDict

import numpy as np
import platformdirs
from filelock import FileLock, Timeout
from msgspec import Meta

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import write_atomically
from res3d_video.pipeline.index import ShardError, ShardIndex, open_index, parse_info
from res3d_video.pipeline.plan import Plan
from res3d_video.pipeline.remote_store import (
    NEVER,
    ContentError,
    Interrupted,
    NoRangesError,
    RemoteError,
    RemoteStore,
    public_url,
)
from res3d_video.pipeline.schema import array_specs
from res3d_video.pipeline.typed_json import Count, SchemaError, decode

CHECKSUMS = "checksums.json"  # next to dataset.json, if tools/sync_shards.py has copied the dataset
MAX_INDEX_BYTES = 2**35  # of all arrays together, and of each file that dataset.json does not bound; Sports-1M: 5 GB
MAX_CACHE_BYTES = 10**18
FREE_BYTES = 10**9  # of the disk that are kept free whatever the limit
NUM_TRIES = 2  # to download a tar whose content is wrong, before its samples count as damaged
NUM_FETCHERS = 4  # threads that download ahead
NUM_READERS = 32  # parts of tars that are requested at a time
MAX_PART_GAP = 2**17  # bytes between two parts of a tar up to which one request is cheaper than two
POLL_S = 0.2  # how often a wait for a lock checks whether it should end


@dataclass(frozen=True)
class RemoteSettings:
    """The cache of a remote dataset and its timeouts; nothing here changes what is read.

    Attributes:
        cache: Folder on a local disk, shared by all processes of a machine; None for the user's cache folder.
        limit_bytes: Of all tars in `cache`; the least recently used ones give way. None for as much as the disk has.
        timeout_s: How long a server may be gone.
        fetch_ahead: Steps of the plan whose tars are fetched before they are needed; 0 for none.
        num_processes: That share the cache and its limit.
    """

    cache: Path | None = None
    limit_bytes: int | None = None
    timeout_s: float = 180.0
    fetch_ahead: int = 64
    num_processes: int = 1


def parse_size(text: str) -> int:
    """The bytes of a size with an optional unit; UserError if it is not a size.

    >>> parse_size("50GB"), parse_size("1.5 MiB"), parse_size("4096")
    (50000000000, 1572864, 4096)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?))?B?", text.strip().upper())
    num_bytes = float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2] or " ") if match else 0
    if not 1 <= num_bytes <= MAX_CACHE_BYTES:
        raise UserError(f"{text[:40]!r} is no size; choose one like 50GB, 500MB or 1TiB")
    return round(num_bytes)


class ListedFile(TypedDict):
    """A file in checksums.json."""

    num_bytes: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Checksums(TypedDict):
    """checksums.json."""

    files: dict[str, ListedFile]


def read_checksums(store: RemoteStore) -> dict[str, ListedFile]:
    """The files in checksums.json, by name. Raises FileNotFoundError, or ContentError if it is damaged."""
    try:
        return decode(store.read(CHECKSUMS), Checksums)["files"]
    except SchemaError as error:
        raise ContentError(f"{store.address(CHECKSUMS)}: {error}; copy the dataset again") from None


def index_files(info: dict[str, Any]) -> dict[str, int]:
    """The files of the arrays of a checked dataset.json -> the most bytes that each may have."""
    return {f"index/{name}.npy": min(MAX_INDEX_BYTES, array.max_bytes) for name, array in array_specs(info).items()}


def default_cache() -> Path:
    """The default cache, in the user's cache folder."""
    return platformdirs.user_cache_path("res3d-video") / "shards"


def open_remote(
    url: str, settings: RemoteSettings | None = None, *, say: Callable[[str], None] = lambda line: None
) -> ShardIndex:
    """Open a dataset behind a URL like s3://bucket/shards/ucf101, which reads the same as its folder.

    `say` takes a line for a person: a server is gone, a tar is damaged.

    Raises:
        ShardError: Not a finished dataset; or the server cannot be reached, as `RemoteError`.
    """
    settings = settings or RemoteSettings()
    store = RemoteStore(url, timeout_s=settings.timeout_s, say=say)
    cache = private_folder(settings.cache or default_cache())
    folder = fetch_index(store, private_folder(cache / folder_name(store.url)))
    try:
        index = open_index(folder)
    except ShardError as error:
        (folder / "dataset.json").unlink(missing_ok=True)  # so that a repaired one is downloaded
        raise RemoteError(f"{store.shown}: {error}") from None
    return replace(index, store=RemoteTars(store, folder, index.info["shards"], cache, settings, say))


def fetch_index(store: RemoteStore, home: Path) -> Path:
    """Download dataset.json and index/*.npy of a URL; one process downloads them, the others wait.

    The result is a folder like that of a local dataset, without its tars. A dataset that changes gets another one.
    """
    with cache_errors(home), locked(home / ".lock"):
        try:
            content = store.read("dataset.json")
        except FileNotFoundError:
            raise RemoteError(
                f"{store.shown}: no dataset.json, so no finished shards; tools/sync_shards.py copies them there"
            ) from None
        sha256 = hashlib.sha256(content).hexdigest()
        folder = private_folder(home / sha256[:16])
        if (folder / "dataset.json").is_file():
            return folder
        try:
            listed, left = dict[str, ListedFile](), MAX_INDEX_BYTES
            with contextlib.suppress(FileNotFoundError):  # it is optional
                listed = read_checksums(store)
            if "dataset.json" not in listed or listed["dataset.json"]["sha256"] != sha256:
                listed = {}  # of another dataset
            private_folder(folder / "index")
            for name, at_most in index_files(parse_info(content, where=store.address("dataset.json"))).items():
                expected = listed[name]["sha256"] if name in listed else None
                store.download_to(name, folder / name, at_most=min(left, at_most), sha256=expected)
                left -= (folder / name).stat().st_size
            if store.read("dataset.json") != content:
                raise RemoteError(f"{store.shown}: changes while it is read; wait until it is finished")
            write_atomically(folder / "dataset.json", content)
        except FileNotFoundError as missing:
            raise RemoteError(f"{missing}: is not there; copy the dataset again") from None
        finally:
            if not (folder / "dataset.json").is_file():
                shutil.rmtree(folder)
        return folder


@dataclass(eq=False)
class RemoteTars:
    """Provides the tars of a `ShardIndex`. Any number of threads and processes may share the cache.

    Attributes:
        folder: In the cache, of this dataset.
        shards: Of a dataset.json that has been checked.
        cache: The cache folder, which may hold other datasets.
        unreadable: Tars given up in this process, by number, and why.
        fetched: Tars that this process has fetched.
        has_warned: Whether it has said that the cache is too small.
    """

    store: RemoteStore
    folder: Path
    shards: list[dict[str, Any]]
    cache: Path
    settings: RemoteSettings
    say: Callable[[str], None]
    unreadable: dict[int, str] = field(default_factory=dict)
    fetched: set[int] = field(default_factory=set)
    has_warned: bool = False

    @property
    def bytes_fetched(self) -> int:
        """Bytes downloaded so far, in this process."""
        return self.store.bytes_fetched

    def ensure(self, number: int, *, stop: threading.Event = NEVER) -> bool:
        """Get a tar into the cache; one process downloads it, the others wait. Else `unreadable` says why not.

        Raises:
            RemoteError: The server is gone for too long, or the cache cannot be used; Interrupted if `stop` was set.
            OSError: Too many files are open (EMFILE).
        """
        with cache_errors(self.folder):
            if not self._is_there(number):
                with locked(self.folder / f".{self.shards[number]['tar']}.lock", stop=stop):
                    if number not in self.unreadable and not self._is_there(number):
                        self._fetch(number, stop)
        return number not in self.unreadable

    def is_here(self, number: int) -> bool:
        """Whether a tar is in the cache now. Raises RemoteError if the cache cannot be used."""
        with cache_errors(self.folder):
            return 0 <= number < len(self.shards) and self._is_there(number)

    def open(self, number: int, *, stop: threading.Event = NEVER, wait: bool = True) -> FileIO | None:
        """Open a tar, which is not evicted while it is open. None if it is not there; `wait` downloads it first.

        Raises as `ensure`.
        """
        while self.ensure(number, stop=stop) if wait else self._is_there(number):
            with contextlib.suppress(FileNotFoundError):  # evicted just now, by another process
                path = self.folder / self.shards[number]["tar"]
                file = FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
                fcntl.flock(file, fcntl.LOCK_SH)  # waits for a process that checks whether it is in use
                return file
        return None

    def read_parts(
        self, tars: Sequence[int], first: Sequence[int], size: Sequence[int], *, stop: threading.Event = NEVER
    ) -> list[memoryview | None]:
        """Download parts of tars, if little of each is needed; several at a time.

        Parts that lie near each other come in one request. Nothing is kept, and nothing is known of a part but what the
        reader can check. A server that sends no parts sends the whole tar, which is kept.

        Returns:
            The bytes of each part; None for one that is not in its tar, or whose tar is not there.

        Raises as `ensure`.
        """
        requests: list[tuple[int, int, int]] = []  # tar, first byte, end
        request_of = np.zeros(len(tars), int)
        for n in np.lexsort((first, tars)).tolist():
            tar, begin, end = tars[n], first[n], first[n] + size[n]
            if requests and requests[-1][0] == tar and begin <= requests[-1][2] + MAX_PART_GAP:
                requests[-1] = tar, requests[-1][1], max(end, requests[-1][2])
            else:
                requests.append((tar, begin, end))
            request_of[n] = len(requests) - 1
        with ThreadPoolExecutor(min(NUM_READERS, len(requests) or 1), thread_name_prefix="parts") as threads:
            contents = list(threads.map(lambda request: self._part(*request, stop=stop), requests))
        found: list[memoryview | None] = []
        for n, request in enumerate(request_of.tolist()):
            at = first[n] - requests[request][1]
            part = memoryview(contents[request])[at : at + size[n]]
            found.append(part if len(part) == size[n] else None)
        return found

    def _part(self, number: int, first: int, end: int, *, stop: threading.Event) -> bytes:
        """Some bytes of a tar; fewer, or none, if they do not exist."""
        shard = self.shards[number]
        if number in self.unreadable or not 0 <= first < end <= shard["num_bytes"]:
            return b""
        try:
            return self.store.read_range(shard["tar"], first, end - first, stop=stop)
        except FileNotFoundError as error:
            self._give_up(number, f"{error}: is not there")
        except NoRangesError:
            if (file := self.open(number, stop=stop)) is not None:
                with file:
                    return os.pread(file.fileno(), end - first, first)
        except ContentError:
            pass  # the server sent more than was requested
        return b""

    def fetch_beside(self, number: int) -> None:
        """Download the small .idx of a tar, which only checks need; it may be missing."""
        path = (self.folder / self.shards[number]["tar"]).with_suffix(".idx")
        path.unlink(missing_ok=True)
        with cache_errors(self.folder), contextlib.suppress(FileNotFoundError):  # it names members, and is shorter
            self.store.download_to(path.name, path, at_most=self.shards[number]["num_bytes"])

    def room(self) -> int:
        """Bytes of tars that the cache may hold: its limit, or the room on the disk."""
        on_disk = sum(size for _, _, size in tars_of(self.cache)) + shutil.disk_usage(self.cache).free - FREE_BYTES
        return max(0, min(on_disk, self.settings.limit_bytes or on_disk))

    def prefetcher(self, plan: Plan, *, rows: slice) -> "TarPrefetcher":
        """A prefetcher of the tars of a plan's next steps; `rows` are this rank's of each global batch."""
        return TarPrefetcher(self, plan, rows=rows)

    def _is_there(self, number: int) -> bool:
        """Whether a tar is in the cache; marks it as used."""
        path = self.folder / self.shards[number]["tar"]
        with contextlib.suppress(FileNotFoundError):
            about = path.lstat()
            if stat.S_ISREG(about.st_mode) and about.st_size == self.shards[number]["num_bytes"]:
                os.utime(path, ns=(time.time_ns(),) * 2)  # explicit, as the kernel's clock for files is coarse
                return True
        return False

    def _fetch(self, number: int, stop: threading.Event) -> None:
        """Download a tar and rename it to its name, or set in `unreadable` why not."""
        shard, fault = self.shards[number], ""
        name, size = shard["tar"], shard["num_bytes"]
        temporary = self.folder / f".{name}.tmp"
        try:
            with self._new_file(temporary, size, stop=stop, again=number in self.fetched) as file:
                for _ in range(NUM_TRIES):
                    try:
                        self.store.download(name, file, at_most=size, sha256=shard["sha256"], stop=stop)
                    except FileNotFoundError as error:
                        fault = f"{error}: is not there"
                    except ContentError as error:
                        fault = str(error)
                    else:
                        os.fsync(file.fileno())
                        temporary.replace(self.folder / name)
                        self.fetched.add(number)
                        return
        finally:
            temporary.unlink(missing_ok=True)
        self._give_up(number, fault)

    def _give_up(self, number: int, fault: str) -> None:
        """Remember, and report once, why a tar cannot be downloaded."""
        if self.unreadable.setdefault(number, fault) is fault:
            samples = self.shards[number].get("num_samples", "")
            self.say(f"warning: {fault}; its {samples} samples count as damaged")

    def _new_file(self, path: Path, num_bytes: int, *, stop: threading.Event, again: bool) -> BinaryIO:
        """A new, locked file of a size; evicts the least recently used tars that no process has open.

        `again` is for a tar that this process has fetched before. Raises OSError when the disk is full.
        """
        with locked(self.cache / ".room.lock", stop=stop):
            path.unlink(missing_ok=True)  # left by a killed process
            tars, free = sorted(tars_of(self.cache)), shutil.disk_usage(self.cache).free
            used = sum(size for _, _, size in tars)
            missing = max(num_bytes + FREE_BYTES - free, used + num_bytes - (self.settings.limit_bytes or math.inf))
            for _, tar, size in tars if num_bytes < free + used else ():  # else nothing would help
                if missing > 0 and not is_in_use(tar):
                    tar.unlink(missing_ok=True)  # a process that has just opened it can still read it
                    missing -= size
            if (missing > 0 or again) and not self.has_warned:
                self.has_warned = True
                self.say(
                    f"warning: {self.store.shown}: the cache is too small: tars are fetched again, or stay beyond its "
                    "limit while they are in use; give a larger --cache-limit or a smaller --shuffle-window"
                )
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+b")
            fcntl.flock(file, fcntl.LOCK_EX)
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        return file


class TarPrefetcher:
    """Downloads the tars of one rank's next training steps in the order of the plan, in separate threads.

    Those of all processes of a machine take half of the cache at most; the rest is for those in use. `rows` are the
    rank's of each global batch. With groups a rank's tars come window by window, and those it is done with are the
    least recently used, which give way when the cache is full.
    """

    def __init__(self, tars: RemoteTars, plan: Plan, *, rows: slice) -> None:
        self._tars, self._rows, self._num_steps = tars, rows, tars.settings.fetch_ahead
        # A copy, for a plan caches few orders and the reader needs those of its own steps.
        self._plan = copy.deepcopy(plan, {id(plan.index): plan.index})
        self._sizes = [shard["num_bytes"] for shard in tars.shards]
        self._asked: dict[int, int] = {}  # tars of coming steps, and the last step so far that needs each
        self._next_step, self._share = 0, 0.0  # of the cache, bytes
        self._queue, self._stop = SimpleQueue[int | None](), threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, step: int) -> None:
        """Start with the tars of a step."""
        self.end()
        self._asked, self._next_step, self._queue, self._stop = {}, step, SimpleQueue(), threading.Event()
        with cache_errors(self._tars.cache):
            self._share = self._tars.room() / (2 * self._tars.settings.num_processes)
        for _ in range(NUM_FETCHERS if self._num_steps else 0):
            thread = threading.Thread(target=self._fetch, args=(self._queue, self._stop), daemon=True)
            self._threads.append(thread)
            thread.start()
        self.move(step)

    def move(self, step: int) -> None:
        """Set the reader's current step: request the tars of the steps that are now within reach."""
        self._asked = {number: last for number, last in self._asked.items() if last >= step}
        left = self._share - sum(self._sizes[number] for number in self._asked)
        self._next_step, end = max(self._next_step, step), step + self._num_steps + 1
        while self._threads and self._next_step < end:
            samples = self._plan.batch(self._next_step)[self._rows].sample
            for number in dict.fromkeys(self._plan.index.tar_of(samples).tolist()):
                if number not in self._asked:
                    left -= self._sizes[number]
                    if left < 0:
                        return
                    self._queue.put(number)
                self._asked[number] = self._next_step
            self._next_step += 1

    def end(self) -> None:
        """Stop downloading; a thread that waits for a server ends later by itself."""
        self._stop.set()
        for _ in self._threads:
            self._queue.put(None)
        self._threads = []

    def _fetch(self, queue: "SimpleQueue[int | None]", stop: threading.Event) -> None:
        while (number := queue.get()) is not None and not stop.is_set():
            with contextlib.suppress(RemoteError, OSError):  # the reader will meet and report it, too
                self._tars.ensure(number, stop=stop)


def tars_of(cache: Path) -> Iterator[tuple[int, Path, int]]:
    """All tars of all datasets in a cache, complete or not: time of last use in ns, path, bytes."""
    for path in cache.glob(f"*-{'[0-9a-f]' * 12}/{'[0-9a-f]' * 16}/*.tar*"):  # other files are not touched
        with contextlib.suppress(FileNotFoundError):
            if path.suffix in (".tar", ".tmp"):
                yield path.lstat().st_mtime_ns, path, path.lstat().st_size


def is_in_use(path: Path) -> bool:
    """Whether a process has a tar open; True also if that cannot be determined."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError about the cache into a RemoteError of one line."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise
        raise RemoteError(f"{folder}: {error.strerror or error}; make room, or choose another --cache") from None


@contextlib.contextmanager
def locked(path: Path, *, stop: threading.Event = NEVER) -> Iterator[None]:
    """Hold a lock file; waits for it. Raises Interrupted if `stop` is set meanwhile."""
    lock = FileLock(path, mode=0o600)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=POLL_S)
        except Timeout:
            if stop.is_set():
                raise Interrupted from None
    try:
        yield
    finally:
        lock.release()


def private_folder(path: Path) -> Path:
    """Create a folder if it does not exist; new folders have mode 0700."""
    try:
        for parent in reversed([p for p in (path, *path.parents) if not p.exists()]):
            parent.mkdir(mode=0o700, exist_ok=True)  # another process may be faster
        found = path.lstat()
    except OSError as error:
        raise RemoteError(f"{path}: cannot be made ({error.strerror}); choose another --cache") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RemoteError(
            f"{path}: is a link, or others own it or may write there; choose a folder of yours for --cache, and run "
            f"chmod 700 {path}"
        )
    return path


def folder_name(url: str) -> str:
    """The name of a URL's folder: the URL's last part, for people, and a digest of it without user and password.

    >>> folder_name("s3://bucket/shards/ucf101")
    'ucf101-a4b0b6af8eb5'
    """
    shown, query = public_url(url), url.partition("?")[1:]
    last = re.sub(r"[^A-Za-z0-9._-]+", "_", shown.rstrip("/").rsplit("/", 1)[-1]).strip(".") or "data"
    return f"{last[:60]}-{hashlib.sha256(''.join((shown, *query)).encode()).hexdigest()[:12]}"
