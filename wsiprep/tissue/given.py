"""Tissue that the user brings: a mask image, or polygons as GeoJSON."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import TissueInputError
from wsiprep.core.types import SlideInfo, TissueMask
from wsiprep.tissue.outlines import read_outlines
from wsiprep.tissue.polygons import fill_polygon
from wsiprep.tissue.regions import label
from wsiprep.tissue.sections import find_sections

__all__ = ["GEOJSON_SUFFIXES", "OUTLINES_FORMAT", "given_digest", "given_tissue", "ignored_areas"]

OUTLINES_FORMAT = 2
"""Raised whenever the same outlines would give another mask."""

IMAGE_SUFFIXES = (".png", ".tif", ".tiff")
GEOJSON_SUFFIXES = (".geojson", ".json")
MAX_PIXELS = 100_000_000
"""Pages of a TIFF above this are passed over for a smaller one; a PNG above it is refused."""
ASPECT_TOLERANCE = 0.02
REMEDY = "Correct --mask, or the `mask` column of the manifest."


def given_digest(path: Path, slide: str | None = None) -> str:
    """sha256 (hex) of the file's content, which stands for the file in keys.

    Args:
        path: Mask or GeoJSON.
        slide: Slide id to name in errors.

    Raises:
        TissueInputError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise _unusable(path, f"cannot be read: {err.strerror}", slide) from err


def given_tissue(
    path: Path,
    info: SlideInfo,
    tissue_mpp: float,
    section_gap_um: float = 300.0,
    only: str | None = None,
) -> TissueMask:
    """Read the user's mask or polygons for a slide.

    A mask image is kept at its own resolution, pixel for pixel: stored values that are not zero
    (in any colour channel, and not transparent) are tissue. It must span the whole slide: its
    aspect ratio may differ by 2 %, or by one pixel. Of a pyramid, the largest page
    below 100 million pixels is taken.

    Polygons are filled at `tissue_mpp` (never finer than level 0) by the even-odd rule with their
    holes, a pixel being tissue when its centre is inside; features are united. Features classified
    `Pen`, `Edge` and `Fold` are these masks, so the file that wsiprep writes can be corrected in
    QuPath and given back: at the same `tissue_mpp` it gives the same masks. Features classified
    `Ignore*` are taken out of the tissue, whatever comes first; nothing else is. Points and lines
    are left out with a note.

    Features with a number `section` keep it; where two overlap, the later one has the pixel. A
    piece without one that touches numbered tissue is of that section, others get the numbers that
    follow. Where no feature has a number, as in a mask image, sections are found.

    Args:
        path: PNG, TIFF or GeoJSON, by its suffix.
        info: The slide.
        tissue_mpp: µm per pixel at which polygons are filled.
        section_gap_um: As `sections.find_sections`, where sections are found.
        only: Name of a class: polygons of other classes are left out. Not for mask images.

    Returns:
        TissueMask with method `mask:<file name>` or `geojson:<file name>`.

    Raises:
        TissueInputError: missing, unreadable, of another shape than the slide, or no area.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise _unusable(path, "does not exist" if not path.exists() else "is not a file", info.id)
    if suffix in GEOJSON_SUFFIXES:
        return _from_outlines(path, info, tissue_mpp, section_gap_um, only)
    if only is not None:
        raise _unusable(path, f"is an image, which has no class '{only}'", info.id)
    if suffix not in IMAGE_SUFFIXES:
        known = ", ".join((*IMAGE_SUFFIXES, *GEOJSON_SUFFIXES))
        raise _unusable(path, f"has a suffix that is not among {known}", info.id)
    notes: tuple[str, ...] = ()
    if suffix == ".png":
        mask = _read_png(path, info)
    else:
        mask, inverted = _read_tiff(path, info)
        if inverted:
            notes = (f"{path.name} is stored min-is-white; stored values above 0 are tissue.",)
    h, w = mask.shape
    want_w = h * info.size0.width / info.size0.height
    want_h = w * info.size0.height / info.size0.width
    if abs(w - want_w) > max(1.0, ASPECT_TOLERANCE * want_w) and abs(h - want_h) > 1.0:
        raise TissueInputError(
            f"mask {path} is {w} x {h} pixels, which is not the shape of the slide"
            f" ({info.size0.width} x {info.size0.height}).",
            slide=info.id,
            stage="tissue",
            hint="A mask must span the whole slide; export it without cropping, or use GeoJSON.",
        )
    section = find_sections(mask, _mpp(mask, info), gap_um=section_gap_um)
    return _tissue(mask, {}, section, info, f"mask:{path.name}", notes)


def _from_outlines(
    path: Path, info: SlideInfo, tissue_mpp: float, section_gap_um: float, only: str | None
) -> TissueMask:
    masks, numbers, notes = _planes(path, info, tissue_mpp, only)
    tissue = masks.pop("tissue") & ~masks["ignore"]
    numbers[masks.pop("ignore")] = 0
    section = _numbered(tissue, numbers, _mpp(tissue, info), section_gap_um)
    return _tissue(tissue, masks, section, info, f"geojson:{path.name}", notes)


def ignored_areas(path: Path, info: SlideInfo, tissue_mpp: float) -> NDArray[np.bool_] | None:
    """Where polygons classified `Ignore*` lie, of a file as `given_tissue` takes.

    Returns:
        bool (h, w), of the shape of `given_tissue`'s masks; None for a mask image.

    Raises:
        TissueInputError: it is missing or unreadable.
    """
    if path.suffix.lower() not in GEOJSON_SUFFIXES:
        return None
    return _planes(path, info, tissue_mpp, None)[0]["ignore"]


def _planes(
    path: Path, info: SlideInfo, tissue_mpp: float, only: str | None
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.int32], tuple[str, ...]]:
    """Masks of tissue, pen, edge, fold and of what is to be ignored; section numbers; notes."""
    outlines, notes = read_outlines(path, info, only)
    shrink = min(1.0, info.mpp / tissue_mpp)
    w, h = (max(1, round(n * shrink)) for n in (info.size0.width, info.size0.height))
    kinds = ("tissue", "pen", "edge", "fold", "ignore")
    masks = {kind: np.zeros((h, w), dtype=np.bool_) for kind in kinds}
    numbers = np.zeros((h, w), np.int32)
    scale = np.array([w / info.size0.width, h / info.size0.height])
    for outline in outlines:
        rings = [ring * scale for ring in outline.rings0_px]
        corners = np.concatenate(rings)
        # In its own rectangle: a file may hold thousands of small features.
        c0, r0 = np.clip(np.floor(corners.min(axis=0)), 0, [w, h]).astype(int)
        c1, r1 = np.clip(np.ceil(corners.max(axis=0)), 0, [w, h]).astype(int)
        if c0 >= c1 or r0 >= r1:
            continue
        own = np.zeros((r1 - r0, c1 - c0), np.bool_)
        fill_polygon(own, [ring - (c0, r0) for ring in rings])
        masks[outline.kind][r0:r1, c0:c1] |= own
        if outline.section is not None:
            numbers[r0:r1, c0:c1][own] = outline.section
    return masks, numbers, notes


def _numbered(
    tissue: NDArray[np.bool_],
    numbers: NDArray[np.int32],
    mpp: tuple[float, float],
    gap_um: float,
) -> NDArray[np.int32]:
    """Numbers for tissue that has none: of the section it touches most, or new ones."""
    section = numbers.copy()
    rest = tissue & (numbers == 0)
    if not rest.any():
        return section
    beside = np.pad(numbers, 1)
    count, pieces = label(rest)
    votes = []
    for dr, dc in ((0, 1), (1, 0), (1, 2), (2, 1), (0, 0), (0, 2), (2, 0), (2, 2)):
        other = beside[dr : dr + rest.shape[0], dc : dc + rest.shape[1]]
        meet = rest & (other > 0)
        votes.append(np.stack([pieces[meet], other[meet]], axis=1))
    pairs, times = np.unique(np.concatenate(votes), axis=0, return_counts=True)
    most = np.zeros(count, np.int32)
    for at in np.argsort(times, kind="stable").tolist():
        most[pairs[at, 0]] = pairs[at, 1]
    section[rest] = most[pieces[rest]]
    alone = rest & (section == 0)
    found = find_sections(alone, mpp, gap_um=gap_um)
    section[alone] = found[alone] + numbers.max()
    return section


def _mpp(mask: NDArray[np.bool_], info: SlideInfo) -> tuple[float, float]:
    """µm per mask pixel along x and y."""
    h, w = mask.shape
    return info.mpp * info.size0.width / w, info.mpp * info.size0.height / h


def _tissue(
    mask: NDArray[np.bool_],
    seen: dict[str, NDArray[np.bool_]],
    section: NDArray[np.int32],
    info: SlideInfo,
    method: str,
    notes: tuple[str, ...] = (),
) -> TissueMask:
    mpp = float(np.sqrt(np.prod(_mpp(mask, info))))
    if not mask.any():
        notes = (*notes, f"{method} marks no tissue on this slide.")
    return TissueMask(
        mask=mask,
        mpp=mpp,
        size0=info.size0,
        method=method,
        notes=notes,
        section=section,
        bad_tiles=0,  # no thumbnail was looked at
        **{"pen": np.zeros_like(mask), **seen},
    )


def _read_png(path: Path, info: SlideInfo) -> NDArray[np.bool_]:
    try:
        data = path.read_bytes()
    except OSError as err:
        raise _unusable(path, f"cannot be read: {err.strerror}", info.id) from err
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33:
        raise _unusable(path, "is not a PNG image", info.id)
    width, height = struct.unpack(">II", data[16:24])
    if width * height > MAX_PIXELS:
        raise _unusable(path, f"is too large ({width} x {height}); 2 to 8 µm/px is enough", info.id)
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as err:
        raise _unusable(path, f"does not decode: {err}", info.id) from err
    if image is None:
        raise _unusable(path, "does not decode as PNG", info.id)
    return _nonzero(image)


def _read_tiff(path: Path, info: SlideInfo) -> tuple[NDArray[np.bool_], bool]:
    """The mask, and whether viewers show its zeros as white."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [p for page in tiff.pages for p in (page, *(page.pages or ()))]
            fitting = [p for p in pages if p.imagewidth * p.imagelength <= MAX_PIXELS]
            if not fitting:
                raise _unusable(path, "has no page below 100 million pixels", info.id)
            page = max(fitting, key=lambda p: p.imagewidth * p.imagelength)
            image = page.asarray()
            inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
            planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    except TissueInputError:
        raise
    except Exception as err:  # Decoders raise errors of every kind.
        raise _unusable(path, f"does not decode as TIFF: {err}", info.id) from err
    if image.ndim == 3 and planar:
        image = np.moveaxis(image, 0, -1)
    if image.ndim not in (2, 3):
        raise _unusable(path, f"has {image.ndim} dimensions instead of 2", info.id)
    return _nonzero(image), inverted


def _nonzero(image: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Where a decoded image has light: any colour channel, and opaque."""
    if image.ndim == 2:
        return np.asarray(image != 0)
    channels = image.shape[2]
    lit = (image[..., : channels - 1 if channels in (2, 4) else channels] != 0).any(axis=2)
    if channels in (2, 4):
        lit &= image[..., -1] != 0
    return np.asarray(lit)


def _unusable(path: Path, why: str, slide: str | None) -> TissueInputError:
    return TissueInputError(f"mask {path} {why}.", slide=slide, stage="tissue", hint=REMEDY)
