"""From stores to bags: patches of a case, slide by slide, region by region.

Where patches lie is known once a store is open; of the vectors only the chunks are read that hold
patches asked for. A region is such a chunk, 16 x 16 cells: regions that are drawn are read, and
nothing else of the slide. Patches that could not be read when the slide was embedded hold no
vector; they are left out and counted.

What is checked: that features were made as expected (`Fingerprint`), that their width is that of
their encoder, that cells lie inside the lattice, in the store's order and each once, and that
every vector marked valid is finite. A patch off its lattice cannot be: a store keeps rows and
columns, and places in pixels follow from them (`PatchGrid`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsiprep.core.errors import MissingStageError, StoreCorruptError
from wsiprep.core.types import CHUNK_CELLS
from wsiprep.models.bags import Bag
from wsiprep.store.read import FeatureArray, FeatureStore
from wsiprep.train.language.fingerprint import Fingerprint

__all__ = [
    "CaseBag",
    "CasePatches",
    "SlideFeatures",
    "check_alike",
    "join_bags",
    "open_case",
    "read_case",
]


@dataclass(frozen=True, slots=True, eq=False)
class CaseBag:
    """Patches of a case, and which were left out.

    Attributes:
        bag: All patches that hold a vector; float16 where the store has float16.
        slides: Slide ids, in order of the number that the bag gives them.
        left_out: For each slide, patches of its grid that hold no vector.
        fingerprint: What the features were made with (of the first slide that has any).
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
        cell: int32 (N, 2), row and column of the patches that hold a vector, in the store's order.
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
        cell = self.features.grid.cell
        there = self.features.valid[cell[:, 0], cell[:, 1]]
        self.left_out = int((~there).sum())
        self.cell: NDArray[np.int32] = cell if there.all() else cell[there]

    def __len__(self) -> int:
        """Patches that hold a vector."""
        return len(self.cell)

    def bag(self, number: int = 0) -> Bag:
        """All patches.

        Args:
            number: What the bag calls this slide.

        Raises:
            StoreCorruptError: a vector that should be there is not finite.
        """
        return self.take(np.arange(len(self)), number)

    def take(self, rows: NDArray[np.int64], number: int = 0) -> Bag:
        """Some patches, by reading the chunks that hold them and no other.

        Args:
            rows: int64 (n,), which of `cell`, increasing.
            number: What the bag calls this slide.

        Raises:
            StoreCorruptError: a vector that should be there is not finite.
        """
        cell = self.cell[rows]
        return Bag(
            torch.from_numpy(self.features.vectors(cell)),
            torch.from_numpy(cell.astype(np.int64)),
            torch.full((len(cell),), number, dtype=torch.int64),
        )


class CasePatches:
    """Patches of all slides of a case, of which vectors are read when they are taken.

    Args:
        slides: Open; one at least, in order of their numbers.

    Attributes:
        cell: int64 (N, 2), row and column in the lattice of the slide.
        slide: int64 (N,), number of the slide within the case.
    """

    def __init__(self, slides: Sequence[SlideFeatures]) -> None:
        self._slides = tuple(slides)
        self._counts = [len(one) for one in self._slides]
        cell = np.concatenate([one.cell for one in self._slides]).astype(np.int64)
        self.cell = torch.from_numpy(cell)
        self.slide = torch.repeat_interleave(
            torch.arange(len(self._slides)), torch.tensor(self._counts)
        )

    def __len__(self) -> int:
        """Patches that hold a vector."""
        return len(self.cell)

    def take(self, rows: Tensor) -> Bag:
        """Some of them, read.

        Args:
            rows: int64 (n,), increasing.

        Raises:
            StoreCorruptError: a vector that should be there is not finite.
        """
        many = torch.bincount(self.slide[rows], minlength=len(self._slides)).tolist()
        before = [0, *accumulate(self._counts)]
        return join_bags([
            one.take((own - first).numpy(), number)
            for number, (one, own, first) in enumerate(
                zip(self._slides, torch.split(rows, many), before, strict=False)
            )
        ])  # fmt: skip


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
        expect: Likewise; where it is not given, slides are held against the first that has vectors.

    Raises:
        MissingStageError: no path, or a slide has no such features.
        StoreMismatchError: they were not made alike, or not as expected.
        StoreCorruptError: they are damaged.
    """
    if not paths:
        raise MissingStageError("a case needs a slide.", stage="store", hint="Name its stores.")
    slides = tuple(SlideFeatures(p, grid=grid, encoder=encoder, expect=expect) for p in paths)
    if expect is None:
        check_alike(slides)
    return slides


def check_alike(slides: Iterable[SlideFeatures]) -> Fingerprint:
    """Refuse slides whose features were not made alike.

    Args:
        slides: One at least.

    Returns:
        What they were made with: of the first that has vectors, if one has.

    Raises:
        StoreMismatchError: names both slides, and what differs.
    """
    every = tuple(slides)
    first = _first_with_vectors(every)
    for slide in every:
        first.fingerprint.check(
            slide.fingerprint,
            slide=slide.slide,
            ours=f"slide '{first.slide}'",
            theirs=f"slide '{slide.slide}'",
        )
    return first.fingerprint


def _first_with_vectors(slides: Sequence[SlideFeatures]) -> SlideFeatures:
    return next((slide for slide in slides if len(slide)), slides[0])


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
        fingerprint=_first_with_vectors(slides).fingerprint,
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
