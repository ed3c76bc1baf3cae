"""Which pages of a TIFF are the levels of a slide, and what the file says about its scale.

As OpenSlide chooses them: every tiled page of an Aperio file in file order; in any other TIFF the
first page and the tiled ones that say they are reductions, largest first. Of an OME-TIFF also the
SubIFDs of its first page, where Bio-Formats keeps the pyramid.

Source: TIFF 6.0; Aperio's ImageDescription ("key = value" parted by "|"); OME-TIFF 6.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wsiprep.slide.ome import channels_apart, ome_mpp
from wsiprep.slide.readers._flat import tiff_resolution
from wsiprep.slide.readers._tiled import RefusedError
from wsiprep.slide.resolution import RawResolution

__all__ = ["Pages", "pages_of"]

_REDUCED = 1
_ELSEWHERE = {
    "is_ndpi": "a Hamamatsu slide, whose levels are not tiles",
    "is_bif": "a Ventana slide, whose tiles overlap",
    "is_scn": "a Leica slide of several scanned regions",
    "is_philips": "a Philips slide, whose levels are padded",
}
_TRESTLE = "MedScan"


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of a slide.

    Attributes:
        vendor: As OpenSlide names it.
        levels: Pages of `tifffile`, level 0 first.
        raw: What the file says about its scale.
    """

    vendor: str
    levels: tuple[Any, ...]
    raw: RawResolution


def pages_of(tiff: Any) -> Pages:
    """Choose the levels of an open `tifffile.TiffFile`.

    Raises:
        RefusedError: not a tiled slide, or one that this reader leaves to others.
    """
    for flag, what in _ELSEWHERE.items():
        if getattr(tiff, flag):
            raise RefusedError(what)
    first = tiff.pages.first
    if str(first.tags.valueof("Software", "")).startswith(_TRESTLE):
        raise RefusedError("a Trestle slide, whose tiles overlap")
    if not first.is_tiled:
        raise RefusedError("not tiled")
    if first.description.startswith("Aperio"):
        return Pages("aperio", _tiled(tiff.pages), _aperio_resolution(first.description))
    apart = channels_apart(first.description, first.samplesperpixel)
    if apart is not None:
        raise RefusedError(apart)
    reduced = _tiled([*(page for page in tiff.pages[1:] if page.subfiletype & _REDUCED)])
    if tiff.is_ome and first.subifds:
        reduced += _tiled(first.pages)
    ome_x, ome_y = ome_mpp(first.description)
    tags = tiff_resolution(first)
    raw = RawResolution(
        mpp_x=ome_x or tags.mpp_x,
        mpp_y=ome_y or tags.mpp_y,
        looked_for=("OME PhysicalSizeX", *tags.looked_for),
    )
    if any(page.imagewidth > first.imagewidth for page in reduced):
        raise RefusedError("its first page is not the largest")
    levels = (first, *sorted(reduced, key=lambda page: -page.imagewidth))
    return Pages("generic-tiff", levels, raw)


def _tiled(pages: Any) -> tuple[Any, ...]:
    return tuple(page for page in pages if page.is_tiled)


def _aperio_resolution(description: str) -> RawResolution:
    said = {}
    for item in description.split("|")[1:]:
        key, equals, value = item.partition("=")
        if equals:
            said[key.strip()] = value.strip()
    mpp = said.get("MPP", "").replace(",", ".") or None  # written where commas are decimal
    return RawResolution(mpp, mpp, said.get("AppMag"), looked_for=("aperio.MPP", "aperio.AppMag"))
