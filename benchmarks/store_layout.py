"""What does the dense, sharded, journaled store cost against the files that everyone writes?

Features of a slide (float16, 1280 numbers a patch, normal noise, which no codec shrinks much; an
ellipse of tissue over half of the lattice) arrive in batches of 64 rows and are written and read
back in four layouts. MB are those of the vectors, whatever is on disk.

wsiprep      journal, then the dense grid published whole: CRC of every batch, fsync, digests
h5py rows    (N, D) dataset that grows by a batch at a time, and coordinates; no fsync
np.save      kept in memory, saved once at the end, and coordinates; no fsync
zarr rows    (N, D) array in chunks of 1024 rows, appended to by a batch at a time; no fsync

Rows of the flat layouts run row by row over the slide, as the field writes them. Reading is from
the page cache: all rows with opening, and windows of 16 x 16 cells from an open file. Flat layouts
find a window's rows through the coordinates, which are read beforehand.

    python benchmarks/store_layout.py [--quick] [--repeats N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from harness import Case, Done, compare, options

from wsiprep.core.types import Box, EncoderSpec, PatchGrid, ReadPlan, Size, SlideInfo, TissueMask
from wsiprep.grid.build import cell_origins, chunk_order
from wsiprep.store import FeatureStore, claim_store

BATCH, WINDOW, DIM = 64, 16, 1280


class Features:
    """Made-up features of a slide: a grid, and its vectors in the order of the grid."""

    def __init__(self, rows: int, cols: int) -> None:
        y, x = np.mgrid[:rows, :cols]
        inside = ((y + 0.5) / rows - 0.5) ** 2 + ((x + 0.5) / cols - 0.5) ** 2 < 0.16
        cell = np.argwhere(inside).astype(np.int32)
        cell = cell[chunk_order(cell)]
        plan = ReadPlan(0, 256, 1.0, 256, 256.0, 0.5, 0.5, "native")
        share = np.ones(len(cell), np.float32)
        self.grid = PatchGrid(plan, 256, 256.0, (rows, cols), cell, cell_origins(cell, 256), share)
        rng = np.random.default_rng(1)
        self.vectors = rng.standard_normal((len(cell), DIM), np.float32).astype(np.float16)
        size = Size(cols * 256, rows * 256)
        self.info = SlideInfo(
            id="slide", uri="slide.svs", reader="none", reader_reason="made up", vendor=None,
            size0=size, mpp=0.5, mpp_source="metadata", objective=20, downsamples=(1.0,),
            level_sizes=(size,), bounds0=Box(0, 0, size.width, size.height), fingerprint="0" * 64,
        )  # fmt: skip
        self.tissue = TissueMask(inside, np.zeros_like(inside), 128.0, size, "made up")

    @property
    def megabytes(self) -> float:
        """Size of the vectors."""
        return self.vectors.nbytes / 1e6

    def batches(self) -> Iterator[slice]:
        """Rows of each batch."""
        for start in range(0, len(self.vectors), BATCH):
            yield slice(start, start + BATCH)

    def windows(self) -> list[tuple[int, int]]:
        """Corners (row, col) of whole windows that hold tissue; at most 32 of them."""
        corner = self.grid.cell // WINDOW
        corners = np.unique(corner, axis=0) * WINDOW
        return [(int(r), int(c)) for r, c in corners[:: -(-len(corners) // 32)]]


class Layout:
    """A way to keep features; `open` gives an object that windows are read from."""

    name: str

    def __init__(self, features: Features) -> None:
        self.features = features
        self.vectors = features.vectors  # in the order that `rows` gives them

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write all features, batch by batch."""

    @abstractmethod
    def rows(self, folder: Path) -> np.ndarray:
        """Open, and read all vectors (N, D)."""

    @abstractmethod
    @contextmanager
    def window_reader(self, folder: Path) -> Iterator[Callable[[int, int], np.ndarray]]:
        """Yield a function from the corner of a window to (16, 16, D), NaN where nothing is."""


class Ours(Layout):
    """The store of wsiprep."""

    name = "wsiprep"

    def write(self, folder: Path) -> None:
        """Everything that a run writes into the store, tissue and grid included."""
        f = self.features
        spec = EncoderSpec("noise", DIM, None, (0.0,) * 3, (1.0,) * 3, weights="none")
        with claim_store(folder, f.info) as store:
            store.put_tissue(f.tissue, "tissue", {})
            store.put_grid("grid", f.grid, "grid", "tissue", {})
            journal = store.journal("grid", "noise", "key", *f.vectors.shape, "float16")
            for rows in f.batches():
                batch = f.vectors[rows]
                journal.append(rows.start, batch, np.ones(len(batch), np.bool_))
            store.put_features("grid", f.grid, spec, journal, "key", "grid", {}, "none")

    def rows(self, folder: Path) -> np.ndarray:
        """Through `FeatureStore`, in the order of the grid."""
        return FeatureStore(folder / "slide.zarr").features().rows().vectors

    @contextmanager
    def window_reader(self, folder: Path) -> Iterator[Callable[[int, int], np.ndarray]]:
        """One chunk a window."""
        features = FeatureStore(folder / "slide.zarr").features()
        yield lambda row, col: features.window(row, col, WINDOW, WINDOW).vectors


class Flat(Layout):
    """Rows and coordinates in two arrays; a window is looked up."""

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        order = np.lexsort((features.grid.cell[:, 1], features.grid.cell[:, 0]))
        self.coords = features.grid.origin0_px[order]
        self.vectors = features.vectors[order]

    def lookup(
        self, coords: np.ndarray, take: Callable[[np.ndarray], np.ndarray]
    ) -> Callable[[int, int], np.ndarray]:
        """Reader of windows from a function that takes rows."""
        cell = coords[:, ::-1] // 256

        def window(row: int, col: int) -> np.ndarray:
            out = np.full((WINDOW, WINDOW, DIM), np.nan, np.float16)
            at = cell - (row, col)
            found = np.flatnonzero(((at >= 0) & (at < WINDOW)).all(axis=1))
            out[at[found, 0], at[found, 1]] = take(found)
            return out

        return window


class H5Rows(Flat):
    """One HDF5 file."""

    name = "h5py rows"

    def write(self, folder: Path) -> None:
        """Resize, then write the batch."""
        with h5py.File(folder / "slide.h5", "w") as file:
            coords = file.create_dataset("coords", (0, 2), np.int64, maxshape=(None, 2))
            out = file.create_dataset("features", (0, DIM), np.float16, maxshape=(None, DIM))
            for rows in self.features.batches():
                batch = self.vectors[rows]
                for data, new in ((out, batch), (coords, self.coords[rows])):
                    data.resize(rows.start + len(batch), axis=0)
                    data[rows.start :] = new

    def rows(self, folder: Path) -> np.ndarray:
        """The whole dataset."""
        with h5py.File(folder / "slide.h5") as file:
            return file["features"][:]

    @contextmanager
    def window_reader(self, folder: Path) -> Iterator[Callable[[int, int], np.ndarray]]:
        """A selection of rows."""
        with h5py.File(folder / "slide.h5") as file:
            data = file["features"]
            yield self.lookup(file["coords"][:], lambda rows: data[rows])


class NumpyRows(Flat):
    """Two .npy files."""

    name = "np.save"

    def write(self, folder: Path) -> None:
        """Collect, concatenate, save."""
        kept = [self.vectors[rows].copy() for rows in self.features.batches()]
        np.save(folder / "features.npy", np.concatenate(kept))
        np.save(folder / "coords.npy", self.coords)

    def rows(self, folder: Path) -> np.ndarray:
        """The whole file."""
        return np.load(folder / "features.npy")

    @contextmanager
    def window_reader(self, folder: Path) -> Iterator[Callable[[int, int], np.ndarray]]:
        """A selection of rows of the mapped file."""
        data = np.load(folder / "features.npy", mmap_mode="r")
        yield self.lookup(np.load(folder / "coords.npy"), lambda rows: data[rows])


class ZarrRows(Flat):
    """A Zarr group with two arrays."""

    name = "zarr rows"

    def write(self, folder: Path) -> None:
        """Append a batch to chunks that are larger: each is read, decoded and written again."""
        group = zarr.create_group(folder / "slide.zarr")
        out = group.create_array("features", shape=(0, DIM), chunks=(1024, DIM), dtype="float16")
        coords = group.create_array("coords", shape=(0, 2), chunks=(1024, 2), dtype="int64")
        for rows in self.features.batches():
            out.append(self.vectors[rows])
            coords.append(self.coords[rows])

    def rows(self, folder: Path) -> np.ndarray:
        """The whole array."""
        return zarr.open_group(folder / "slide.zarr", mode="r")["features"][:]

    @contextmanager
    def window_reader(self, folder: Path) -> Iterator[Callable[[int, int], np.ndarray]]:
        """A selection of rows: every chunk that holds one is decoded."""
        group = zarr.open_group(folder / "slide.zarr", mode="r")
        data = group["features"]
        yield self.lookup(group["coords"][:], lambda rows: data.oindex[rows])


@contextmanager
def fresh() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def write_case(layout: Layout) -> Case:
    def run(folder: Path) -> Done:
        layout.write(folder)
        # A lock of no bytes stays beside our stores; it is not part of the layout.
        files = [p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.stat().st_size]
        facts = {"files": len(files), "MB on disk": sum(files) / 1e6}
        return Done(layout.features.megabytes, facts)

    return Case(layout.name, {}, "MB", fresh, run)


def rows_case(layout: Layout, folder: Path) -> Case:
    def run(_: Any) -> Done:
        return Done(layout.rows(folder).nbytes / 1e6)

    return Case(layout.name, {}, "MB", nullcontext, run)


def window_case(layout: Layout, folder: Path) -> Case:
    corners = layout.features.windows()

    def run(read: Callable[[int, int], np.ndarray]) -> Done:
        for row, col in corners:
            read(row, col)
        return Done(len(corners))

    return Case(layout.name, {}, "windows", partial(layout.window_reader, folder), run)


def check_equal(layouts: list[Layout], folders: list[Path]) -> None:
    """Refuse to compare layouts that do not give the same."""
    with ExitStack() as stack:
        readers = []
        for layout, folder in zip(layouts, folders, strict=True):
            assert np.array_equal(layout.rows(folder), layout.vectors)
            readers.append(stack.enter_context(layout.window_reader(folder)))
        for corner in layouts[0].features.windows():
            for read in readers[1:]:
                assert np.array_equal(readers[0](*corner), read(*corner), equal_nan=True)


def main(argv: list[str] | None = None) -> None:
    opts = options(__doc__, argv)
    against = (H5Rows.name, NumpyRows.name)
    for rows, cols in ((20, 30),) if opts.quick else ((80, 120), (200, 200)):
        features = Features(rows, cols)
        layouts: list[Layout] = [kind(features) for kind in (Ours, H5Rows, NumpyRows, ZarrRows)]
        what = f"a grid of {rows} x {cols} cells, {len(features.grid):,} patches"
        compare(f"Writing {what}", [write_case(layout) for layout in layouts], against, opts)
        with ExitStack() as stack:
            folders = [stack.enter_context(fresh()) for _ in layouts]
            for layout, folder in zip(layouts, folders, strict=True):
                layout.write(folder)
            check_equal(layouts, folders)
            for verb, case in (("all rows", rows_case), ("windows of 16 x 16", window_case)):
                cases = [case(layout, f) for layout, f in zip(layouts, folders, strict=True)]
                compare(f"Reading {verb} of {what}", cases, against, opts)


if __name__ == "__main__":
    main()
