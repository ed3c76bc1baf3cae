"""Reading a slide's store: what is in it, and each finished part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from wsiprep.core.errors import AmbiguousStageError, MissingStageError, StoreCorruptError
from wsiprep.core.types import PatchGrid, SlideInfo, TissueMask
from wsiprep.store.arrays import decoded, load, load_known
from wsiprep.store.features import FeatureArray
from wsiprep.store.manifest import Manifest
from wsiprep.store.schema import (
    MAPS,
    NAMESPACE,
    TISSUE,
    grid_unit,
    plan_from_json,
    safe_name,
)

__all__ = ["FeatureArray", "FeatureStore", "HeatMap"]


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

    @property
    def has_features(self) -> bool:
        """Whether there are finished features on some grid (they may hold no vector)."""
        return any(self.encoders(grid) for grid in self.grids)

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
        values: Any = decoded(self.path, lambda: self._group(unit).attrs.asdict()[NAMESPACE])
        return dict(values)

    def tissue(self) -> TissueMask:
        """The tissue mask.

        Raises:
            MissingStageError: tissue detection has not run.
            StoreCorruptError: files of it are missing or damaged.
        """
        values = self.attributes(TISSUE)
        group = self._group(TISSUE)

        return decoded(
            self.path,
            lambda: TissueMask(
                mask=load(group, "mask", self.path).astype(np.bool_),
                pen=load(group, "pen", self.path).astype(np.bool_),
                mpp=values["mpp"],
                size0=self.slide.size0,
                method=values["method"],
                notes=tuple(values["notes"]),
                bad_tiles=values.get("bad_tiles", 0),
                **{
                    name: mask.astype(np.bool_)
                    for name, mask in load_known(group, ("edge", "fold"), self.path).items()
                },
                **load_known(group, ("section",), self.path),
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
        return decoded(
            self.path,
            lambda: PatchGrid(
                plan=plan_from_json(values),
                stride_px=values["stride_px"],
                stride0_px=values["stride0_px"],
                shape=(values["shape"][0], values["shape"][1]),
                cell=load(group, "cell", self.path),
                origin0_px=load(group, "origin0_px", self.path),
                tissue=load(group, "tissue", self.path),
                **load_known(group, ("section", "pen", "edge", "fold", "focus"), self.path),
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
            raise self._missing(f"there is no heat map '{name}'.", known)
        unit = f"{grid_unit(grid)}/features/{encoder}/{MAPS}/{safe_name(name)}"
        values = self.attributes(unit)
        scores = load(self._group(unit), "scores", self.path)
        return HeatMap(tuple(values["texts"]), scores, values)

    def _encoder_name(self, encoder: str | None, grid: str) -> str:
        known = self.encoders(grid)
        if encoder is None:
            return self._only(known, "features", f"`wsiprep embed {self.slide.uri} …`")
        name = safe_name(encoder)
        if name not in known:
            raise self._missing(f"there are no features of '{encoder}' on grid '{grid}'.", known)
        return name

    def _grid_name(self, name: str | None) -> str:
        if name is None:
            return self._only(self.grids, "grid", f"`wsiprep coords {self.slide.uri} …`")
        if name not in self.grids:
            raise self._missing(f"there is no grid '{name}'.", self.grids)
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
        raise AmbiguousStageError(
            f"there is more than one {what}; name it.",
            slide=self.slide.id,
            stage="store",
            hint=_listed(names),
        )

    def _missing(self, problem: str, known: list[str]) -> MissingStageError:
        return MissingStageError(problem, slide=self.slide.id, stage="store", hint=_listed(known))

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


def _listed(names: list[str]) -> str:
    return f"There are: {', '.join(names) or 'none'}."
