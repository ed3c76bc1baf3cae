"""The words that stages exchange: frozen, named, with units in the names.

Points are (x, y), sizes (width, height), arrays (H, W, C). `*0_px` are level-0 pixels,
`read_px` pixels of the level that is read, `patch_px` pixels of the patch as stored in the plan,
`_um` micrometres, `mpp` micrometres per pixel. Three frames meet in a patch: it covers
`side0_px` pixels of level 0, is read as `read_px` pixels of level `level`, and is resized to
`patch_px`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHUNK_CELLS",
    "Box",
    "EncoderSpec",
    "OnBadTile",
    "PatchGrid",
    "Point",
    "ReadPlan",
    "Segmentation",
    "Size",
    "SlideInfo",
    "TileBatch",
    "Tiling",
    "TissueMask",
]

_DERIVED: Any = None
"""Default of fields that `__post_init__` fills in from others."""


def _derive(of: object, name: str, make: Callable[[], Any]) -> None:
    """Fill in a field of a frozen object that was left at `_DERIVED`."""
    if getattr(of, name) is _DERIVED:
        object.__setattr__(of, name, make())


CHUNK_CELLS = 16
"""Cells along each side of a chunk: the unit of storage, and the neighbourhood of reading."""

MppSource = Literal["metadata", "override", "objective"]

OnBadTile = Literal["fail", "mask"]
"""What is done where a stored tile cannot be decoded."""


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels, both positive."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"a size must be positive, not {self.width} x {self.height}")

    @property
    def area(self) -> int:
        """Pixels covered."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Point:
    """x to the right, y down, in pixels; may lie outside the slide."""

    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Box:
    """Top-left corner and size, in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """What is known of a slide before a pixel is read.

    Attributes:
        id: Name of the slide in outputs; the file stem unless the user gave one.
        uri: Path of the file or folder.
        reader: Name of the reader that opened it.
        reader_reason: Why that reader: chosen by name, first that opened, or after which failures.
        vendor: Scanner family as the reader names it, or None.
        size0: Level-0 size in pixels.
        mpp: Micrometres per level-0 pixel (geometric mean of x and y, which differ by <= 1 %).
        mpp_source: Read from metadata, given by the user, or 10 / objective power by flag.
        objective: Objective power, or None.
        downsamples: Level-0 pixels per pixel of each level; the first is 1.0, increasing.
        level_sizes: Size of each level in its own pixels.
        bounds0: Scanned part of level 0; the whole of it when the format does not say.
        fingerprint: sha256 over length and ends of the file(s); see `slide/fingerprint.py`.
        notes: Warnings for the user, one sentence each.
    """

    id: str
    uri: str
    reader: str
    reader_reason: str
    vendor: str | None
    size0: Size
    mpp: float
    mpp_source: MppSource
    objective: float | None
    downsamples: tuple[float, ...]
    level_sizes: tuple[Size, ...]
    bounds0: Box
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.downsamples) != len(self.level_sizes) or not self.downsamples:
            raise ValueError("a slide needs one downsample for each level")
        if self.downsamples[0] != 1.0:
            raise ValueError("the downsample of level 0 must be 1")
        if any(b <= a for a, b in zip(self.downsamples, self.downsamples[1:], strict=False)):
            raise ValueError(f"downsamples must increase: {self.downsamples}")
        if not self.mpp > 0:
            raise ValueError(f"mpp must be positive, not {self.mpp}")


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What a segmenter saw on a thumbnail. The masks may overlap.

    Attributes:
        tissue: bool (h, w), True on tissue; where there is ink or an artefact over it, as the
            segmenter can tell.
        pen: bool (h, w), True on ink.
        edge: bool (h, w), True on what is neither tissue nor clean glass: coverslip edges,
            bubbles, dust, scratches. None where the segmenter does not look for them.
        fold: bool (h, w), True where tissue is folded over itself. None where the segmenter does
            not look for folds.
        notes: Warnings for the user, one sentence each.
    """

    tissue: NDArray[np.bool_]
    pen: NDArray[np.bool_]
    edge: NDArray[np.bool_] | None = None
    fold: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TissueMask:
    """Tissue of a whole slide on a coarse pixel grid.

    Mask pixel (row r, col c) covers level-0 x in [c, c + 1) * size0.width / w and y in
    [r, r + 1) * size0.height / h: the mask always spans the whole of level 0.

    Attributes:
        mask: bool (h, w); may be all False, which is a result.
        pen: bool (h, w), ink seen by the segmenter; all False where it does not look for ink.
        mpp: Nominal micrometres per mask pixel.
        size0: Level-0 size of the slide.
        method: Segmenter name, `mask:<file name>` or `geojson:<file name>`.
        notes: Warnings for the user.
        edge: bool (h, w), what is neither tissue nor clean glass: coverslip edges, bubbles, dust,
            scratches; by default all False, as where the segmenter does not look for it.
        fold: bool (h, w), tissue folded over itself; by default all False.
        section: int32 (h, w), 0 outside `mask` and the number of the tissue section in it: found
            sections are 1..n, those that the user numbered keep their numbers. By default all
            tissue is section 1.
        bad_tiles: Stored tiles, or other parts, that could not be decoded and are white in the
            thumbnail; `notes` say it too.

    `pen`, `edge` and `fold` hold all that was seen, whether it was taken out of `mask` or not.
    """

    mask: NDArray[np.bool_]
    pen: NDArray[np.bool_]
    mpp: float
    size0: Size
    method: str
    notes: tuple[str, ...] = ()
    edge: NDArray[np.bool_] = _DERIVED
    fold: NDArray[np.bool_] = _DERIVED
    section: NDArray[np.int32] = _DERIVED
    bad_tiles: int = 0

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise ValueError(f"a mask is bool (h, w), not {self.mask.dtype} {self.mask.shape}")
        for name in ("edge", "fold"):
            _derive(self, name, lambda: np.zeros_like(self.mask))
        _derive(self, "section", lambda: self.mask.astype(np.int32))
        for name in ("pen", "edge", "fold"):
            seen = getattr(self, name)
            if seen.shape != self.mask.shape or seen.dtype != np.bool_:
                raise ValueError(
                    f"the {name} mask must have the shape and dtype of the tissue mask"
                )
        if self.section.dtype != np.int32 or self.section.shape != self.mask.shape:
            raise ValueError("sections must be int32 and of the shape of the tissue mask")
        if not np.array_equal(self.section > 0, self.mask):
            raise ValueError("sections must cover the tissue mask and nothing else")

    @property
    def scale0(self) -> tuple[float, float]:
        """Level-0 pixels per mask pixel along x and y."""
        h, w = self.mask.shape
        return self.size0.width / w, self.size0.height / h

    @property
    def empty(self) -> bool:
        """Whether there is no tissue at all."""
        return not bool(self.mask.any())

    def area_mm2(self, slide_mpp: float) -> float:
        """Tissue area in mm²; `slide_mpp` is µm per level-0 pixel."""
        sx, sy = self.scale0
        return float(self.mask.sum()) * sx * sy * slide_mpp**2 / 1e6

    @property
    def sections(self) -> list[int]:
        """Numbers of the tissue sections, ascending."""
        numbers: list[int] = np.flatnonzero(np.bincount(self.section.ravel())).tolist()
        return [number for number in numbers if number]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How a patch of the wanted resolution is read from this slide.

    Attributes:
        level: Pyramid level read.
        read_px: Side of the square read at that level, pixels of the level.
        resize: read_px / patch_px: 1 is a copy, 2 halves, below 1 magnifies.
        patch_px: Side of the patch handed to the encoder.
        side0_px: Side of the patch in level-0 pixels; need not be whole.
        mpp_requested: What was asked, µm/px.
        mpp: What is achieved, µm/px.
        rule: `native` (no resampling), `whole` (whole-number factor) or `fractional`.
    """

    level: int
    read_px: int
    resize: float
    patch_px: int
    side0_px: float
    mpp_requested: float
    mpp: float
    rule: Literal["native", "whole", "fractional"]

    def describe(self) -> str:
        """One line for people: level, read size, resize factor, achieved mpp."""
        how = {
            "native": "as it is",
            "whole": f"area-averaged {self.resize:g}:1",
            "fractional": f"resized by {self.resize:.4g}",
        }[self.rule]
        return (
            f"level {self.level}, read {self.read_px} px {how} to {self.patch_px} px: "
            f"{self.mpp:.4g} µm/px (asked {self.mpp_requested:g})"
        )


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a level is stored: tiles of one size in rows, the first at the level's (0, 0).

    Tiles of the last row and column may reach beyond the level; what lies there is no picture.

    Attributes:
        tile: Size of a tile in pixels of the level.
        shape: (rows, cols) of tiles; tile (row, col) has the number `row * cols + col`.
    """

    tile: Size
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """Cells of the lattice that hold enough tissue, in chunk-major order.

    The lattice is anchored at level-0 (0, 0): cell (row, col) has its top-left corner at
    (round(col * stride0_px), round(row * stride0_px)). Rows of the arrays run chunk by chunk
    (16 x 16 cells, row-major), and row-major inside a chunk.

    Attributes:
        plan: How one patch is read.
        stride_px: Distance of neighbours, in patch pixels.
        stride0_px: The same in level-0 pixels; need not be whole.
        shape: (rows, cols) of the lattice over the whole slide.
        cell: int32 (N, 2), row and column.
        origin0_px: int64 (N, 2), x and y of the top-left corner, level-0 pixels.
        tissue: float32 (N,), tissue share of the patch, 0 to 1.
        section: int32 (N,), the tissue section that covers most of the patch, 0 if none does; by
            default 1 where there is tissue.
        pen: float32 (N,), share of the patch under ink, whether counted as tissue or not.
        edge: float32 (N,), share under coverslip edges, bubbles, dust, scratches.
        fold: float32 (N,), share under folded tissue. These three are 0 by default.
        focus: float32 (N,), sharpness (docs/tissue.md); NaN where it was not measured, the
            default.
    """

    plan: ReadPlan
    stride_px: int
    stride0_px: float
    shape: tuple[int, int]
    cell: NDArray[np.int32]
    origin0_px: NDArray[np.int64]
    tissue: NDArray[np.float32]
    section: NDArray[np.int32] = _DERIVED
    pen: NDArray[np.float32] = _DERIVED
    edge: NDArray[np.float32] = _DERIVED
    fold: NDArray[np.float32] = _DERIVED
    focus: NDArray[np.float32] = _DERIVED

    def __post_init__(self) -> None:
        n = len(self.cell)
        _derive(self, "section", lambda: (self.tissue > 0).astype(np.int32))
        for name in ("pen", "edge", "fold"):
            _derive(self, name, lambda: np.zeros(n, np.float32))
        _derive(self, "focus", lambda: np.full(n, np.nan, np.float32))
        if self.cell.shape != (n, 2) or self.origin0_px.shape != (n, 2):
            raise ValueError("cell and origin0_px must be (N, 2)")
        if any(len(column) != n or column.ndim != 1 for column in self.columns().values()):
            raise ValueError(f"{', '.join(self.columns())} must be (N,)")

    def columns(self) -> dict[str, NDArray[Any]]:
        """What is known of each patch, by name: tissue, section, pen, edge, fold, focus."""
        names = ("tissue", "section", "pen", "edge", "fold", "focus")
        return {name: getattr(self, name) for name in names}

    def only(self, keep: NDArray[np.bool_]) -> PatchGrid:
        """The same lattice with some of the patches, bool (N,)."""
        parts: dict[str, Any] = {name: column[keep] for name, column in self.columns().items()}
        return replace(self, cell=self.cell[keep], origin0_px=self.origin0_px[keep], **parts)

    def __len__(self) -> int:
        return len(self.cell)


@dataclass(frozen=True, slots=True)
class TileBatch:
    """Pixels of consecutive rows of a grid.

    Attributes:
        index: int64 (B,), rows of the grid.
        pixels: uint8 (B, T, T, 3) RGB, T = plan.patch_px.
        ok: bool (B,); False where the tile could not be read (its pixels are white).
    """

    index: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    ok: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What is known of an encoder before its weights are read, and stored with its features.

    Attributes:
        name: `family` or `family:model`.
        dim: Length of a feature vector.
        input_px: Side that the network is given, or None when it takes the patch as it is.
        mean: Per-channel mean of the normalisation, on a 0..1 scale.
        std: Per-channel standard deviation.
        mpp: Resolutions the encoder was trained at, µm/px; empty when it has none.
        pooling: How one vector comes from the network, in words.
        precision: `fp32`, `fp16` or `bf16`: the encoder's published inference precision.
        license: SPDX name or `unknown`.
        source: Where the weights come from.
        weights: `pretrained`, `random` (asked for by flag) or `none` (no parameters).
        weights_sha256: Hash of the loaded weights; empty before loading.
        note: One sentence for `wsiprep models`.
    """

    name: str
    dim: int
    input_px: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mpp: tuple[float, ...] = ()
    pooling: str = ""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    license: str = "unknown"
    source: str = ""
    weights: Literal["pretrained", "random", "none"] = "pretrained"
    weights_sha256: str = ""
    note: str = ""

    def canonical(self) -> dict[str, Any]:
        """Plain JSON types, as stored in attributes."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
