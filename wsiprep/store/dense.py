"""How arrays of a part are laid out: whole ones, and what patches have as dense grids in shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from wsiprep.core.types import CHUNK_CELLS, PatchGrid
from wsiprep.store.schema import SHARD_CELLS

__all__ = ["put_array", "put_scores", "put_vectors"]

ALWAYS_WRITTEN = frozenset({"mask", "pen", "cell", "origin0_px", "tissue", "valid"})
"""Arrays of format 1, whose chunk is there even if it is all zero."""


def put_array(
    group: zarr.Group, name: str, content: np.ndarray[Any, Any], axes: tuple[str, ...]
) -> None:
    """A small array, as one compressed chunk; without a file if it holds its fill value only."""
    array = group.create_array(
        name,
        shape=content.shape,
        chunks=tuple(max(1, n) for n in content.shape),
        dtype=content.dtype,
        compressors=[ZstdCodec(level=3, checksum=True)],
        dimension_names=axes,
        fill_value=float("nan") if name == "focus" else 0,
        config={"write_empty_chunks": name in ALWAYS_WRITTEN},
    )
    if content.size:
        array[...] = content


def put_vectors(
    group: zarr.Group,
    grid: PatchGrid,
    vectors: NDArray[np.floating[Any]],
    ok: NDArray[np.bool_],
) -> None:
    """`values` (rows, cols, D), NaN without a vector, and `valid` (rows, cols).

    Memory: one shard.

    Args:
        group: The part.
        grid: The M patches.
        vectors: float16 or float32 (M, D).
        ok: bool (M,), patches that have a vector.
    """
    rows, cols = grid.shape
    dim = vectors.shape[1]
    tall, wide = (min(SHARD_CELLS, -(-n // CHUNK_CELLS) * CHUNK_CELLS) for n in grid.shape)
    values = group.create_array(
        "values",
        shape=(rows, cols, dim),
        chunks=(CHUNK_CELLS, CHUNK_CELLS, dim),
        shards=(tall, wide, dim),
        dtype=vectors.dtype,
        compressors=[ZstdCodec(level=1, checksum=True)],
        fill_value=float("nan"),
        dimension_names=("row", "col", "feature"),
        config={"write_empty_chunks": False},
    )
    shard = grid.cell // np.array([tall, wide], np.int32)
    for r in range(-(-rows // tall)):
        for c in range(-(-cols // wide)):
            member = np.flatnonzero((shard[:, 0] == r) & (shard[:, 1] == c))
            if not len(member):
                continue
            height, width = min(tall, rows - r * tall), min(wide, cols - c * wide)
            block = np.full((height, width, dim), np.nan, vectors.dtype)
            good = member[ok[member]]
            at = grid.cell[good] - np.array([r * tall, c * wide], np.int32)
            block[at[:, 0], at[:, 1]] = vectors[good]
            values[r * tall : r * tall + height, c * wide : c * wide + width] = block
    valid = np.zeros((rows, cols), np.uint8)
    good_cells = grid.cell[ok]
    valid[good_cells[:, 0], good_cells[:, 1]] = 1
    put_array(group, "valid", valid, ("row", "col"))


def put_scores(
    group: zarr.Group,
    shape: tuple[int, int],
    cell: NDArray[np.int32],
    scores: NDArray[np.float32],
) -> None:
    """`scores` (P, rows, cols), NaN where a cell has none.

    Args:
        group: The part.
        shape: Rows and columns of the lattice.
        cell: int32 (M, 2), row and column.
        scores: float32 (P, M).
    """
    array = group.create_array(
        "scores",
        shape=(len(scores), *shape),
        chunks=(1, *(min(SHARD_CELLS, max(1, n)) for n in shape)),
        dtype=np.float32,
        compressors=[ZstdCodec(level=3, checksum=True)],
        fill_value=float("nan"),
        dimension_names=("text", "row", "col"),
        config={"write_empty_chunks": False},
    )
    for number, row in enumerate(scores):
        dense = np.full(shape, np.nan, np.float32)
        dense[cell[:, 0], cell[:, 1]] = row
        array[number] = dense
