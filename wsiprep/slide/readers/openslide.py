"""Reader `openslide`: Aperio, Hamamatsu, Leica, MIRAX, Ventana, DICOM, generic tiled TIFF.

OpenSlide takes level-0 coordinates as whole numbers. At a level whose downsample is not whole, it
therefore interpolates by less than half a level-0 pixel; at level 0, and at downsamples of
exactly 2, 4, 16, pixels come as stored. ICC profiles are not applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import PluginUnavailableError, SlideOpenError
from wsiprep.core.types import Box, SlideInfo
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.dicom import slide_instances
from wsiprep.slide.dicom_colour import YCBCR_NOTE, levels_mislabelled_rgb
from wsiprep.slide.facts import Facts, Source
from wsiprep.slide.fingerprint import fingerprint
from wsiprep.slide.ome import channels_apart, ome_mpp
from wsiprep.slide.readers._base import BaseSlide, assemble, on_white, one_line
from wsiprep.slide.readers._tiff_codec import ycbcr_to_rgb
from wsiprep.slide.readers._tiled import RefusedError, opening
from wsiprep.slide.resolution import RawResolution

__all__ = ["EXTENSIONS", "OpenSlideSlide", "create"]

EXTENSIONS = (
    ".svs", ".tif", ".tiff", ".btf", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif",
    ".dcm",
)  # fmt: skip

_MPP_KEYS = (
    "openslide.mpp-x",
    "openslide.mpp-y",
    "aperio.MPP",
    "OME PhysicalSizeX",
    "openslide.objective-power",
)
_SUBIFDS_NOTE = (
    "Just level 0 is read: the other levels of this OME-TIFF are SubIFDs, which OpenSlide ignores."
)


class OpenSlideSlide(BaseSlide):
    """A slide read by OpenSlide.

    Args:
        info: What is known of the slide.
        native_levels: OpenSlide's number of each level.
        file: The file that OpenSlide is given; one instance of a DICOM folder.
        ycbcr: Sizes of levels that OpenSlide gives as YCbCr; see `slide/dicom_colour.py`.
    """

    def __init__(
        self,
        info: SlideInfo,
        native_levels: tuple[int, ...],
        file: str,
        ycbcr: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        super().__init__(info, native_levels)
        self._file = file
        self._ycbcr = ycbcr

    def _open_handle(self) -> Any:
        return _library().OpenSlide(self._file)

    def _close_handle(self, handle: Any) -> None:
        handle.close()

    def _read_box(self, handle: Any, level: int, box: Box) -> NDArray[np.uint8]:
        native = self._native_levels[level]
        scale = handle.level_downsamples[native]  # OpenSlide divides by its own
        origin0 = (round(box.x * scale), round(box.y * scale))
        region = handle.read_region(origin0, native, (box.width, box.height))
        rgba = np.asarray(region)
        size = self._info.level_sizes[level]
        if (size.width, size.height) in self._ycbcr:
            rgba = _to_rgb(rgba)
        return on_white(rgba)


def create(uri: str, cfg: SlideConfig, *, slide_id: str, reason: str) -> OpenSlideSlide:
    """Open a file, or a folder of DICOM instances.

    Raises:
        SlideOpenError: OpenSlide does not know the format, finds it broken, or would show one of
            several channels in grey.
        ResolutionError: the scale is missing, implausible or not square.
        PluginUnavailableError: the OpenSlide library does not load.
    """
    library = _library()
    file = uri
    if Path(uri).is_dir():
        instances = slide_instances(Path(uri))
        if not instances:
            raise SlideOpenError(
                "the folder holds no DICOM whole-slide image.", slide=slide_id, stage="slide"
            )
        file = str(instances[0])
    source = Source(slide_id, uri, "openslide", reason, fingerprint(uri))
    try:
        handle = library.OpenSlide(file)
    except library.OpenSlideUnsupportedFormatError as err:
        raise SlideOpenError(
            "not a format that OpenSlide knows.", slide=slide_id, stage="slide"
        ) from err
    except library.OpenSlideError as err:
        raise SlideOpenError(f"{one_line(err)}.", slide=slide_id, stage="slide") from err
    try:
        facts = _facts(handle)
    except library.OpenSlideError as err:
        handle.close()
        raise SlideOpenError(f"{one_line(err)}.", slide=slide_id, stage="slide") from err
    try:
        with opening(slide_id, "openslide"):
            facts = replace(facts, notes=_ome_notes(file, handle))
    except BaseException:
        handle.close()
        raise
    ycbcr: frozenset[tuple[int, int]] = frozenset()
    if facts.vendor == "dicom":
        ycbcr = levels_mislabelled_rgb(slide_instances(Path(uri))) & frozenset(facts.sizes)
    if ycbcr:
        facts = replace(facts, notes=(*facts.notes, YCBCR_NOTE))
    return assemble(
        lambda info, levels: OpenSlideSlide(info, levels, file, ycbcr), handle, source, facts, cfg
    )


def _facts(handle: Any) -> Facts:
    found = handle.properties
    ome_x, ome_y = ome_mpp(found.get("tiff.ImageDescription"))
    raw = RawResolution(
        # OpenSlide leaves its own key out where the vendor's is no number: show that one then.
        mpp_x=ome_x or found.get("openslide.mpp-x", found.get("aperio.MPP")),
        mpp_y=ome_y or found.get("openslide.mpp-y", found.get("aperio.MPP")),
        objective=found.get("openslide.objective-power"),
        looked_for=_MPP_KEYS,
    )
    return Facts(
        sizes=handle.level_dimensions,
        downsamples=handle.level_downsamples,
        raw=raw,
        vendor=found.get("openslide.vendor"),
        bounds=_bounds(found),
    )


def _ome_notes(file: str, handle: Any) -> tuple[str, ...]:
    """What to say of an OME-TIFF; nothing of other files.

    Raises:
        RefusedError: its channels are pages of their own.
    """
    if "<OME" not in handle.properties.get("tiff.ImageDescription", ""):
        return ()
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages.first
        apart = channels_apart(page.description, page.samplesperpixel)
        if apart is not None:
            raise RefusedError(apart)
        return (_SUBIFDS_NOTE,) if page.subifds and handle.level_count == 1 else ()


def _to_rgb(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Y, Cb, Cr in the place of R, G, B become colours."""
    out = np.array(rgba)
    ycbcr_to_rgb(rgba[..., :3], out[..., :3])
    return out


def _bounds(found: Mapping[str, str]) -> Box | None:
    keys = [f"openslide.bounds-{part}" for part in ("x", "y", "width", "height")]
    if not all(found.get(key, "").lstrip("-").isdigit() for key in keys):
        return None
    return Box(*(int(found[key]) for key in keys))


def _library() -> Any:
    try:
        import openslide
    except (ImportError, OSError) as err:
        raise PluginUnavailableError(
            f"the OpenSlide library does not load: {one_line(err)}.",
            hint="Install it with `pip install openslide-python openslide-bin`.",
        ) from err
    return openslide
