"""Files of others, opened where they are plain files and lie where they should; ours, written in one step."""

import filecmp
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

from res3d_video.pipeline.errors import UserError, os_errors_of_the_user

MAX_TEXT_BYTES = 2**28  # a line for each of a million videos
PROCESSES = secrets.token_hex(4)  # this one and those it forks; only names of temporary files hang on it
PLAIN_NAME = re.compile(r"[^./\\][^/\\]*")
KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}  # fmt: skip


class NotPlainError(OSError):
    """What has this name is no plain file, or lies elsewhere; the message is one line without the file's folder."""


def open_plain(path: Path, *, home: Path | None = None) -> int:
    """Open a file to read it; the caller closes the descriptor.

    Whatever has that name, this neither waits nor touches a device; a pipe, folder or the like is a NotPlainError, and
    so is a link that leads out of `home`. Where the file lies is asked of the open file, so a link that is changed
    meanwhile deceives nobody.
    """
    _require_plain(path, os.stat(path).st_mode)  # first without opening, which some devices take for a command
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _require_plain(path, os.fstat(descriptor).st_mode)
        if home is not None and not Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(home.resolve()):
            raise NotPlainError(f"{path.name}: a link leads out of {home}")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_plain(path: Path, *, max_bytes: int) -> bytes:
    """All of a small file; a `NotPlainError` if it is no plain file, or longer than `max_bytes`."""
    with os.fdopen(open_plain(path), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise NotPlainError(f"{path.name}: is longer than {max_bytes} bytes")
    return content


def read_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """All of a list in UTF-8, with or without a byte order mark; a `UserError` if it cannot be read."""
    with os_errors_of_the_user(path):
        content = read_plain(path, max_bytes=max_bytes)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: is not UTF-8; save the file as UTF-8") from None


def is_plain_name(name: Any) -> bool:
    """Whether this is a file's name in a folder and nothing else.

    >>> [is_plain_name(name) for name in ("a-000000.tar", "../a.tar", "/etc/a.tar", ".a.tar", "a\\\\b.tar", "", None)]
    [True, False, False, False, False, False, False]
    """
    return isinstance(name, str) and len(name) <= 200 and name.isprintable() and bool(PLAIN_NAME.fullmatch(name))


def new_file_opener(path: str, flags: int) -> int:
    """For `open(path, "wb", opener=new_file_opener)`: others may read the file if the umask says so, never write it.

    A link in the file's place is not followed.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def write_atomically(path: Path, data: bytes) -> bool:
    """Give `path` this content in one step; True when that changed anything.

    A reader sees the old file or the new one, never part of one, even after a power cut. A file that already has this
    content is left alone, so building twice rewrites nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary_of(path), "wb", opener=new_file_opener) as file:
        file.write(data)
    return put_in_place(temporary_of(path), path)


def temporary_of(path: Path) -> Path:
    """Where this process writes a file before it gets its name; what a killed build leaves, a later one removes.

    No other process uses that name, on this machine or on another one that shares the folder.
    """
    return path.with_name(f".{path.name}.{PROCESSES}-{os.getpid()}.tmp")


def put_in_place(temporary: Path, path: Path) -> bool:
    """`write_atomically` of a file already written under a temporary name."""
    filecmp.clear_cache()  # it goes by size and time, and a disk's clock is coarse
    if path.is_file() and filecmp.cmp(temporary, path, shallow=False):
        temporary.unlink()
        return False
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    return True


def _require_plain(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotPlainError(f"{path.name}: is {KINDS.get(stat.S_IFMT(mode), 'no file')}, not a file")
