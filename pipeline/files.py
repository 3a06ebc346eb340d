"""Untrusted files, opened only if they are regular files in the expected folder; and atomic writes."""

import filecmp
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

from res3d_video.pipeline.errors import UserError, os_errors_of_the_user

MAX_TEXT_BYTES = 2**28  # a line for each of a million videos
PROCESSES = secrets.token_hex(4)  # shared with forked processes; used in names of temporary files only
PLAIN_NAME = re.compile(r"[^./\\][^/\\]*")
KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}  # fmt: skip


class NotPlainError(OSError):
    """Not a regular file, or outside the expected folder; the message is one line with the file's name only."""


def open_plain(path: Path, *, home: Path | None = None) -> int:
    """Open a regular file for reading; the caller closes the descriptor.

    It never blocks and never opens a device: a pipe, folder or the like raises NotPlainError, and so does a link that
    leads out of `home`. The location is checked on the open descriptor, so replacing a link in between has no effect.
    """
    _require_plain(path, os.stat(path).st_mode)  # before opening, which is already a command to some devices
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
    """The content of a small file; `NotPlainError` if it is not a regular file or longer than `max_bytes`."""
    with os.fdopen(open_plain(path), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise NotPlainError(f"{path.name}: is longer than {max_bytes} bytes")
    return content


def read_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """The content of a UTF-8 text file, with or without a byte order mark; `UserError` if it cannot be read."""
    with os_errors_of_the_user(path):
        content = read_plain(path, max_bytes=max_bytes)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: is not UTF-8; save the file as UTF-8") from None


def is_plain_name(name: Any) -> bool:
    """Whether this is a file name without folders, not hidden and printable.

    >>> [is_plain_name(name) for name in ("a-000000.tar", "../a.tar", "/etc/a.tar", ".a.tar", "a\\\\b.tar", "", None)]
    [True, False, False, False, False, False, False]
    """
    return isinstance(name, str) and len(name) <= 200 and name.isprintable() and bool(PLAIN_NAME.fullmatch(name))


def new_file_opener(path: str, flags: int) -> int:
    """For `open(path, "wb", opener=new_file_opener)`: mode 0644 within the umask; a link at `path` is not followed."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def write_atomically(path: Path, data: bytes) -> bool:
    """Write a file atomically; returns whether its content changed.

    Readers see the old or the new content, never a part, even after a power cut. A file with the same content is not
    touched, so building twice rewrites nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary_of(path), "wb", opener=new_file_opener) as file:
        file.write(data)
    return put_in_place(temporary_of(path), path)


def temporary_of(path: Path) -> Path:
    """The temporary name under which this process writes `path`; leftovers of killed builds are removed by later ones.

    The name is unique to the process, also among machines that share the folder.
    """
    return path.with_name(f".{path.name}.{PROCESSES}-{os.getpid()}.tmp")


def put_in_place(temporary: Path, path: Path) -> bool:
    """Rename a complete temporary file to `path`, as `write_atomically`; returns whether the content changed."""
    filecmp.clear_cache()  # its keys are sizes and times, and file times are coarse
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
