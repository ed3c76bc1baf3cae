"""From stores to bags: patches of a case, slide by slide, region by region.

A region is a chunk of the store, 16 x 16 cells, and is read by itself: nothing else of the slide
is touched. Patches that could not be read when the slide was embedded hold no vector; they are
left out and counted.

What is checked: that features were made as expected (`Fingerprint`), that their width is that of
their encoder, that cells lie inside the lattice, in the store's order and each once, and that
every vector marked valid is finite. A patch off its lattice cannot be: a store keeps rows and
columns, and places in pixels follow from them (`PatchGrid`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsiprep.core.errors import MissingStageError, StoreCorruptError
from wsiprep.core.types import CHUNK_CELLS
from wsiprep.models.bags import Bag
from wsiprep.store.read import FeatureArray, FeatureStore
from wsiprep.train.language.fingerprint import Fingerprint

__all__ = ["CaseBag", "SlideFeatures", "join_bags", "open_case", "read_case"]


@dataclass(frozen=True, slots=True, eq=False)
class CaseBag:
    """Patches of a case, and which were left out.

    Attributes:
        bag: All patches that hold a vector; float16 where the store has float16.
        slides: Slide ids, in order of the number that the bag gives them.
        left_out: For each slide, patches of its grid that hold no vector.
        fingerprint: What the features were made with (of the first slide).
    """

    bag: Bag
    slides: tuple[str, ...]
    left_out: tuple[int, ...]
    fingerprint: Fingerprint


class SlideFeatures:
    """Features of one slide, open and checked; vectors are read when asked for.

    Args:
        path: `<slide>.zarr`.
        grid: Name of the grid; may be left out where there is only one.
        encoder: Name of the encoder; likewise.
        expect: What they must have been made with, as a checkpoint says.

    Attributes:
        slide: Slide id.
        features: As the store gives them.
        fingerprint: What they were made with.
        regions: int64 (R, 2), row and column, in chunks, of those that hold a vector; row-major.
        left_out: Patches of the grid that hold no vector.

    Raises:
        MissingStageError: there are no such features.
        StoreMismatchError: they do not match `expect`.
        StoreCorruptError: they are damaged.
    """

    def __init__(
        self,
        path: Path,
        *,
        grid: str | None = None,
        encoder: str | None = None,
        expect: Fingerprint | None = None,
    ) -> None:
        store = FeatureStore(path)
        self.slide = store.slide.id
        self.features = store.features(encoder, grid)
        _check_lattice(self.features, self.slide)
        self.fingerprint = Fingerprint.of_features(self.features)
        if expect is not None:
            expect.check(self.fingerprint, slide=self.slide)
        cell = self.features.grid.cell.astype(np.int64)
        there = self.features.valid[cell[:, 0], cell[:, 1]]
        self.left_out = int((~there).sum())
        chunk = cell[there] // CHUNK_CELLS
        first = np.ones(len(chunk), np.bool_)
        first[1:] = (chunk[1:] != chunk[:-1]).any(axis=1)
        self.regions: NDArray[np.int64] = chunk[first]

    def __len__(self) -> int:
        """Patches that hold a vector."""
        return len(self.features)

    def bag(self, number: int = 0) -> Bag:
        """All patches.

        Args:
            number: What the bag calls this slide.

        Raises:
            StoreCorruptError: a vector that should be there is not finite.
        """
        rows = self.features.rows()
        return _bag(rows.vectors, rows.cell, number)

    def region(self, row: int, col: int, number: int = 0) -> Bag:
        """Patches of one region, by reading its chunk alone.

        Args:
            row: Row of the chunk, counted in chunks.
            col: Its column.
            number: What the bag calls this slide.

        Raises:
            StoreCorruptError: a vector that should be there is not finite.
        """
        corner = np.array([row, col]) * CHUNK_CELLS
        window = self.features.window(int(corner[0]), int(corner[1]), CHUNK_CELLS, CHUNK_CELLS)
        vectors = window.vectors[window.valid]
        if not np.isfinite(vectors).all():
            raise _damaged("features that are marked valid are not finite", self.slide)
        return _bag(vectors, np.argwhere(window.valid) + corner, number)

    def some(self, regions: NDArray[np.int64], number: int = 0) -> Bag:
        """Patches of some regions.

        Args:
            regions: int64 (n,), which of `regions`, increasing.
            number: What the bag calls this slide.
        """
        if len(regions) and not (np.diff(regions) > 0).all():
            raise ValueError("regions must be named in increasing order, each once")
        return join_bags([self._nothing(number), *self._each(self.regions[regions], number)])

    def _each(self, places: NDArray[np.int64], number: int) -> Iterator[Bag]:
        return (self.region(int(row), int(col), number) for row, col in places)

    def _nothing(self, number: int) -> Bag:
        empty = np.empty((0, self.features.dim), self.features.dtype)
        return _bag(empty, np.empty((0, 2), np.int64), number)


def open_case(
    paths: Sequence[Path],
    *,
    grid: str | None = None,
    encoder: str | None = None,
    expect: Fingerprint | None = None,
) -> tuple[SlideFeatures, ...]:
    """Features of all slides of a case, which must have been made alike.

    Args:
        paths: Stores, in the order in which slides are numbered.
        grid: As for `SlideFeatures`.
        encoder: Likewise.
        expect: Likewise; where it is not given, slides are held against the first.

    Raises:
        MissingStageError: no path, or a slide has no such features.
        StoreMismatchError: they were not made alike, or not as expected.
        StoreCorruptError: they are damaged.
    """
    if not paths:
        raise MissingStageError("a case needs a slide.", stage="store", hint="Name its stores.")
    slides = tuple(SlideFeatures(p, grid=grid, encoder=encoder, expect=expect) for p in paths)
    for slide in slides[1:] if expect is None else ():
        slides[0].fingerprint.check(
            slide.fingerprint,
            slide=slide.slide,
            ours=f"slide '{slides[0].slide}' of the same case",
            theirs=f"slide '{slide.slide}'",
        )
    return slides


def read_case(
    paths: Sequence[Path],
    *,
    grid: str | None = None,
    encoder: str | None = None,
    expect: Fingerprint | None = None,
) -> CaseBag:
    """All patches of all slides of a case; arguments and errors as for `open_case`."""
    slides = open_case(paths, grid=grid, encoder=encoder, expect=expect)
    return CaseBag(
        bag=join_bags([slide.bag(number) for number, slide in enumerate(slides)]),
        slides=tuple(slide.slide for slide in slides),
        left_out=tuple(slide.left_out for slide in slides),
        fingerprint=slides[0].fingerprint,
    )


def join_bags(bags: Sequence[Bag]) -> Bag:
    """Bags one after another as one; at least one, of one width.

    Slides of one width but stored as float16 and as float32 become float32, which loses nothing.
    """
    if len(bags) == 1:
        return bags[0]
    return Bag(
        torch.cat([bag.features for bag in bags]),
        torch.cat([bag.cell for bag in bags]),
        torch.cat([bag.slide for bag in bags]),
    )


def _bag(vectors: NDArray[np.floating[Any]], cell: NDArray[np.integer[Any]], number: int) -> Bag:
    return Bag(
        torch.from_numpy(vectors),
        torch.from_numpy(cell.astype(np.int64)),
        torch.full((len(vectors),), number, dtype=torch.int64),
    )


def _check_lattice(features: FeatureArray, slide: str) -> None:
    """Refuse cells outside the lattice, out of order or twice, and a width that is not said."""
    rows, cols, dim = features.shape
    stated = int(features.attributes["encoder"]["dim"])
    if dim != stated:
        raise _damaged(f"vectors have {dim} numbers, their encoder makes {stated}", slide)
    if features.valid.shape != (rows, cols) or features.grid.shape != (rows, cols):
        raise _damaged(f"the features lie on {rows} x {cols} cells, their grid on another", slide)
    cell = features.grid.cell.astype(np.int64)
    if not ((cell >= 0) & (cell < (rows, cols))).all():
        raise _damaged("a patch lies outside its lattice", slide)
    on_grid = np.zeros((rows, cols), np.bool_)
    on_grid[cell[:, 0], cell[:, 1]] = True
    if int(on_grid.sum()) < len(cell):
        raise _damaged("two patches of the grid are one cell", slide)
    chunk = cell // CHUNK_CELLS
    order = np.lexsort((cell[:, 1], cell[:, 0], chunk[:, 1], chunk[:, 0]))
    if not (np.diff(order) == 1).all():
        raise _damaged("the patches of the grid are not in the order of chunks", slide)
    if (features.valid & ~on_grid).any():
        raise _damaged("a vector belongs to no patch of the grid", slide)


def _damaged(what: str, slide: str) -> StoreCorruptError:
    return StoreCorruptError(
        f"{what}.",
        slide=slide,
        stage="store",
        hint="`wsiprep verify` says what to run again.",
    )
