"""Memory that is used again as soon as nobody holds it.

Large blocks that are freed go back to the system, and fresh ones are zeroed by it page by page: for
batches of patches that costs as much as a quarter of decoding them.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.tile_memory import tile_memory

__all__ = ["Recycled"]


class Recycled:
    """Buffers of one size, the largest asked for so far; as many as were ever held at once.

    Safe between threads.
    """

    def __init__(self) -> None:
        self._size = 0
        self._free: list[NDArray[np.uint8]] = []

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A uint8 array of that shape, of any content.

        Its memory is given to somebody else when this array, every view of it and every tensor
        that shares it are gone.
        """
        count = math.prod(shape)
        self._size = max(self._size, count)
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = None
        if buffer is None or len(buffer) < count:
            buffer = tile_memory(max(self._size, count))
        # Views of an array refer to the array that owns the memory; behind a memoryview that is
        # `whole`, so that it lives as long as any of them, and tells when it goes.
        whole = np.frombuffer(buffer.data, np.uint8, count) if count else buffer[:0]
        if count:
            weakref.finalize(whole, self._take_back, buffer).atexit = False
        return whole.reshape(shape)

    def clear(self) -> None:
        """Free what is not held."""
        self._free.clear()

    def _take_back(self, buffer: NDArray[np.uint8]) -> None:
        if len(buffer) == self._size:
            self._free.append(buffer)
