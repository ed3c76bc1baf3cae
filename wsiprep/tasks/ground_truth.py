"""What is true of where findings are: rows of a CSV, held against the patches of a slide."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import ManifestError, TissueInputError
from wsiprep.core.types import PatchGrid, SlideInfo
from wsiprep.grid.shares import area_share
from wsiprep.metrics.grounding import cells_inside
from wsiprep.tissue.given import given_digest, given_tissue
from wsiprep.train.language.stores import StoreFolder

__all__ = ["TruthRow", "inside_of", "read_truth"]

NEEDED: Final = ("slide", "text", "reference")
OPTIONAL: Final = ("class", "patient_id", "task")
PIXELS_A_PATCH: Final = 16
"""Along each side, at which polygons are filled: shares are known to half a percent."""


@dataclass(frozen=True, slots=True)
class TruthRow:
    """Where on a slide a text is right.

    Attributes:
        store: Of the slide.
        text: What is to be found.
        reference: GeoJSON, mask image, or .npy of the lattice.
        class_name: Class of the GeoJSON features that count; all without it.
        patient_id: The patient; by its TCGA barcode or else the slide itself without one.
        task: Kind of finding; results are given by task.
    """

    store: Path
    text: str
    reference: Path
    class_name: str = ""
    patient_id: str = ""
    task: str = ""

    def canonical(self) -> dict[str, Any]:
        """What it says, as plain JSON types: with the content of the reference, not its path."""
        values = asdict(self)
        sha256 = given_digest(self.reference, self.store.stem)
        return {**values, "store": self.store.stem, "reference": sha256}


def read_truth(path: Path, stores: Path | None) -> list[TruthRow]:
    """Read the CSV; relative paths in it are from its own folder.

    Args:
        path: The CSV.
        stores: Folder of stores, for slides that are named by id.

    Raises:
        ManifestError: it cannot be read or used; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise ManifestError(f"{path} cannot be read: {err}.") from err
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    columns = reader.fieldnames or []
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise ManifestError(
            f"{path} lacks the column {', '.join(missing)}.",
            hint=f"Its first line names {', '.join(NEEDED)}, and perhaps {', '.join(OPTIONAL)}.",
        )
    folder = StoreFolder(stores) if stores is not None else None
    rows: list[TruthRow] = []
    try:
        for values in reader:
            row = _row(values, path, folder, f"{path}, line {reader.line_num}")
            if row in rows:
                raise ManifestError(f"{path}, line {reader.line_num}: this row is there twice.")
            rows.append(row)
    except csv.Error as err:
        raise ManifestError(f"{path}, line {reader.line_num}: {err}.") from err
    if not rows:
        raise ManifestError(f"{path} has no row.")
    return rows


def inside_of(
    row: TruthRow, info: SlideInfo, grid: PatchGrid, rows: NDArray[np.int64], cover: float
) -> NDArray[np.bool_]:
    """Which patches lie in the reference.

    Args:
        row: The truth.
        info: The slide.
        grid: Its patches.
        rows: int64 (M,), which of them are asked about.
        cover: Share of a patch in the reference, from which it counts as inside.

    Returns:
        bool (M,).

    Raises:
        TissueInputError: the reference cannot be used for this slide, or has none of these patches.
    """
    if row.reference.suffix == ".npy":
        inside = cells_inside(_lattice(row, info, grid), grid.cell[rows])
    else:
        side0_px = grid.plan.side0_px
        mpp = side0_px * info.mpp / PIXELS_A_PATCH
        mask = given_tissue(row.reference, info, mpp, only=row.class_name or None)
        share = area_share(mask.mask, mask.scale0, grid.origin0_px[rows], side0_px)
        inside = np.asarray(share >= cover)
    if not inside.any():
        raise TissueInputError(
            f"no patch lies in {row.reference}"
            + (f" (class '{row.class_name}')." if row.class_name else "."),
            slide=info.id,
            stage="tissue",
            hint="Check the reference and its class, or pass a smaller --cover.",
        )
    return inside


def _lattice(row: TruthRow, info: SlideInfo, grid: PatchGrid) -> NDArray[np.bool_]:
    try:
        mask = np.load(row.reference, allow_pickle=False)
    except (OSError, ValueError, EOFError) as err:
        raise _wrong(row, info, f"cannot be read: {err}") from err
    if mask.shape != grid.shape or mask.dtype.kind not in "bui":
        raise _wrong(
            row, info, f"is {mask.dtype} {mask.shape}, and the lattice has the shape {grid.shape}"
        )
    return np.asarray(mask != 0)


def _wrong(row: TruthRow, info: SlideInfo, why: str) -> TissueInputError:
    return TissueInputError(
        f"{row.reference} {why}.",
        slide=info.id,
        stage="tissue",
        hint="Give a whole-number or boolean array of the lattice, or GeoJSON, or a mask image.",
    )


def _row(values: Mapping[str, str], path: Path, folder: StoreFolder | None, where: str) -> TruthRow:
    if None in values:
        raise ManifestError(f"{where}: more cells than columns.", hint="Quote cells with commas.")
    cells = {name: (values.get(name) or "").strip() for name in (*NEEDED, *OPTIONAL)}
    for name in NEEDED:
        if not cells[name]:
            raise ManifestError(f"{where}: {name} is empty.")
    reference = path.parent / Path(cells["reference"]).expanduser()
    if not reference.is_file():
        raise ManifestError(f"{where}: there is no file {reference}.")
    return TruthRow(
        _store(cells["slide"], path, folder, where),
        cells["text"],
        reference,
        cells["class"],
        cells["patient_id"],
        cells["task"],
    )


def _store(slide: str, path: Path, folder: StoreFolder | None, where: str) -> Path:
    found = list(folder.find(slide)) if folder is not None else []
    beside = path.parent / Path(slide).expanduser()
    if not found and slide.endswith(".zarr") and beside.is_dir():
        found = [beside]
    if len(found) != 1:
        raise ManifestError(
            f"{where}: the slide '{slide}' has {len(found)} stores.",
            hint="Give the folder of stores by --stores, or the path of the store.",
        )
    return found[0]
