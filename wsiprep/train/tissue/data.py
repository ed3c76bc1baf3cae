"""Thumbnails to train on: drawn ones without end, and real ones whose masks are known."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from torch import Tensor, from_numpy
from torch.utils.data import Dataset

from wsiprep.core.errors import ManifestError, ResolutionError, SlideError, TissueInputError
from wsiprep.core.types import Box, Size, SlideInfo
from wsiprep.metrics.tissue import resample_mask
from wsiprep.slide.catalog import looks_like_slide
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.open import open_slide
from wsiprep.slide.search import FLAT_SUFFIXES
from wsiprep.synth.thumbnails.draw import draw_scene
from wsiprep.synth.thumbnails.labels import CLASSES, Thumbnail
from wsiprep.synth.thumbnails.scene import MOST_INKS, sample_scene
from wsiprep.synth.thumbnails.stains import Stain
from wsiprep.tissue.given import MAX_PIXELS, given_tissue, ignored_areas
from wsiprep.train.tissue.framing import Framing

__all__ = ["Pair", "Sample", "Thumbnails", "read_pairs", "read_textures", "sample_of"]

Sample = tuple[Tensor, Tensor, Tensor]
"""uint8 (3, h, w) RGB; uint8 (h, w) labels; uint8 (h, w) which of them are known."""
PICTURES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
THUMBNAIL_MPP: Final = 8.0
"""Of images of which nothing is said."""
_REAL_DOMAIN, _SCENE_STRIDE = 23, 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A real thumbnail and what is known of it.

    Attributes:
        name: File name.
        thumbnail: Picture and labels.
        split: `train` or `val`.
    """

    name: str
    thumbnail: Thumbnail
    split: str


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """A picture, or the thumbnail of a slide.

    Attributes:
        pixels: uint8 (h, w, 3) RGB.
        info: What masks refer to; a picture is a slide without levels.
        asked_mpp: µm per pixel that were asked for.
    """

    pixels: NDArray[np.uint8]
    info: SlideInfo
    asked_mpp: float

    @property
    def mpp(self) -> float:
        """µm per pixel as they are."""
        return self.info.mpp * self.info.size0.width / int(self.pixels.shape[1])


class Thumbnails(Dataset[Sample]):
    """Thumbnail number i is always the same, whoever asks for it.

    Args:
        seed: Of the series.
        count: How many there are.
        framing: What part of a thumbnail is shown, and at what size.
        stains: Stains that are drawn.
        pairs: Real thumbnails.
        real_share: Their share.
        textures: uint8 (h, w, 3) pictures of tissue.
        own: Stains by name that are none of `synth.thumbnails.stains.STAINS`.
        more_ink: Chance that a drawn thumbnail without ink is given some.
    """

    def __init__(
        self,
        seed: int,
        count: int,
        framing: Framing,
        stains: Sequence[str],
        pairs: Sequence[Pair] = (),
        real_share: float = 0.0,
        textures: Sequence[NDArray[np.uint8]] = (),
        own: Mapping[str, Stain] | None = None,
        more_ink: float = 0.0,
    ) -> None:
        self.seed, self.count, self.framing = seed, count, framing
        self.stains, self.textures = tuple(stains), tuple(textures)
        self.own, self.more_ink = dict(own or {}), more_ink
        self.pairs, self.real_share = tuple(pairs), real_share if pairs else 0.0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        cv2.setNumThreads(1)  # in a process beside others
        if index >= self.count:  # what ends a loop over it
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index, _REAL_DOMAIN])
        if rng.random() < self.real_share:
            pair = self.pairs[int(rng.integers(len(self.pairs)))]
            made = self.framing.varied(rng, pair.thumbnail)
        else:
            scene = sample_scene(self.seed * _SCENE_STRIDE + index, self.stains, self.own)
            if self.more_ink and not scene.inks and rng.random() < self.more_ink:
                scene = replace(scene, inks=int(rng.integers(1, MOST_INKS + 1)))
            made = draw_scene(scene, self.framing.drawn_shape(rng), self.textures)
        turned = [
            np.ascontiguousarray(np.rot90(a, int(k)) if not flip else np.rot90(a, int(k))[:, ::-1])
            for flip, k in [(rng.random() < 0.5, rng.integers(4))]
            for a in (made.pixels, made.label, made.known)
        ]
        return sample_of(*turned)


def sample_of(
    pixels: NDArray[np.uint8], label: NDArray[np.uint8], known: NDArray[np.uint8]
) -> Sample:
    """Arrays as tensors."""
    return from_numpy(pixels).permute(2, 0, 1).contiguous(), from_numpy(label), from_numpy(known)


def read_textures(folder: Path) -> list[NDArray[np.uint8]]:
    """Pictures in a folder, by name.

    Raises:
        ManifestError: there is none, or one does not decode.
    """
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in PICTURES)
    if not files:
        raise ManifestError(f"there are no pictures in {folder}.", hint="Correct --textures.")
    return [_picture(path) for path in files]


def read_pairs(table: Path) -> list[Pair]:
    """Real thumbnails from a CSV; paths are relative to it.

    Columns: image; tissue, pen, edge, fold (masks; not zero is the class; a cell that is empty
    means unknown; `none` means nowhere); ignore (a mask of what is not to be learnt); mpp (of what
    is learnt from, 8 without it); slide_mpp; split. Whether there is tissue under ink is never
    learnt, nor what any of the files classifies `Ignore*`.

    An image is a plain picture, or a slide, of which the thumbnail at `mpp` is taken. A slide is
    what a reader of slides lists by its name; of TIFF files those that are tiled or pyramids.
    Masks are PNG or TIFF of the image's shape, at any scale, or GeoJSON in pixels of a picture, or
    in level-0 pixels of a slide. `slide_mpp` is for slides that do not say how fine they are.

    Raises:
        ManifestError: the table, an image or a mask cannot be used.
    """
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise ManifestError(f"{table} cannot be read: {err}.") from err
    allowed = {"image", "ignore", "mpp", "slide_mpp", "split", *CLASSES}
    unknown = set(rows[0]) - allowed if rows else set()
    if not rows or "image" not in rows[0] or unknown:
        raise ManifestError(
            f"{table} must have rows and a column `image`"
            + (f"; unknown columns: {', '.join(sorted(map(str, unknown)))}" if unknown else "")
            + ".",
            hint=f"Columns: {', '.join(sorted(allowed))}.",
        )
    return [_pair(table, number, row) for number, row in enumerate(rows, start=2)]


def _pair(table: Path, number: int, row: dict[str, str]) -> Pair:
    where = f"line {number} of {table}"
    path = table.parent / (row["image"] or "")
    mpp = _positive(row, "mpp", where) or THUMBNAIL_MPP
    image = _image(path, mpp, _positive(row, "slide_mpp", where), where)
    label = np.zeros(image.pixels.shape[:2], np.uint8)
    known = np.zeros_like(label)
    cells = {name: (row.get(name) or "").strip() for name in CLASSES}
    for bit, (name, cell) in enumerate(cells.items()):
        if not cell:
            continue
        known |= np.uint8(1 << bit)
        if cell != "none":
            shared = list(cells.values()).count(cell) > 1
            label[_mask(table.parent / cell, image, where, name, shared)] |= 1 << bit
    under_ink = (label & _bit("pen")) > 0
    known[under_ink] &= ~(_bit("tissue") | _bit("fold"))
    ignored = (row.get("ignore") or "").strip()
    for cell in {*cells.values(), ignored} - {"", "none"}:
        area = _ignored(table.parent / cell, image, where)
        if cell == ignored and (area is None or not area.any()):
            if area is not None and cell in cells.values():
                raise ManifestError(
                    f"{where}: {cell} marks nothing to ignore.",
                    hint="Classify such areas `Ignore*`, or outline them in a file of their own.",
                )
            area = _mask(table.parent / cell, image, where, "ignore", False)
        if area is not None:
            known[area] = 0
    split = row.get("split") or "train"
    if split not in ("train", "val"):
        raise ManifestError(f"{where}: split '{split}' is neither train nor val.")
    return Pair(path.name, Thumbnail(image.pixels, label, known, image.mpp), split)


def _positive(row: dict[str, str], column: str, where: str) -> float | None:
    """The number in a cell, None where it is empty."""
    cell = (row.get(column) or "").strip()
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise ManifestError(f"{where}: {column} '{cell}' is no number above 0.")
    return value


def _image(path: Path, mpp: float, slide_mpp: float | None, where: str) -> _Image:
    if not _is_slide(path, where):
        if slide_mpp is not None:
            raise ManifestError(
                f"{where}: {path.name} is a picture, and slide_mpp is for slides.",
                hint="Give µm per pixel of a picture as `mpp`.",
            )
        pixels = _picture(path)
        size = Size(pixels.shape[1], pixels.shape[0])
        info = SlideInfo(
            id=path.name, uri=str(path), reader="image", reader_reason="", vendor=None, size0=size,
            mpp=mpp, mpp_source="override", objective=None, downsamples=(1.0,), level_sizes=(size,),
            bounds0=Box(0, 0, size.width, size.height), fingerprint="",
        )  # fmt: skip
        return _Image(pixels, info, mpp)
    try:
        with open_slide(path, SlideConfig(slide_mpp=slide_mpp)) as slide:
            info, shrink = slide.info, min(1.0, slide.info.mpp / mpp)
            if info.size0.width * info.size0.height * shrink**2 > MAX_PIXELS:
                raise ManifestError(
                    f"{where}: a thumbnail of {path.name} at {mpp:g} µm/px is too large.",
                    hint="`mpp` is that of the thumbnail, 6 to 32; `slide_mpp` that of level 0.",
                )
            pixels = slide.thumbnail(mpp)
    except SlideError as err:
        missing = isinstance(err, ResolutionError)
        hint = (
            "Give µm per level-0 pixel in the column `slide_mpp`." if missing
            else "Leave it out of the table, or copy it again."
        )  # fmt: skip
        raise ManifestError(f"{where}: {path.name}: {err.message}", hint=hint) from err
    return _Image(pixels, info, mpp)


def _is_slide(path: Path, where: str) -> bool:
    """Whether an image is opened as a slide, not read as a picture."""
    if path.suffix.lower() in FLAT_SUFFIXES or not looks_like_slide(path):
        return False
    if path.suffix.lower() not in (".tif", ".tiff"):
        return True
    try:
        with tifffile.TiffFile(path) as tiff:
            return bool(tiff.pages.first.is_tiled) or len(tiff.series[0].levels) > 1
    except tifffile.TiffFileError:  # a picture of another kind
        return False
    except Exception as err:  # tifffile raises whatever it likes on odd files
        raise ManifestError(f"{where}: {path} does not decode as TIFF: {err}.") from err


def _bit(name: str) -> np.uint8:
    return np.uint8(1 << CLASSES.index(name))


def _mask(path: Path, image: _Image, where: str, name: str, shared: bool) -> NDArray[np.bool_]:
    """A mask or outlines, read as those that a user gives for a slide, at the thumbnail's size.

    Of outlines in a file that stands in several columns, or where any is classified `Pen`, `Edge`
    or `Fold`, each column takes those of its class, and `tissue` all others; there may be none.
    Other outlines are all of the column in which they stand.
    """
    try:
        given = given_tissue(path, image.info, image.asked_mpp)
    except TissueInputError as err:
        raise ManifestError(f"{where}: {err.message}", hint=err.hint) from err
    seen = {kind: getattr(given, kind) for kind in ("pen", "edge", "fold")}
    by_class = shared or any(plane.any() for plane in seen.values())
    mask = seen[name] if by_class and name in seen else given.mask
    if not (mask.any() or shared) and given.method.startswith("geojson:"):
        raise ManifestError(
            f"{where}: {path.name} marks no {name}.",
            hint="Write `none` where there is none; leave the cell empty where it is unknown.",
        )
    return resample_mask(mask, (image.pixels.shape[0], image.pixels.shape[1]))


def _ignored(path: Path, image: _Image, where: str) -> NDArray[np.bool_] | None:
    """Areas that outlines classify `Ignore*`, at the thumbnail's size; None for a mask."""
    try:
        area = ignored_areas(path, image.info, image.asked_mpp)
    except TissueInputError as err:
        raise ManifestError(f"{where}: {err.message}", hint=err.hint) from err
    return None if area is None else resample_mask(area, image.pixels.shape[:2])


def _picture(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if image is None:
        raise ManifestError(f"picture {path} is missing or does not decode.")
    return np.ascontiguousarray(np.asarray(image, np.uint8)[..., ::-1])
