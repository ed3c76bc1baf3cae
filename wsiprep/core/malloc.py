"""What the C library does with memory that is no longer used."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

__all__ = ["LARGE_BYTES", "return_large_blocks"]

LARGE_BYTES: Final = 1 << 18
_M_MMAP_THRESHOLD: Final = -3  # <malloc.h> of glibc


def return_large_blocks() -> bool:
    """Have blocks of `LARGE_BYTES` or more go back to the system when they are freed.

    For the whole process, from now on. By itself glibc keeps blocks of up to 32 MiB, and before
    2.38 it seldom finds one again that tensors ask for, since theirs are aligned: training on a
    CPU holds up to twice the memory that is in use. Costs some time, for memory from the system is
    cleared first.

    Returns:
        Whether it was done: False where the C library is not glibc.

    Source: mallopt(3), M_MMAP_THRESHOLD; glibc bug 14581.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES))
