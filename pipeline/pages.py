"""Pages of a mapped file brought into memory by the system, which can say no; touching them would be a SIGBUS."""

import ctypes
import errno

import numpy as np

MADV_POPULATE_READ = 22  # Linux 5.14; Python has no name for these two
EHWPOISON = 133
REFUSED = {errno.EFAULT, EHWPOISON}  # the file has become shorter, or the disk cannot read it; madvise(2)

_madvise = ctypes.CDLL(None, use_errno=True).madvise  # unlike mmap.madvise it lets other threads run meanwhile
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE_SIZE = 4096  # at least; where pages are larger, the system refuses the address and nothing is checked


def load_pages(data: np.ndarray) -> bool:
    """Bring some bytes of a mapped file into memory; waits for the disk.

    Args:
        data: uint8 [bytes], a view of the mapping.

    Returns:
        False where they cannot be had. On a Linux before 5.14 True without a look.
    """
    address = data.__array_interface__["data"][0]
    first = address - address % PAGE_SIZE
    if _madvise(first, address + len(data) - first, MADV_POPULATE_READ) == 0:
        return True
    return ctypes.get_errno() not in REFUSED
