"""Memory that is freed in one step and needed again in the next."""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, malloc.h of glibc
SIZES = 1 << 30, 32 << 20  # bytes; older versions take no more than the second


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory instead of giving it back, and return whether it does.

    A step of training frees tensors of megabytes and asks for them again in the next. Where the system takes them back
    between, it maps and clears them page by page: a tenth to a sixth of a step of MACE. This changes the whole process,
    for good, and does nothing where the C library is not that of GNU; it is for programs that own their process.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(any(library.mallopt(which, size) for size in SIZES) for which in (MMAP_THRESHOLD, TRIM_THRESHOLD))
