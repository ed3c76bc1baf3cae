"""Reader `image`: one flat PNG, JPEG or TIFF of 8-bit pixels, decoded whole into memory.

The header is judged before anything is decoded: more than 2^30 pixels (3 GiB as RGB) are refused,
and so are 16-bit, floating-point and pyramidal files. Greyscale is repeated into R, G and B, with
a note. EXIF orientation and ICC profiles are not applied: pixels come as stored.

The scale of a TIFF is that of its resolution tags. PNG and JPEG nearly always carry a print
default such as 72 dpi; only a value of a microscope's range (0.05 to 20 µm/px) is believed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import SlideOpenError
from wsiprep.core.types import Box, SlideInfo
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.facts import Facts, Source
from wsiprep.slide.fingerprint import fingerprint
from wsiprep.slide.readers._base import BaseSlide, assemble
from wsiprep.slide.readers._flat import FlatFormatError, decode, read_header

__all__ = ["EXTENSIONS", "MAX_PIXELS", "ImageSlide", "create"]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

MAX_PIXELS = 1 << 30
"""Largest image that is decoded, in pixels."""


class ImageSlide(BaseSlide):
    """A flat image; its "handle" is the decoded picture, uint8 (h, w, 3), read-only.

    Handles made by `reopen` in the same process share the picture; another process decodes it
    anew.
    """

    survives_fork: ClassVar[bool] = True

    def __init__(self, info: SlideInfo, native_levels: tuple[int, ...], file: str) -> None:
        super().__init__(info, native_levels)
        self._file = file

    def _open_handle(self) -> Any:
        return _load(self._file)

    def _close_handle(self, handle: Any) -> None:
        del handle

    def _read_box(self, handle: Any, level: int, box: Box) -> NDArray[np.uint8]:
        return np.array(handle[box.y : box.y + box.height, box.x : box.x + box.width])

    def reopen(self) -> ImageSlide:
        """A new handle that shares the decoded picture."""
        twin = super().reopen()
        if self._handle is not None:
            twin.adopt(self._handle)
        return twin


def create(uri: str, cfg: SlideConfig, *, slide_id: str, reason: str) -> ImageSlide:
    """Open and decode a flat image.

    Raises:
        SlideOpenError: not such an image, too large, or broken; says which.
        ResolutionError: the scale is missing, implausible or not square.
    """
    try:
        header = read_header(Path(uri))
        if header.width * header.height > MAX_PIXELS:
            raise FlatFormatError(
                f"{header.width} x {header.height} px is more than the {MAX_PIXELS} px that a "
                "flat image may have; convert it to a tiled pyramid"
            )
        picture = _load(uri)
    except FlatFormatError as err:
        raise SlideOpenError(f"{err}.", slide=slide_id, stage="slide") from err
    except OSError as err:
        raise SlideOpenError(
            f"cannot be read: {err.strerror or err}.", slide=slide_id, stage="slide"
        ) from err
    facts = Facts(
        sizes=[(picture.shape[1], picture.shape[0])], raw=header.resolution, notes=header.notes
    )
    source = Source(slide_id, uri, "image", reason, fingerprint(uri))
    return assemble(lambda info, levels: ImageSlide(info, levels, uri), picture, source, facts, cfg)


def _load(uri: str) -> NDArray[np.uint8]:
    path = Path(uri)
    picture = decode(path, read_header(path))
    picture.flags.writeable = False
    return picture
