"""Features of one encoder on one grid: rows and windows, without loading the rest."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsiprep.core.errors import StoreCorruptError
from wsiprep.core.types import CHUNK_CELLS, PatchGrid
from wsiprep.store.arrays import array_of, decoded, load

if TYPE_CHECKING:
    import dask.array
    import torch

__all__ = ["FeatureArray", "FeatureRows", "FeatureWindow"]


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Feature vectors of patches, row-aligned with where they lie.

    Attributes:
        vectors: float16 or float32 (M, D), finite.
        cell: int32 (M, 2), row and column.
        origin0_px: int64 (M, 2), x and y in level-0 pixels.
        tissue: float32 (M,), tissue share.
        section: int32 (M,), number of the tissue section.
        pen: float32 (M,), share under ink.
        edge: float32 (M,), share under coverslip edges, bubbles, dust.
        fold: float32 (M,), share under folded tissue.
        focus: float32 (M,), sharpness; NaN where it was not measured.
    """

    vectors: NDArray[np.floating[Any]]
    cell: NDArray[np.int32]
    origin0_px: NDArray[np.int64]
    tissue: NDArray[np.float32]
    section: NDArray[np.int32]
    pen: NDArray[np.float32]
    edge: NDArray[np.float32]
    fold: NDArray[np.float32]
    focus: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.vectors)

    def torch(self) -> torch.Tensor:
        """The vectors as a torch tensor that shares their memory."""
        import torch

        return torch.from_numpy(self.vectors)


@dataclass(frozen=True, slots=True)
class FeatureWindow:
    """A rectangle of the lattice.

    Attributes:
        vectors: (h, w, D); NaN where not valid.
        valid: bool (h, w).
    """

    vectors: NDArray[np.floating[Any]]
    valid: NDArray[np.bool_]

    def torch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors and validity as torch tensors that share their memory."""
        import torch

        return torch.from_numpy(self.vectors), torch.from_numpy(self.valid)


class FeatureArray:
    """Features of one encoder on one grid. Nothing is read before it is asked for.

    Attributes:
        attributes: Encoder spec, achieved mpp, key, configuration; see docs/store.md.
        grid: The patches.
    """

    def __init__(
        self, attributes: dict[str, Any], group: zarr.Group, grid: PatchGrid, path: Path
    ) -> None:
        self.attributes = attributes
        self.grid = grid
        self._path = path
        self._values = array_of(group, "values")
        self._valid: NDArray[np.bool_] = load(group, "valid", path).astype(np.bool_)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, cols, D) of the dense grid."""
        rows, cols, dim = self._values.shape
        return rows, cols, dim

    @property
    def dim(self) -> int:
        """D, the length of a vector."""
        return self.shape[2]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 or float32."""
        return np.dtype(self._values.dtype)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Bool (rows, cols): cells that hold a vector."""
        return self._valid

    def __len__(self) -> int:
        """Patches that hold a vector."""
        return int(self._valid.sum())

    def rows(self, start: int = 0, stop: int | None = None) -> FeatureRows:
        """Vectors of patches [start, stop) of the grid, without those that could not be read.

        Memory: the result and one chunk.

        Raises:
            StoreCorruptError: a vector that should be there is not finite.
        """
        every = np.arange(len(self.grid))[start:stop]
        cell = self.grid.cell[every]
        every = every[self._valid[cell[:, 0], cell[:, 1]]]
        cell = self.grid.cell[every]
        vectors = self.vectors(cell)
        columns = {name: column[every] for name, column in self.grid.columns().items()}
        return FeatureRows(vectors, cell, self.grid.origin0_px[every], **columns)

    def vectors(self, cell: NDArray[np.integer[Any]]) -> NDArray[np.floating[Any]]:
        """Vectors of some cells; only chunks that hold one of them are read.

        Args:
            cell: integers (M, 2), row and column of cells that hold a vector. Each chunk is read
                once if they are in the order of the grid, or chunk by chunk in any other way.

        Returns:
            float16 or float32 (M, D), finite.

        Raises:
            StoreCorruptError: a vector that should be there is not finite.
        """
        vectors = np.empty((len(cell), self.dim), self.dtype)
        chunk = cell // CHUNK_CELLS
        first = np.ones(len(cell), np.bool_)
        first[1:] = (chunk[1:] != chunk[:-1]).any(axis=1)
        edges = [*np.flatnonzero(first).tolist(), len(cell)]
        for start, stop in pairwise(edges):
            some = cell[start:stop]
            low, high = some.min(axis=0), some.max(axis=0) + 1
            block = self._read(slice(low[0], high[0]), slice(low[1], high[1]))
            at = some - low
            vectors[start:stop] = block[at[:, 0], at[:, 1]]
        if not np.isfinite(vectors).all():
            raise StoreCorruptError(
                "features that are marked valid are missing from their chunk.",
                slide=self._path.stem,
                stage="store",
                hint="`wsiprep verify` says what to run again.",
            )
        return vectors

    def window(self, row: int, col: int, height: int = 16, width: int = 16) -> FeatureWindow:
        """Vectors of a rectangle of cells; what lies beyond the lattice is not valid.

        Reads only the chunks it touches. At multiples of 16 a 16 x 16 window is one chunk.

        Args:
            row: First row of cells; may be negative.
            col: First column; may be negative.
            height: Rows.
            width: Columns.
        """
        vectors = np.full((height, width, self.dim), np.nan, self.dtype)
        valid = np.zeros((height, width), np.bool_)
        rows, cols, _ = self.shape
        top, bottom = max(row, 0), min(row + height, rows)
        left, right = max(col, 0), min(col + width, cols)
        if top < bottom and left < right:
            there = np.s_[top - row : bottom - row, left - col : right - col]
            vectors[there] = self._read(slice(top, bottom), slice(left, right))
            valid[there] = self._valid[top:bottom, left:right]
        return FeatureWindow(vectors, valid)

    def dask(self) -> dask.array.Array:
        """The dense grid (rows, cols, D) as a dask array, one task a shard; NaN without vector."""
        import dask.array

        chunks = self._values.shards or self._values.chunks
        return dask.array.from_array(self._values, chunks=chunks, name=False)  # type: ignore[no-untyped-call, no-any-return, unused-ignore]

    def _read(self, rows: slice, cols: slice) -> NDArray[np.floating[Any]]:
        return decoded(self._path, lambda: np.asarray(self._values[rows, cols]))
