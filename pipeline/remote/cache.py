"""The cache folder of a machine: tars of any dataset within one size limit, the least recently used give way.

A tar that is open has a lock (flock) on it, shared by those who read it, exclusive while it is fetched, under a
temporary name; so who evicts knows which are in use, and a process that ends leaves nothing locked.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from res3d_video.pipeline.remote.errors import Interrupted, RemoteError
from res3d_video.pipeline.remote.settings import size_text
from res3d_video.pipeline.remote.url import public_url

FREE_BYTES = 10**9  # of the disk, which stay free whatever the limit
OURS = f"*-{'[0-9a-f]' * 12}/{'[0-9a-f]' * 16}"  # folders of datasets: what else lies there is not touched
POLL_S = 0.2  # between two looks whether a wait for a lock is to end
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CachedTar(NamedTuple):
    """A tar that lies there, or one that is on its way."""

    used_ns: int
    path: Path
    num_bytes: int


class CacheFolder:
    """One cache folder, as one process sees it.

    Args:
        limit_bytes: Of all tars in it; None for as much as the disk has.

    Raises:
        RemoteError: It cannot be made or belongs to somebody else.
    """

    def __init__(self, folder: Path, *, limit_bytes: int | None) -> None:
        self.folder, self.limit_bytes = private_folder(folder), limit_bytes

    def home(self, url: str) -> Path:
        """The folder of one URL; it has a subfolder for each state in which the dataset there was found."""
        return private_folder(self.folder / folder_name(url))

    def tars(self) -> list[CachedTar]:
        """All tars of all datasets, the least recently used first."""
        found = []
        for pattern in ("*.tar", ".*.tar.tmp"):
            for path in self.folder.glob(f"{OURS}/{pattern}"):
                with contextlib.suppress(FileNotFoundError):
                    about = path.lstat()
                    found.append(CachedTar(about.st_mtime_ns, path, about.st_size))
        return sorted(found)

    def new_tar(
        self, path: Path, num_bytes: int, *, force: bool, stop: threading.Event
    ) -> tuple[BinaryIO | None, bool]:
        """A locked file of a size, after others have given way.

        Nobody gives way for one that would not fit even then. One that is larger than the whole limit takes the place
        of other such tars, and of no others.

        Args:
            path: Its temporary name.
            force: Make it even beyond the limit, when the tars in use leave no room; not beyond the disk.

        Returns:
            The file, None where there is no room; and whether the limit has room for it.

        Raises:
            RemoteError: The disk is full.
        """
        with locked(self.folder / ".room.lock", stop=stop):
            path.unlink(missing_ok=True)  # what a killed process may have left
            tars, limit = self.tars(), self.limit_bytes
            disk = os.statvfs(self.folder)
            missing_on_disk = num_bytes - disk.f_bavail * disk.f_frsize
            missing = missing_on_disk + FREE_BYTES
            if limit is not None:
                missing = max(missing, sum(tar.num_bytes for tar in tars) + num_bytes - limit)
                if num_bytes > limit:
                    tars = [tar for tar in tars if tar.num_bytes > limit]
            unused = [tar for tar in tars if not is_in_use(tar.path)] if missing > 0 else []
            can_go = sum(tar.num_bytes for tar in unused)
            fits = missing <= can_go
            no_room = RemoteError(
                f"{self.folder}: the disk has no room for {size_text(num_bytes)}; free some, or choose another --cache"
            )
            if not fits and not force:
                return None, False
            if missing_on_disk > can_go:
                raise no_room
            for tar in unused:
                if missing > 0:
                    tar.path.unlink(missing_ok=True)  # who has opened it meanwhile can read it still
                    missing -= tar.num_bytes
            file = new_file(path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            except OSError as error:
                file.close()
                path.unlink()
                if error.errno not in NO_ROOM:
                    raise
                raise no_room from None
        return file, fits


def is_in_use(path: Path) -> bool:
    """Whether some process has a tar open, or may have: it cannot be told of what is no file."""
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def locked(path: Path, *, stop: threading.Event) -> Iterator[None]:
    """Hold the lock that a file of this name is; wait for it.

    Raises:
        Interrupted: `stop` was set meanwhile.
    """
    lock = FileLock(path, mode=0o600)
    while True:
        try:
            lock.acquire(timeout=POLL_S)
            break
        except Timeout:
            if stop.is_set():
                raise Interrupted from None
    try:
        yield
    finally:
        lock.release()


def private_folder(path: Path) -> Path:
    """A folder that is there afterwards; the ones made for it are for their owner alone (mode 0700).

    Raises:
        RemoteError: It is a link, others own it or may write to it, or it cannot be made.
    """
    missing = [p for p in (path, *path.parents) if not p.exists()]
    try:
        for parent in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process was faster
                parent.mkdir(mode=0o700)
        found = path.lstat()
    except OSError as error:
        raise RemoteError(f"{path}: cannot be made ({error.strerror}); choose another --cache") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RemoteError(f"{path}: is no folder of yours, or a link; choose another --cache")
    if found.st_mode & 0o022:
        raise RemoteError(f"{path}: others may write there; run chmod 700 {path}, or choose another --cache")
    return path


def new_file(path: Path, *, mode: int = 0o600) -> BinaryIO:
    """An empty file, to be written and read; a link in its place is not followed."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode), "r+b")


def put_in_place(file: BinaryIO, temporary: Path, path: Path) -> None:
    """Give a written file its name, in one step, once it is on the disk."""
    file.flush()
    os.fsync(file.fileno())
    temporary.replace(path)


def write_whole(path: Path, content: bytes | BinaryIO, *, mode: int = 0o600) -> None:
    """Make a file in one step; readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with new_file(temporary, mode=mode) as file:
        shutil.copyfileobj(io.BytesIO(content) if isinstance(content, bytes) else content, file, 2**20)
        put_in_place(file, temporary, path)


def folder_name(url: str) -> str:
    """A folder for a URL: its last part, for people, and a digest of all of it but user and password.

    >>> folder_name("s3://bucket/shards/ucf101")
    'ucf101-a4b0b6af8eb5'
    """
    shown, query = public_url(url), url.partition("?")[1:]
    last = re.sub(r"[^A-Za-z0-9._-]+", "_", shown.rstrip("/").rsplit("/", 1)[-1]).strip(".") or "data"
    return f"{last[:60]}-{hashlib.sha256(''.join((shown, *query)).encode()).hexdigest()[:12]}"
