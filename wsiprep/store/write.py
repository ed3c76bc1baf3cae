"""Writing into a slide's store: tissue, grids, features, each published whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from wsiprep.core.errors import MissingStageError
from wsiprep.core.types import EncoderSpec, PatchGrid, SlideInfo, TissueMask
from wsiprep.store.dense import put_array, put_scores, put_vectors
from wsiprep.store.disk import (
    files_digest,
    output_errors,
    publish_folder,
    sync_tree,
    write_whole,
)
from wsiprep.store.journal import Journal
from wsiprep.store.manifest import Manifest, Unit
from wsiprep.store.schema import (
    MAPS,
    NAMESPACE,
    TISSUE,
    WORK_FOLDER,
    features_unit,
    grid_unit,
    heat_map_unit,
    plan_to_json,
    safe_name,
)

__all__ = ["SlideStore", "fresh_folder", "write_group"]


def fresh_folder(folder: Path) -> Path:
    """Make an empty folder, whatever a killed run left there."""
    with output_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    return folder


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """Write the `zarr.json` of a group."""
    values = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    write_whole(
        folder / "zarr.json",
        json.dumps(values, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace"),
    )


class SlideStore:
    """The store of one slide, held for writing. Made by `claim.claim_store`."""

    def __init__(self, out: Path, name: str, manifest: Manifest) -> None:
        self.out = out
        self.name = name
        self.path = manifest.path
        self.manifest = manifest
        self._work = out / WORK_FOLDER / name

    @property
    def slide(self) -> SlideInfo:
        """The slide as stored, with the id that its store is called by."""
        return self.manifest.slide

    def unit(self, name: str) -> Unit | None:
        """The finished part called `name` whose files are all there, or None."""
        unit = self.manifest.units.get(name)
        if unit is None:
            return None
        for relative, (size, _) in unit.files.items():
            file = self.path / name / relative
            if not file.is_file() or file.stat().st_size != size:
                return None
        return unit

    def put_tissue(self, tissue: TissueMask, key: str, config: dict[str, Any]) -> None:
        """Publish the tissue mask.

        Args:
            tissue: The mask.
            key: Its identity.
            config: Settings it was made with.

        Raises:
            OutputError: it cannot be written.
        """
        attributes = {
            "method": tissue.method,
            "mpp": tissue.mpp,
            "key": key,
            "config": config,
            "notes": list(tissue.notes),
            # Only where there are some: else the same bytes as before they were counted.
            **({"bad_tiles": tissue.bad_tiles} if tissue.bad_tiles else {}),
        }
        with self._building(TISSUE, attributes) as group:
            for name in ("mask", "pen", "edge", "fold"):
                put_array(group, name, getattr(tissue, name).astype(np.uint8), ("y", "x"))
            put_array(group, "section", tissue.section, ("y", "x"))
        self._publish(TISSUE, key, "")

    def put_grid(
        self, name: str, grid: PatchGrid, key: str, parent: str, config: dict[str, Any]
    ) -> None:
        """Publish a grid's cells, origins, and what is known of each patch.

        Features under it are removed, unless the grid is the same to the byte.

        Args:
            name: Name of the grid.
            grid: The patches.
            key: Identity of the grid.
            parent: Key of the tissue it stands on.
            config: Settings it was made with.

        Raises:
            OutputError: it cannot be written.
        """
        unit = grid_unit(name)
        attributes = {**plan_to_json(grid), "key": key, "parent": parent, "config": config}
        with self._building(unit, attributes) as group:
            put_array(group, "cell", grid.cell, ("patch", "row_col"))
            put_array(group, "origin0_px", grid.origin0_px, ("patch", "x_y"))
            for column, values in grid.columns().items():
                put_array(group, column, values, ("patch",))
        with output_errors(self.path / unit):
            write_group(self._work / "building" / "features", {})
        self._publish(unit, key, parent, skip=("features",))

    def journal(
        self, grid: str, encoder: str, key: str, rows: int, dim: int, dtype: str
    ) -> Journal:
        """The journal of an encoder's features, resumed if it has the same key.

        Raises:
            OutputError: it cannot be written.
        """
        return Journal(self._work / grid / safe_name(encoder), key, rows, dim, dtype)

    def put_features(
        self,
        grid_name: str,
        grid: PatchGrid,
        spec: EncoderSpec,
        journal: Journal,
        key: str,
        parent: str,
        config: dict[str, Any],
        reader: str,
    ) -> None:
        """Publish a complete journal as a dense grid (rows, cols, D), and delete the journal.

        Memory: one shard, at most 128 x 128 x D values.

        Args:
            grid_name: Name of the grid.
            grid: The patches, in the order of the journal's rows.
            spec: The encoder.
            journal: All rows.
            key: Identity of the features.
            parent: Key of the grid.
            config: Settings they were made with.
            reader: Reader that gave the pixels.

        Raises:
            OutputError: it cannot be written.
        """
        if not journal.complete:
            raise ValueError("a journal that lacks rows cannot be published")
        unit = features_unit(grid_name, spec.name)
        attributes = {
            "encoder": spec.canonical(),
            "mpp": grid.plan.mpp,
            "reader": reader,
            "bad_tiles": int((~journal.ok).sum()),
            "key": key,
            "parent": parent,
            "config": config,
            "versions": {name: version(name) for name in ("wsiprep", "torch", "timm")},
        }
        vectors = journal.read()
        with self._building(unit, attributes) as group:
            put_vectors(group, grid, vectors, journal.ok)
        del vectors
        self._publish(unit, key, parent)
        journal.close()
        self.discard_journal(journal)

    def put_heat_map(
        self,
        grid_name: str,
        encoder: str,
        name: str,
        grid: PatchGrid,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        key: str,
        attributes: dict[str, Any],
    ) -> None:
        """Publish what a model said of each patch, as dense grids (texts, rows, cols).

        It is made from an encoder's features and goes when these are made anew.

        Args:
            grid_name: Name of the grid.
            encoder: Name of the encoder.
            name: Name of the heat map.
            grid: The patches.
            rows: int64 (M,), the patches that have scores.
            scores: float32 (P, M), finite, a row for each text.
            key: Its identity.
            attributes: What it is: `texts` (P of them), and who said it, as plain JSON types.

        Raises:
            MissingStageError: there are no such features.
            OutputError: it cannot be written.
        """
        parent = features_unit(grid_name, encoder)
        if parent not in self.manifest.units:
            raise MissingStageError(f"'{parent}' is not there.", slide=self.name, stage="store")
        if scores.shape != (len(attributes["texts"]), len(rows)) or not np.isfinite(scores).all():
            raise ValueError(
                f"scores {scores.shape} must be finite, a row a text, a column a patch"
            )
        unit = heat_map_unit(grid_name, encoder, name)
        parent_key = self.manifest.units[parent].key
        values = {**attributes, "key": key, "parent": parent_key}
        with self._building(unit, values) as group:
            put_scores(group, grid.shape, grid.cell[rows], scores)
        maps = self.path / parent / MAPS
        if not (maps / "zarr.json").is_file():
            write_group(maps, {})
        self._publish(unit, key, parent_key)

    def discard_journal(self, journal: Journal) -> None:
        """Delete a journal."""
        shutil.rmtree(journal.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a killed run left: half-built parts, trash, journals of finished parts.

        A journal of a part that is on the list is over: to overwrite a part takes it off first.
        """
        if not self._work.is_dir():
            return
        for left in [self._work / "building", self._work / "root", *self._work.glob(".trash-*")]:
            shutil.rmtree(left, ignore_errors=True)
        for unit in self.manifest.units:
            if unit.count("/") == 3:
                _, grid, _, encoder = unit.split("/")
                shutil.rmtree(self._work / grid / encoder, ignore_errors=True)
        for folder in [*self._work.iterdir(), self._work]:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    @contextmanager
    def _building(self, unit: str, attributes: dict[str, Any]) -> Iterator[zarr.Group]:
        folder = fresh_folder(self._work / "building")
        with output_errors(folder):
            yield zarr.create_group(LocalStore(folder), attributes={NAMESPACE: attributes})

    def _publish(self, unit: str, key: str, parent: str, skip: tuple[str, ...] = ()) -> None:
        ready = self._work / "building"
        with output_errors(self.path / unit):
            files = files_digest(ready, skip)
            if self.manifest.units.get(unit) == Unit(key, parent, files):
                self._heal(ready, self.path / unit, files)
                return
            for other in [u for u in self.manifest.units if u.startswith(unit + "/")]:
                self.forget(other)
            self.forget(unit)
            publish_folder(ready, self.path / unit)
            self._note(unit, Unit(key, parent, files))

    def _heal(self, ready: Path, final: Path, files: Iterable[str]) -> None:
        """Replace the files of a part by the same content, one by one: it is whole throughout.

        What stands on the part, as features on a grid, stays.
        """
        sync_tree(ready)
        for name in files:
            (final / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(ready / name, final / name)
        sync_tree(final)

    def forget(self, unit: str) -> None:
        """Take a part off the list of finished ones, as is done before its files change."""
        if unit in self.manifest.units:
            left = {name: u for name, u in self.manifest.units.items() if name != unit}
            self.manifest = replace(self.manifest, units=left)
            self.manifest.write()

    def _note(self, name: str, unit: Unit) -> None:
        self.manifest = replace(self.manifest, units={**self.manifest.units, name: unit})
        self.manifest.write()
