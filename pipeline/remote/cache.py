"""The cache folder of a machine: tars of any dataset within one size limit, the least recently used give way.

A tar's lock is on the file itself. While it is fetched it has a temporary name and an exclusive lock; while a process
has it open, a shared one; who evicts it must get an exclusive one. All locks end with the process that holds them.
"""

import errno
import hashlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.remote.errors import RemoteError
from pipeline.remote.files import is_still, locked, private_folder, try_lock
from pipeline.remote.settings import size_text

FREE_BYTES = 10**9  # of the disk, which stay free whatever the limit
TAR_DEPTH = "*/*/*.tar", "*/*/.*.tar.tmp"  # dataset folders lie two levels deep


@dataclass(frozen=True, order=True)
class CachedTar:
    """A tar that lies there, or one that is on its way; by last use."""

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
        for pattern in TAR_DEPTH:
            for path in self.folder.glob(pattern):
                try:
                    stat = path.lstat()
                except FileNotFoundError:
                    continue
                found.append(CachedTar(stat.st_mtime_ns, path, stat.st_size))
        return sorted(found)

    def reserve(self, file: BinaryIO, num_bytes: int, *, force: bool, stop: threading.Event) -> bool:
        """Give an empty file its size, after others have given way; False when too few could.

        Args:
            force: Do it then too, and go beyond the limit; not beyond the disk.

        Raises:
            RemoteError: The disk is full.
        """
        with locked(self.folder / ".room.lock", stop=stop):
            missing = self._missing(num_bytes)
            for tar in self.tars() if missing > 0 else []:
                if missing <= 0:
                    break
                if evict(tar.path):
                    missing -= tar.num_bytes
            if missing > 0 and not force:
                return False
            try:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise RemoteError(
                    f"{self.folder}: the disk has no room for {size_text(num_bytes)}; free some, or choose another "
                    "--cache"
                ) from None
        return True

    def _missing(self, num_bytes: int) -> int:
        """Bytes that must go so that a tar may come."""
        disk = os.statvfs(self.folder)
        missing = num_bytes + FREE_BYTES - disk.f_bavail * disk.f_frsize
        if self.limit_bytes is not None:
            missing = max(missing, sum(tar.num_bytes for tar in self.tars()) + num_bytes - self.limit_bytes)
        return missing

    def ask_for_room(self) -> None:
        """Let every process know that it should give up what it does not need at once."""
        (self.folder / ".crowded").touch(mode=0o600)

    def asked_for_room_ns(self) -> int:
        """When a process did so last."""
        try:
            return os.stat(self.folder / ".crowded").st_mtime_ns
        except FileNotFoundError:
            return 0


def evict(path: Path) -> bool:
    """Remove a tar, or what a killed process left of one, unless somebody uses it."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b")
    except OSError:
        return False
    with file:
        if not try_lock(file, exclusive=True) or not is_still(file, path):
            return False
        path.unlink()
    return True


def folder_name(url: str) -> str:
    """A folder for a URL: its last part, for people, and a digest of all of it.

    >>> folder_name("s3://bucket/shards/ucf101")
    'ucf101-a4b0b6af8eb5'
    """
    last = re.sub(r"[^A-Za-z0-9._-]+", "_", url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]).strip(".") or "data"
    return f"{last[:60]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
