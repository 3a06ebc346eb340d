"""Files in torch's format, whole or not there: written beside, read back from the disk, then given their name."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pipeline.typed_json import SchemaError
from train.torch_file import check_records

NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}  # said where there are no hard links


def write_whole(path: Path, write: Callable[[BinaryIO], None], *, former: Path | None = None) -> None:
    """Give `path` what `write` writes, a zip file as torch.save makes it; until then its old content stays.

    The new file is read back from the disk, not from memory, and held to the CRC-32 that each of its records was
    written with, before it takes the name of the old one.

    Args:
        former: Name that the old file keeps, in the place of an older one.

    Raises:
        OSError: It could not be written, or what is on the disk is something else. No temporary file is left, and
            `path` and `former` are what they were.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            try:
                write(file)
            except RuntimeError as error:  # torch's word for what the file had to say
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that it is read from the disk
        try:
            check_records(temporary)
        except SchemaError as error:
            raise OSError(errno.EIO, f"what was read back is not what was written: {error}", str(temporary)) from None
        if former is not None and path.exists():
            keep_as(path, former)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name survives a power cut too
    finally:
        os.close(folder)


def keep_as(path: Path, former: Path) -> None:
    """Give a file a second name, in one step; where there are no hard links, the second name alone."""
    link = former.with_name(f".{former.name}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        path.replace(former)
    else:
        link.replace(former)
