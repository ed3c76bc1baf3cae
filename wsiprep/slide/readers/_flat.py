"""Flat PNG, JPEG and TIFF files: headers read without decoding, and decoders that do not guess.

Source: PNG (W3C Recommendation, chunks IHDR and pHYs), JPEG (ITU-T T.81, markers), JFIF 1.02
(density), TIFF 6.0.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsiprep.slide.ome import channels_apart
from wsiprep.slide.readers._base import on_white, one_line
from wsiprep.slide.resolution import MAX_MPP, MIN_MPP, RawResolution
from wsiprep.slide.truncation import is_tiff, tiff_cut_at

__all__ = ["FlatFormatError", "Header", "decode", "read_header", "tiff_resolution"]

# Without a handler, Python prints a library's warnings about odd files to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_NOTE = "The image is greyscale; it is repeated into red, green and blue."
_UNIT_UM = {"INCH": 25400.0, "CENTIMETER": 1e4, "MILLIMETER": 1e3, "MICROMETER": 1.0}


class FlatFormatError(Exception):
    """The file is not a flat image that can be used; the message says why, without full stop."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a flat image says."""

    kind: Literal["PNG", "JPEG", "TIFF"]
    width: int
    height: int
    resolution: RawResolution
    notes: tuple[str, ...] = ()


def read_header(path: Path) -> Header:
    """Read the header of a PNG, JPEG or TIFF file.

    Raises:
        FlatFormatError: it is none of these, is cut short, or has pixels that are not used.
        OSError: the file cannot be read.
    """
    if path.is_dir():
        raise FlatFormatError("a folder, not an image file")
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if head.startswith(_PNG_SIGNATURE):
        return _png_header(head)
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg_header(path.read_bytes())
    if is_tiff(head):
        return _tiff_header(path)
    raise FlatFormatError("not a PNG, JPEG or TIFF file")


def decode(path: Path, header: Header) -> NDArray[np.uint8]:
    """Decode the whole image.

    Returns:
        uint8 (height, width, 3) RGB, alpha on white.

    Raises:
        FlatFormatError: the data are damaged or cut short.
        OSError: the file cannot be read.
    """
    try:
        if header.kind == "PNG":
            import imagecodecs

            pixels = imagecodecs.png_decode(path.read_bytes())
        elif header.kind == "JPEG":
            pixels = _decode_jpeg(path.read_bytes())
        else:
            pixels = _decode_tiff(path)
    except (OSError, FlatFormatError):
        raise
    except Exception as err:  # decoders raise whatever they like
        raise FlatFormatError(f"a damaged {header.kind}: {one_line(err)}") from err
    rgb = _as_rgb(np.asarray(pixels))
    if rgb.shape != (header.height, header.width, 3):
        raise FlatFormatError(f"a {header.kind} that decodes to {rgb.shape}, unlike its header")
    return rgb


def tiff_resolution(page: Any) -> RawResolution:
    """µm per pixel of a tifffile page from its resolution tags; nothing where the unit is none."""
    keys = ("XResolution", "YResolution", "ResolutionUnit")
    tags = [page.tags.get(key) for key in keys]
    unit = getattr(tags[2].value, "name", "") if tags[2] is not None else "INCH"
    um = _UNIT_UM.get(unit)

    def mpp(tag: Any) -> float | None:
        if tag is None or um is None:
            return None
        over, under = tag.value
        return um * under / over if over else 0.0

    return RawResolution(mpp(tags[0]), mpp(tags[1]), looked_for=[f"TIFF tag {key}" for key in keys])


def _believable(kind: str, mpp_x: float | None, mpp_y: float | None) -> RawResolution:
    """Print resolutions such as 72 dpi say nothing about a slide: they count as not given."""
    given = [v for v in (mpp_x, mpp_y) if v is not None]
    if given and all(MIN_MPP <= v <= MAX_MPP for v in given):
        return RawResolution(mpp_x, mpp_y, looked_for=[kind])
    found = f" (found {25400 / given[0]:.4g} dpi, a print resolution)" if given and given[0] else ""
    return RawResolution(looked_for=[kind + found])


def _png_header(head: bytes) -> Header:
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise FlatFormatError("a PNG cut short in its header")
    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (16, 20))
    depth, colour = head[24], head[25]
    if depth == 16:
        raise FlatFormatError("a 16-bit PNG; 8 bits a channel are read")
    at, mpp_x, mpp_y = 33, None, None
    while at + 12 <= len(head) and head[at + 4 : at + 8] != b"IDAT":
        length = int.from_bytes(head[at : at + 4], "big")
        if head[at + 4 : at + 8] == b"pHYs" and head[at + 16] == 1:  # per metre
            per_m = [int.from_bytes(head[at + i : at + i + 4], "big") for i in (8, 12)]
            mpp_x, mpp_y = (1e6 / n if n else None for n in per_m)
        at += 12 + length
    notes = (_GREY_NOTE,) if colour in (0, 4) else ()
    return Header("PNG", width, height, _believable("PNG chunk pHYs", mpp_x, mpp_y), notes)


def _jpeg_header(data: bytes) -> Header:
    at, mpp_x, mpp_y = 2, None, None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise FlatFormatError("a damaged JPEG: no marker where one must be")
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 12:
            um = {1: 25400.0, 2: 1e4}.get(body[7])
            density = [int.from_bytes(body[i : i + 2], "big") for i in (8, 10)]
            if um:
                mpp_x, mpp_y = (um / n if n else None for n in density)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            if body[0] != 8:
                raise FlatFormatError(f"a {body[0]}-bit JPEG; 8 bits a channel are read")
            height, width = (int.from_bytes(body[i : i + 2], "big") for i in (1, 3))
            # A cut file lacks its end marker; decoders would fill the rest with grey.
            if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
                raise FlatFormatError("a JPEG cut short: its end marker is missing")
            notes = (_GREY_NOTE,) if body[5] == 1 else ()
            resolution = _believable("JFIF density", mpp_x, mpp_y)
            return Header("JPEG", width, height, resolution, notes)
        at += 2 + length
    raise FlatFormatError("a JPEG cut short in its header")


def _tiff_header(path: Path) -> Header:
    cut = tiff_cut_at(path)
    if cut is not None:
        raise FlatFormatError(f"a TIFF cut short: {cut}")
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages.first
            if len(tiff.series[0].levels) > 1:
                raise FlatFormatError("a pyramidal TIFF, which is not flat")
            apart = channels_apart(page.description, page.samplesperpixel)
            if apart is not None:
                raise FlatFormatError(apart)
            samples, sort = page.samplesperpixel, page.photometric.name
            what = f"{samples} channel(s) of {page.dtype}, {sort}"
            if page.dtype != np.uint8 or page.bitspersample != 8:
                raise FlatFormatError(f"a TIFF with {what}; 8 bits a channel are read")
            channels = {"MINISBLACK": (1,), "RGB": (3, 4), "YCBCR": (3,)}.get(sort, ())
            if samples not in channels or page.imagedepth != 1:
                raise FlatFormatError(f"a TIFF with {what}; RGB or greyscale is read")
            if samples == 4 and page.extrasamples[:1] not in ((1,), (2,)):
                raise FlatFormatError("a TIFF whose fourth channel is not declared as alpha")
            ends = np.asarray(page.dataoffsets) + np.asarray(page.databytecounts)
            if ends.size == 0 or int(ends.max()) > path.stat().st_size:
                raise FlatFormatError("a TIFF cut short: pixel data lie beyond its end")
            notes = (_GREY_NOTE,) if samples == 1 else ()
            size = page.imagewidth, page.imagelength
            return Header("TIFF", *size, tiff_resolution(page), notes)
    except (OSError, FlatFormatError):
        raise
    except Exception as err:  # tifffile raises whatever it likes on odd files
        raise FlatFormatError(f"a damaged TIFF: {one_line(err)}") from err


def _decode_jpeg(data: bytes) -> NDArray[Any]:
    import cv2

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise FlatFormatError("a damaged JPEG")
    return pixels


def _decode_tiff(path: Path) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages.first
        pixels: NDArray[Any] = page.asarray()
        # PlanarConfiguration 2 keeps the channels apart.
        if page.samplesperpixel > 1 and page.axes.startswith("S"):
            pixels = np.moveaxis(pixels, 0, -1)
        if page.extrasamples[:1] == (1,):  # colour multiplied by alpha already
            white = 255 - pixels[..., 3:].astype(np.uint16)
            pixels = np.minimum(pixels[..., :3] + white, 255).astype(np.uint8)
    return pixels


def _as_rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise FlatFormatError(f"an image of {pixels.dtype}; 8 bits a channel are read")
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.shape[-1] in (1, 2):  # grey, grey with alpha
        pixels = np.concatenate([*[pixels[..., :1]] * 3, pixels[..., 1:]], axis=-1)
    if pixels.shape[-1] == 4:
        return on_white(np.ascontiguousarray(pixels))
    return np.ascontiguousarray(pixels)
