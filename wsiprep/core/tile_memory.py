"""Memory that tiles are decoded into, to be read again at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["tile_memory"]

_PAST = 8
_ROUND = 32


def tile_memory(*shape: int) -> NDArray[np.uint8]:
    """An array for decoded tiles, of any content, that begins 8 bytes past a multiple of 32.

    Where a row of pixels begins at a multiple of 32 bytes, libjpeg-turbo writes it past the
    caches (AVX2, non-temporal stores), and who shrinks or cuts the tile next waits for main
    memory (figures: docs/adr/0009-tiles-decoded-once.md). Allocators give either, by chance. Where
    rows are a multiple of 16 bytes (tiles as wide as a multiple of 16 px), none begins so here.

    Args:
        shape: (h, w, 3), (tiles, h, w, 3), or bytes alone.

    Returns:
        uint8, contiguous, of that shape.
    """
    count = math.prod(shape)
    memory = np.empty(count + _ROUND, np.uint8)
    first = (_PAST - memory.ctypes.data) % _ROUND
    return memory[first : first + count].reshape(shape)
