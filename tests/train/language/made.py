"""Small stores with known vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import make_info
from wsiprep.core.types import EncoderSpec, PatchGrid, SlideInfo
from wsiprep.grid.build import cell_origins, chunk_order
from wsiprep.grid.plan import make_plan
from wsiprep.store.claim import claim_store
from wsiprep.store.features import FeatureArray

SPEC = EncoderSpec("fake:net", 5, None, (0.5,) * 3, (0.5,) * 3, weights_sha256="ab" * 32)
SHAPE = (40, 36)
GRID = "g"


def grid_of(cells: np.ndarray, stride_px: int = 256, mpp: float = 0.5) -> PatchGrid:
    info = make_info(size0=(SHAPE[1] * 256, SHAPE[0] * 256))
    cell = cells.astype(np.int32).reshape(-1, 2)
    cell = cell[chunk_order(cell)]
    plan = replace(make_plan(info, 0.5, 256, tolerance=0.05), mpp=mpp)
    origins = cell_origins(cell, 256.0)
    share = np.ones(len(cell), np.float32)
    return PatchGrid(plan, stride_px, 256.0, SHAPE, cell, origins, share)


def some_cells(seed: int, count: int = 300) -> np.ndarray:
    every = np.argwhere(np.ones(SHAPE, bool))
    return np.random.default_rng(seed).choice(every, count, replace=False)


def vectors_of(grid: PatchGrid, number: int, spec: EncoderSpec = SPEC) -> np.ndarray:
    """Vectors that say whose they are: slide number, row, column, then noise; exact as float16."""
    noise = np.random.default_rng(number).integers(-9, 9, (len(grid), spec.dim - 3))
    return np.concatenate([np.full((len(grid), 1), number), grid.cell, noise], axis=1)


def write_grid(folder: Path, slide: str, number: int = 0) -> Path:
    """A store that has a grid and no features yet."""
    with claim_store(folder, _info(slide, number)) as store:
        store.put_grid(GRID, grid_of(some_cells(number)), "grid-key", "tissue-key", {})
    return folder / f"{slide}.zarr"


def write_blank(folder: Path, slide: str, number: int = 0) -> Path:
    """A store with features of no patch, as a slide without tissue has them."""
    return write_store(folder, slide, number=number, cells=np.empty((0, 2), int))[0]


def _info(slide: str, number: int) -> SlideInfo:
    return replace(
        make_info(size0=(SHAPE[1] * 256, SHAPE[0] * 256)),
        id=slide,
        uri=f"/slides/{slide}",
        fingerprint=f"{number:064x}",
    )


def write_store(
    folder: Path,
    slide: str,
    *,
    number: int = 0,
    cells: np.ndarray | None = None,
    spec: EncoderSpec = SPEC,
    dtype: str = "float16",
    ok: np.ndarray | None = None,
    vectors: np.ndarray | None = None,
    stride_px: int = 256,
    mpp: float = 0.5,
) -> tuple[Path, PatchGrid, np.ndarray]:
    """A store with one grid and one encoder; its path, grid and vectors."""
    grid = grid_of(some_cells(number) if cells is None else cells, stride_px, mpp)
    values = (vectors_of(grid, number, spec) if vectors is None else vectors).astype(dtype)
    with claim_store(folder, _info(slide, number)) as store:
        store.put_grid(GRID, grid, "grid-key", "tissue-key", {})
        journal = store.journal(GRID, spec.name, "key", len(grid), values.shape[1], dtype)
        if len(grid):
            journal.append(0, values, np.ones(len(grid), bool) if ok is None else ok)
        config = {"store_dtype": dtype, "on_bad_tile": "mask"}
        store.put_features(GRID, grid, spec, journal, "key", "grid-key", config, "fake")
    return folder / f"{slide}.zarr", grid, values


def reads_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[slice, slice]]:
    """A list that each read of features from now on adds its rows and columns to."""
    asked: list[tuple[slice, slice]] = []
    read = FeatureArray._read

    def told(self: FeatureArray, rows: slice, cols: slice) -> np.ndarray:
        asked.append((rows, cols))
        return read(self, rows, cols)

    monkeypatch.setattr(FeatureArray, "_read", told)
    return asked
