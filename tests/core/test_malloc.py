"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CHILD = """
import ctypes, sys
from wsiprep.core.malloc import LARGE_BYTES, return_large_blocks
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def block(size):
    at = libc.malloc(size)
    ctypes.memset(at, 1, size)
    return at
if sys.argv[1] == "yes":
    assert return_large_blocks()
libc.free(block(30 * LARGE_BYTES))  # glibc learns to keep blocks of that size
blocks = [(block(2 * LARGE_BYTES), block(1000)) for _ in range(50)]
before = rss()
for large, _ in blocks[:-1]:
    libc.free(large)
print((before - rss()) // LARGE_BYTES)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_blocks_go_back():
    given = {
        word: int(
            subprocess.run(
                [sys.executable, "-c", CHILD, word], capture_output=True, text=True, check=True
            ).stdout
        )
        for word in ("yes", "no")
    }
    assert given["yes"] >= 90
    assert given["no"] <= 10


def test_elsewhere_nothing_is_done(monkeypatch):
    from wsiprep.core import malloc

    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: ("", ""))
    assert not malloc.return_large_blocks()
