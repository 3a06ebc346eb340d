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
from pipeline.remote.place import public_url
from pipeline.remote.settings import size_text

FREE_BYTES = 10**9  # of the disk, which stay free whatever the limit
OURS = f"*-{'[0-9a-f]' * 12}/{'[0-9a-f]' * 16}"  # folders of datasets: what else lies there is not touched


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
        for pattern in ("*.tar", ".*.tar.tmp"):
            for path in self.folder.glob(f"{OURS}/{pattern}"):
                try:
                    stat = path.lstat()
                except FileNotFoundError:
                    continue
                found.append(CachedTar(stat.st_mtime_ns, path, stat.st_size))
        return sorted(found)

    def reserve(self, file: BinaryIO, num_bytes: int, *, force: bool, stop: threading.Event) -> bool:
        """Give an empty file its size, after others have given way; False when too few could.

        Nobody gives way for one that would not fit even then. One that is larger than the whole limit takes the place
        of other such tars, and of no others.

        Args:
            force: Do it then too, and go beyond the limit; not beyond the disk.

        Raises:
            RemoteError: The disk is full.
        """
        with locked(self.folder / ".room.lock", stop=stop):
            tars, limit = self.tars(), self.limit_bytes
            disk = os.statvfs(self.folder)
            missing = missing_on_disk = num_bytes + FREE_BYTES - disk.f_bavail * disk.f_frsize
            if limit is not None:
                missing = max(missing, sum(tar.num_bytes for tar in tars) + num_bytes - limit)
                if num_bytes > limit:
                    tars = [tar for tar in tars if tar.num_bytes > limit]
            unused = [tar for tar in tars if give_way(tar.path, ask_only=True)] if missing > 0 else []
            can_go = sum(tar.num_bytes for tar in unused)
            if missing > can_go and not force:
                return False
            if missing_on_disk - FREE_BYTES > can_go:
                raise self._no_room(num_bytes)
            for tar in unused:
                if missing > 0 and give_way(tar.path):
                    missing -= tar.num_bytes
            try:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                raise self._no_room(num_bytes) from None
        return True

    def _no_room(self, num_bytes: int) -> RemoteError:
        return RemoteError(
            f"{self.folder}: the disk has no room for {size_text(num_bytes)}; free some, or choose another --cache"
        )

    def ask_for_room(self) -> None:
        """Let every process know that it should give up what it does not need at once."""
        (self.folder / ".crowded").touch(mode=0o600)

    def asked_for_room_ns(self) -> int:
        """When a process did so last."""
        try:
            return os.stat(self.folder / ".crowded").st_mtime_ns
        except FileNotFoundError:
            return 0


def give_way(path: Path, *, ask_only: bool = False) -> bool:
    """Remove a tar, or what a killed process left of one, unless somebody uses it; or say whether that could be."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b")
    except OSError:
        return False
    with file:
        if not try_lock(file, exclusive=True) or not is_still(file, path):
            return False
        if not ask_only:
            path.unlink()
    return True


def folder_name(url: str) -> str:
    """A folder for a URL: its last part, for people, and a digest of all of it but user and password.

    >>> folder_name("s3://bucket/shards/ucf101")
    'ucf101-a4b0b6af8eb5'
    """
    shown, query = public_url(url), url.partition("?")[1:]
    last = re.sub(r"[^A-Za-z0-9._-]+", "_", shown.rstrip("/").rsplit("/", 1)[-1]).strip(".") or "data"
    return f"{last[:60]}-{hashlib.sha256(''.join((shown, *query)).encode()).hexdigest()[:12]}"
