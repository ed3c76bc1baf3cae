"""Reading a slide's store: rows, windows, masks, without loading the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from wsiprep.core.errors import MissingStageError, StoreCorruptError
from wsiprep.core.types import PatchGrid, SlideInfo, TissueMask
from wsiprep.store.manifest import Manifest
from wsiprep.store.schema import (
    MAPS,
    NAMESPACE,
    SHARD_CELLS,
    TISSUE,
    grid_unit,
    plan_from_json,
    safe_name,
)

if TYPE_CHECKING:
    import dask.array
    import torch

T = TypeVar("T")

__all__ = ["FeatureArray", "FeatureRows", "FeatureStore", "FeatureWindow", "HeatMap"]


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


@dataclass(frozen=True, slots=True)
class HeatMap:
    """How well each cell fits each of some texts, as a model says.

    Attributes:
        texts: P texts.
        scores: float32 (P, rows, cols), raw; NaN where there is no vector.
        attributes: Which model, and how; see docs/store.md.
    """

    texts: tuple[str, ...]
    scores: NDArray[np.float32]
    attributes: dict[str, Any]


class FeatureStore:
    """A slide's store, open for reading.

    Args:
        path: `<slide>.zarr`.

    Raises:
        StoreCorruptError: not a wsiprep store.
        StoreMismatchError: another format number.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._manifest = Manifest.read(self.path)
        self._root = zarr.open_group(LocalStore(self.path, read_only=True), mode="r")

    def __repr__(self) -> str:
        return f"FeatureStore({self.slide.id!r}, grids={self.grids})"

    @property
    def slide(self) -> SlideInfo:
        """The slide's facts."""
        return self._manifest.slide

    @property
    def has_tissue(self) -> bool:
        """Whether tissue detection has finished for this slide (it may have found none)."""
        return TISSUE in self._manifest.units

    @property
    def grids(self) -> list[str]:
        """Names of the finished grids."""
        return [u.split("/")[1] for u in self._manifest.units if u.count("/") == 1]

    def encoders(self, grid: str | None = None) -> list[str]:
        """Names of the encoders whose features of a grid are finished."""
        prefix = f"{grid_unit(self._grid_name(grid))}/features/"
        below = [u.removeprefix(prefix) for u in self._manifest.units if u.startswith(prefix)]
        return [name for name in below if "/" not in name]

    def attributes(self, unit: str) -> dict[str, Any]:
        """Attributes of a finished part, e.g. `tissue` or `grids/<grid>/features/<encoder>`.

        Raises:
            MissingStageError: it is not finished.
            StoreCorruptError: files of it are missing.
        """
        self._check(unit)
        values: Any = _damage(self.path, lambda: self._group(unit).attrs.asdict()[NAMESPACE])
        return dict(values)

    def tissue(self) -> TissueMask:
        """The tissue mask.

        Raises:
            MissingStageError: tissue detection has not run.
            StoreCorruptError: files of it are missing or damaged.
        """
        values = self.attributes(TISSUE)
        group = self._group(TISSUE)

        def load(*names: str) -> dict[str, Any]:
            return _load_known(group, names, self.path)

        return _damage(
            self.path,
            lambda: TissueMask(
                mask=_load(group, "mask", self.path).astype(np.bool_),
                pen=_load(group, "pen", self.path).astype(np.bool_),
                mpp=values["mpp"],
                size0=self.slide.size0,
                method=values["method"],
                notes=tuple(values["notes"]),
                **{name: mask.astype(np.bool_) for name, mask in load("edge", "fold").items()},
                **load("section"),
            ),
        )

    def grid(self, name: str | None = None) -> PatchGrid:
        """A grid; the only one if no name is given.

        Raises:
            MissingStageError: no such grid; the message lists those there are.
            StoreCorruptError: files of it are missing or damaged.
        """
        unit = grid_unit(self._grid_name(name))
        values = self.attributes(unit)
        group = self._group(unit)
        return _damage(
            self.path,
            lambda: PatchGrid(
                plan=plan_from_json(values),
                stride_px=values["stride_px"],
                stride0_px=values["stride0_px"],
                shape=(values["shape"][0], values["shape"][1]),
                cell=_load(group, "cell", self.path),
                origin0_px=_load(group, "origin0_px", self.path),
                tissue=_load(group, "tissue", self.path),
                **_load_known(group, ("section", "pen", "edge", "fold", "focus"), self.path),
            ),
        )

    def features(self, encoder: str | None = None, grid: str | None = None) -> FeatureArray:
        """Features of a grid by an encoder; each may be left out where there is only one.

        Raises:
            MissingStageError: there are none; the message says what to run.
            StoreCorruptError: files of them are missing.
        """
        grid = self._grid_name(grid)
        unit = f"{grid_unit(grid)}/features/{self._encoder_name(encoder, grid)}"
        return FeatureArray(self.attributes(unit), self._group(unit), self.grid(grid), self.path)

    def heat_maps(self, encoder: str | None = None, grid: str | None = None) -> list[str]:
        """Names of the heat maps made from features; each may be left out where there is one."""
        grid = self._grid_name(grid)
        prefix = f"{grid_unit(grid)}/features/{self._encoder_name(encoder, grid)}/{MAPS}/"
        return [u.removeprefix(prefix) for u in self._manifest.units if u.startswith(prefix)]

    def heat_map(
        self, name: str | None = None, encoder: str | None = None, grid: str | None = None
    ) -> HeatMap:
        """What `wsiprep ground` said of each cell; each may be left out where there is only one.

        Raises:
            MissingStageError: there is none; the message lists those there are.
            StoreCorruptError: files of it are missing or damaged.
        """
        grid = self._grid_name(grid)
        encoder = self._encoder_name(encoder, grid)
        known = self.heat_maps(encoder, grid)
        if name is None:
            name = self._only(known, "heat map", f"`wsiprep ground {self.path} …`")
        if safe_name(name) not in known:
            raise MissingStageError(
                f"there is no heat map '{name}'.",
                slide=self.slide.id,
                stage="store",
                hint=f"There are: {', '.join(known) or 'none'}.",
            )
        unit = f"{grid_unit(grid)}/features/{encoder}/{MAPS}/{safe_name(name)}"
        values = self.attributes(unit)
        scores = _load(self._group(unit), "scores", self.path)
        return HeatMap(tuple(values["texts"]), scores, values)

    def _encoder_name(self, encoder: str | None, grid: str) -> str:
        known = self.encoders(grid)
        if encoder is None:
            return self._only(known, "features", f"`wsiprep embed {self.slide.uri} …`")
        name = safe_name(encoder)
        if name not in known:
            raise MissingStageError(
                f"there are no features of '{encoder}' on grid '{grid}'.",
                slide=self.slide.id,
                stage="store",
                hint=f"There are: {', '.join(known) or 'none'}.",
            )
        return name

    def _grid_name(self, name: str | None) -> str:
        if name is None:
            return self._only(self.grids, "grid", f"`wsiprep coords {self.slide.uri} …`")
        if name not in self.grids:
            raise MissingStageError(
                f"there is no grid '{name}'.",
                slide=self.slide.id,
                stage="store",
                hint=f"There are: {', '.join(self.grids) or 'none'}.",
            )
        return name

    def _only(self, names: list[str], what: str, command: str) -> str:
        if len(names) == 1:
            return names[0]
        if not names:
            raise MissingStageError(
                f"there is no {what} yet.",
                slide=self.slide.id,
                stage="store",
                hint=f"Run {command}.",
            )
        raise MissingStageError(
            f"there is more than one {what}; name it.",
            slide=self.slide.id,
            stage="store",
            hint=f"There are: {', '.join(names)}.",
        )

    def _check(self, unit: str) -> None:
        """Refuse a part that is not finished or lacks files: Zarr would give fill values."""
        entry = self._manifest.units.get(unit)
        if entry is None:
            raise MissingStageError(
                f"'{unit}' is not there.",
                slide=self.slide.id,
                stage="store",
                hint="Run that stage.",
            )
        for relative, (size, _) in entry.files.items():
            file = self.path / unit / relative
            if not file.is_file() or file.stat().st_size != size:
                raise StoreCorruptError(
                    f"{file} is missing or has another length.",
                    slide=self.slide.id,
                    stage="store",
                    hint="`wsiprep verify` says what to run again.",
                )

    def _group(self, unit: str) -> zarr.Group:
        group = self._root[unit]
        if not isinstance(group, zarr.Group):
            raise StoreCorruptError(f"{unit} is not a group.", slide=self.slide.id, stage="store")
        return group


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
        self._values = _array(group, "values")
        self._valid: NDArray[np.bool_] = _load(group, "valid", path).astype(np.bool_)

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

        Memory: the result and one shard.

        Raises:
            StoreCorruptError: a vector that should be there is not finite.
        """
        every = np.arange(len(self.grid))[start:stop]
        cell = self.grid.cell[every]
        every = every[self._valid[cell[:, 0], cell[:, 1]]]
        cell = self.grid.cell[every]
        vectors = np.empty((len(every), self.dim), self.dtype)
        shard = cell // SHARD_CELLS
        for place in np.unique(shard, axis=0):
            member = np.flatnonzero((shard == place).all(axis=1))
            low = cell[member].min(axis=0)
            high = cell[member].max(axis=0) + 1
            block = self._read(slice(low[0], high[0]), slice(low[1], high[1]))
            at = cell[member] - low
            vectors[member] = block[at[:, 0], at[:, 1]]
        if not np.isfinite(vectors).all():
            raise StoreCorruptError(
                "features that are marked valid are missing from their chunk.",
                slide=self._path.stem,
                stage="store",
                hint="`wsiprep verify` says what to run again.",
            )
        columns = {name: column[every] for name, column in self.grid.columns().items()}
        return FeatureRows(vectors, cell, self.grid.origin0_px[every], **columns)

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
        return _damage(self._path, lambda: np.asarray(self._values[rows, cols]))


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise StoreCorruptError(f"{name} is not an array.", stage="store")
    return array


def _load(group: zarr.Group, name: str, path: Path) -> NDArray[Any]:
    return _damage(path, lambda: np.asarray(_array(group, name)[...]))


def _load_known(group: zarr.Group, names: tuple[str, ...], path: Path) -> dict[str, Any]:
    """Arrays that parts written in format 1 do not have, where they are."""
    return {name: _load(group, name, path) for name in names if name in group}


def _damage(path: Path, read: Callable[[], T]) -> T:
    """Turn what Zarr and its codecs raise on damaged bytes into one error of ours."""
    try:
        return read()
    except StoreCorruptError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as err:
        raise StoreCorruptError(
            f"stored content does not decode: {err}.",
            slide=path.stem,
            stage="store",
            hint="`wsiprep verify` says what to run again.",
        ) from err
