"""Reads files of torch.save without running code from them and without trusting the sizes that they claim."""

import os
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from res3d_video.pipeline.errors import one_line, printable
from res3d_video.pipeline.files import open_plain
from res3d_video.pipeline.typed_json import SchemaError

# Tensors and dicts; weights_only lets more pass, such as bytearray(10**12).
HARMLESS = r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage"
MAX_PICKLE_BYTES = 2**24  # names, shapes and settings; the numbers are records of their own
LEGACY_PICKLES = 5  # in a file of torch before 1.6: magic number, protocol, system, content, keys of the numbers
ZIP_ERRORS = (OSError, ValueError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile)

T = TypeVar("T")


def read_torch_file(path: Path, check: Callable[[Any], T], *, max_legacy_bytes: int = 0) -> T:
    """The content of a file, as `check` returns it.

    A zip file's outline is checked first: tensors without data, on the device meta. Only if `check` accepts it is the
    data read, as much as the records of the file have.

    Args:
        check: Called twice, with the outline and with the content; raises SchemaError to refuse it.
        max_legacy_bytes: Of a file in torch's format before 1.6, which has no outline; 0 refuses such files.

    Raises:
        SchemaError: The file is damaged or of another kind; the message has no path.
        OSError: It cannot be opened.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        if zipfile.is_zipfile(file):
            check_archive(file)
            check(_load(file, device="meta"))
            check_records(path)
        elif os.fstat(file.fileno()).st_size > max_legacy_bytes:
            raise SchemaError("not a zip file of torch.save, or cut off")
        else:
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                check_pickle(file)
        return check(_load(file, device="cpu"))


def check_archive(file: IO[bytes]) -> None:
    """Raise SchemaError for a zip file that would take more memory than its size, or that creates other objects than
    tensors."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise SchemaError(f"{packed[0]!r:.80} is compressed, which torch never does")
            size = os.fstat(file.fileno()).st_size
            claimed = sum(entry.file_size for entry in entries)
            if claimed > size:
                raise SchemaError(f"its records claim {claimed} bytes, the file has {size}")
            pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
                raise SchemaError(f"it must have one data.pkl, of at most {MAX_PICKLE_BYTES} bytes")
            with archive.open(pickles[0]) as pickle:
                check_pickle(pickle)
    except ZIP_ERRORS as error:
        raise error if isinstance(error, SchemaError) else SchemaError(one_line(error)) from None


def check_pickle(file: IO[bytes]) -> None:
    """Parse a pickle to its end without executing it.

    Raises:
        SchemaError: It is damaged, or would call a function that is not in HARMLESS.
    """
    try:
        called = {str(arg) for opcode, arg, _ in pickletools.genops(file) if opcode.name == "GLOBAL"}
    except (ValueError, OverflowError, EOFError, struct.error) as error:
        raise SchemaError(one_line(error)) from None
    for name in sorted(called):
        if not re.fullmatch(HARMLESS, name):
            raise SchemaError(f"it would call {name!r:.80}, which is no tensor")


def check_records(path: Path) -> None:
    """Check the CRC-32 of every record of a zip file, which torch writes but does not verify.

    Raises:
        SchemaError: A record does not match.
        OSError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            no_files = [entry.filename for entry in archive.infolist() if entry.external_attr]
    except OSError:
        raise
    except ZIP_ERRORS as error:
        raise SchemaError(one_line(error)) from None
    if damaged is not None:
        raise SchemaError(f"{printable(damaged, most=80)} does not match its checksum")
    if no_files:  # torch reads nothing for an entry marked as a folder, and returns uninitialized memory
        raise SchemaError(f"{printable(no_files[0], most=80)} has attributes, which torch never writes")


def _load(file: IO[bytes], *, device: str) -> Any:
    file.seek(0)
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, KeyError, … for damaged files
        raise SchemaError(one_line(error)) from None
