"""What a file that no reader opens most likely is."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from wsiprep.slide.dicom import is_dicom, slide_instances
from wsiprep.slide.ome import channels_apart
from wsiprep.slide.truncation import is_tiff, tiff_cut_at

__all__ = ["diagnose"]

# Without a handler, Python prints a library's warnings about odd files to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_HEAD_BYTES = 4096
_ARCHIVES = {b"PK\x03\x04": "ZIP", b"\x1f\x8b": "gzip", b"7z\xbc\xaf": "7z", b"Rar!": "RAR",
             b"BZh": "bzip2", b"\xfd7zXZ": "xz"}  # fmt: skip


def diagnose(path: Path) -> str:
    """One or two sentences on what the path is and what to do about it.

    Raises:
        OSError: the file cannot be read, or a folder holds several DICOM slides.
    """
    if path.is_dir():
        if slide_instances(path):
            return "It is a folder of DICOM files, which only the readers dicom and openslide take."
        return "It is a folder without DICOM whole-slide files; give the slide file inside it."
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return "The file is empty (0 bytes): copy it again."
    if is_dicom(path) and not slide_instances(path):
        return "It is a DICOM file, but not of a whole-slide image."
    if not any(head):
        return "The file begins with zeros only, as an interrupted copy leaves it: copy it again."
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            return f"It is a {name} archive: unpack it first."
    if head.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer, not the slide: run `git lfs pull`."
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "It is a web page, as a download that needed a login leaves it: download it again."
    if _is_text(head):
        return "It is a text file whatever its extension says."
    if is_tiff(head):
        cut = tiff_cut_at(path)
        if cut is not None:
            return f"The TIFF is cut short ({cut}): copy it again."
        return _whole_tiff(path)
    return "Its content is none of the slide formats that the readers know."


def _whole_tiff(path: Path) -> str:
    """What a TIFF is whose directories are all there."""
    import tifffile

    apart = None
    with suppress(Exception), tifffile.TiffFile(path) as tiff:  # odd files raise what they like
        first: Any = tiff.pages.first
        apart = channels_apart(first.description, first.samplesperpixel)
        for page in (*tiff.pages, *(first.pages or ())):
            parts = zip(page.dataoffsets, page.databytecounts, strict=True)
            beyond = sum(offset + count > tiff.filehandle.size for offset, count in parts)
            if beyond:
                return (
                    f"The TIFF is cut short ({beyond} of {len(page.dataoffsets)} parts of a "
                    f"picture of {page.imagewidth} x {page.imagelength} px lie beyond its end): "
                    "copy it again."
                )
    if apart is not None:
        return (
            f"It is {apart}; only RGB pixels are read. Where the channels are red, green and "
            "blue, save them as one RGB picture (axes YXS)."
        )
    return "It is a TIFF, damaged or of a kind that no reader knows; `--reader` tries just one."


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as err:
        if err.start < len(head) - 4:  # not merely a character cut by the end of `head`
            return False
        text = head[: err.start].decode("utf-8")
    return all(c.isprintable() or c in "\r\n\t\f\ufeff" for c in text)
