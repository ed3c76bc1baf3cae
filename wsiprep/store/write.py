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
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from wsiprep.core.errors import MissingStageError
from wsiprep.core.types import CHUNK_CELLS, EncoderSpec, PatchGrid, SlideInfo, TissueMask
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
    SHARD_CELLS,
    TISSUE,
    WORK_FOLDER,
    features_unit,
    grid_unit,
    heat_map_unit,
    plan_to_json,
    safe_name,
)

__all__ = ["SlideStore", "fresh_folder", "write_group"]

ALWAYS_WRITTEN = frozenset({"mask", "pen", "cell", "origin0_px", "tissue", "valid"})
"""Arrays of format 1, whose chunk is there even if it is all zero."""


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
        }
        with self._building(TISSUE, attributes) as group:
            for name in ("mask", "pen", "edge", "fold"):
                _put_array(group, name, getattr(tissue, name).astype(np.uint8), ("y", "x"))
            _put_array(group, "section", tissue.section, ("y", "x"))
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
            _put_array(group, "cell", grid.cell, ("patch", "row_col"))
            _put_array(group, "origin0_px", grid.origin0_px, ("patch", "x_y"))
            for column, values in grid.columns().items():
                _put_array(group, column, values, ("patch",))
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
        rows, cols = grid.shape
        tall, wide = (min(SHARD_CELLS, -(-n // CHUNK_CELLS) * CHUNK_CELLS) for n in grid.shape)
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
        dim = vectors.shape[1]
        with self._building(unit, attributes) as group:
            values = group.create_array(
                "values",
                shape=(rows, cols, dim),
                chunks=(CHUNK_CELLS, CHUNK_CELLS, dim),
                shards=(tall, wide, dim),
                dtype=journal.dtype,
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
                    block = np.full(
                        (min(tall, rows - r * tall), min(wide, cols - c * wide), dim),
                        np.nan,
                        journal.dtype,
                    )
                    good = member[journal.ok[member]]
                    at = grid.cell[good] - np.array([r * tall, c * wide], np.int32)
                    block[at[:, 0], at[:, 1]] = vectors[good]
                    values[
                        r * tall : r * tall + block.shape[0], c * wide : c * wide + block.shape[1]
                    ] = block
            valid = np.zeros((rows, cols), np.uint8)
            good_cells = grid.cell[journal.ok]
            valid[good_cells[:, 0], good_cells[:, 1]] = 1
            _put_array(group, "valid", valid, ("row", "col"))
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
        cell = grid.cell[rows]
        with self._building(unit, values) as group:
            array = group.create_array(
                "scores",
                shape=(len(scores), *grid.shape),
                chunks=(1, *(min(SHARD_CELLS, max(1, n)) for n in grid.shape)),
                dtype=np.float32,
                compressors=[ZstdCodec(level=3, checksum=True)],
                fill_value=float("nan"),
                dimension_names=("text", "row", "col"),
                config={"write_empty_chunks": False},
            )
            for number, row in enumerate(scores):
                dense = np.full(grid.shape, np.nan, np.float32)
                dense[cell[:, 0], cell[:, 1]] = row
                array[number] = dense
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


def _put_array(
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
