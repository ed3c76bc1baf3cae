"""Memory of tiles lies where decoders write into the caches."""

from __future__ import annotations

import pytest

from wsiprep.core.tile_memory import tile_memory


@pytest.mark.parametrize("shape", [(1, 1, 3), (256, 256, 3), (5, 240, 256, 3), (0, 8, 8, 3)])
def test_tiles_begin_beside_a_multiple_of_32(shape):
    for _ in range(20):
        memory = tile_memory(*shape)
        assert (memory.shape, str(memory.dtype)) == (shape, "uint8")
        assert memory.flags.c_contiguous
        assert memory.flags.writeable
        assert not memory.size or memory.ctypes.data % 32 == 8
    rows = memory.reshape(-1, shape[-2] * 3)
    if shape[-2] % 16 == 0:
        assert all(row.ctypes.data % 32 for row in rows)
    memory[...] = 255  # all of it is there
    assert memory.min(initial=255) == 255
