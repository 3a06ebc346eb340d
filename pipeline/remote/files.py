"""Files of a cache that only their owner sees, and locks that end with the process that holds them."""

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.remote.errors import Interrupted, RemoteError

POLL_S = 0.05  # between two looks at a lock that somebody else has


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


def put_file_in_place(file: BinaryIO, temporary: Path, path: Path) -> None:
    """Give a written file its name, in one step, once it is on the disk."""
    file.flush()
    os.fsync(file.fileno())
    temporary.replace(path)


def write_private(path: Path, content: bytes) -> None:
    """A small file, mode 0600, in one step; readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with new_file(temporary) as file:
        file.write(content)
        put_file_in_place(file, temporary, path)


def try_lock(file: BinaryIO, *, exclusive: bool) -> bool:
    """Lock an open file if nobody has a lock on it that forbids this one; it ends when the file is closed."""
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def is_still(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is what `path` names now; while one waited for its lock it may have been replaced."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(file.fileno())
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def pause(stop: threading.Event, seconds: float = POLL_S) -> None:
    """Wait, but not longer than until somebody sets `stop`.

    Raises:
        Interrupted: It is set.
    """
    if stop.wait(seconds):
        raise Interrupted("interrupted while waiting for a remote dataset")


@contextlib.contextmanager
def locked(path: Path, *, stop: threading.Event) -> Iterator[None]:
    """Hold the lock that a file of this name is; wait for it."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+b") as file:
        while not try_lock(file, exclusive=True):
            pause(stop)
        yield
