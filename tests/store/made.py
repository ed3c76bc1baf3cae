"""Stores with made-up features."""

from __future__ import annotations

import numpy as np

from tests.fakes import make_info
from wsiprep.core.types import EncoderSpec, PatchGrid, TissueMask
from wsiprep.grid.build import cell_origins, chunk_order
from wsiprep.grid.plan import make_plan
from wsiprep.store.claim import claim_store

SPEC = EncoderSpec("fake:net", 6, None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), weights_sha256="ab")


def tissue_of(info, share=0.6, seed=0) -> TissueMask:
    mask = np.random.default_rng(seed).random((48, 64)) < share
    left = np.where(np.arange(64) < 30, 1, 2).astype(np.int32)
    edge, fold = np.random.default_rng(seed + 1).random((2, 48, 64)) < 0.1
    return TissueMask(
        mask=mask,
        pen=np.zeros_like(mask),
        mpp=32.0,
        size0=info.size0,
        method="test",
        notes=("a note",),
        edge=edge,
        fold=fold,
        section=mask * left,
    )


def grid_of(cells: np.ndarray, shape: tuple[int, int]) -> PatchGrid:
    info = make_info(size0=(shape[1] * 256, shape[0] * 256))
    cell = cells.astype(np.int32).reshape(-1, 2)
    cell = cell[chunk_order(cell)]
    return PatchGrid(
        make_plan(info, 0.5, 256, tolerance=0.05),
        256,
        256.0,
        shape,
        cell,
        cell_origins(cell, 256.0),
        np.ones(len(cell), np.float32),
    )


def write_all(out, info, grid, dtype="float16", ok=None, seed=1):
    vectors = np.random.default_rng(seed).normal(size=(len(grid), SPEC.dim)).astype(dtype)
    ok = np.ones(len(grid), bool) if ok is None else ok
    with claim_store(out, info) as store:
        store.put_tissue(tissue_of(info), "tissue-key", {"segmenter": "test"})
        store.put_grid("g", grid, "grid-key", "tissue-key", {"mpp": 0.5, "min_tissue": 0.5})
        journal = store.journal("g", SPEC.name, "features-key", len(grid), SPEC.dim, dtype)
        if len(grid):
            journal.append(0, vectors, ok)
        store.put_features(
            "g",
            grid,
            SPEC,
            journal,
            "features-key",
            "grid-key",
            {"store_dtype": dtype, "on_bad_tile": "mask"},
            "fake",
        )
    return vectors


def claimed(out, info, **kwargs) -> str:
    """Claim a store and put something into it, so that it stays; returns its name."""
    with claim_store(out, info, **kwargs) as store:
        if store.unit("tissue") is None:
            store.put_tissue(tissue_of(info), "tissue-key", {"segmenter": "test"})
        return store.name
