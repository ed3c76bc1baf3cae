"""Which DICOM files belong to one slide: a reader of the few header fields that decide it.

A DICOM slide is a series: one file for each level (or part of a level), label and overview, in
one folder. Only the first elements are walked, with nested sequences skipped, because a sequence
may hold the UID of another series.

Source: DICOM PS3.5 (data element encoding) and PS3.10 (file meta information).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsiprep.core.errors import SlideOpenError
from wsiprep.slide.dicom_elements import UNDEFINED, Tag, element, skip_sequence

__all__ = ["DicomHeader", "is_dicom", "read_header", "slide_instances", "whole_slide_series"]

WSI_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of VL Whole Slide Microscopy Image Storage."""

_HEADER_BYTES = 1 << 20  # what is wanted lies before the long per-frame groups
_IMPLICIT_LE = "1.2.840.10008.1.2"
_NOT_WALKED = {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"}  # deflated; big endian
_TRANSFER_SYNTAX, _SOP_CLASS, _SERIES = (0x0002, 0x0010), (0x0008, 0x0016), (0x0020, 0x000E)
_PHOTOMETRIC, _WIDTH, _HEIGHT = (0x0028, 0x0004), (0x0048, 0x0006), (0x0048, 0x0007)
_LAST = _HEIGHT


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """What a DICOM file is part of; empty text or 0 where the file does not say.

    Attributes:
        sop_class: Kind of object.
        series: UID of the series.
        transfer_syntax: Encoding of the pixels.
        photometric: PhotometricInterpretation, what the channels are said to be.
        width: Columns of the whole level that the file is part of.
        height: Its rows.
    """

    sop_class: str
    series: str
    transfer_syntax: str
    photometric: str
    width: int
    height: int


def is_dicom(path: Path) -> bool:
    """Whether the file has the DICOM prefix after its 128-byte preamble."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: Path) -> DicomHeader | None:
    """SOP class and series of a DICOM file; None where it is not DICOM or cannot be walked.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_HEADER_BYTES)
    if data[128:132] != b"DICM":
        return None
    return _walk(data)


def whole_slide_series(folder: Path, also: Path | None = None) -> dict[str, list[Path]]:
    """Whole-slide series of a folder: UID -> its .dcm files, sorted by name.

    Args:
        folder: Where to look; sub-folders are not entered.
        also: A file of the folder that counts whatever its extension.

    Raises:
        OSError: the folder or a file of it cannot be read.
    """
    series: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir(), key=lambda p: p.name):
        if file.name.startswith(".") or not file.is_file():
            continue
        if file.suffix.lower() != ".dcm" and file != also:
            continue
        header = read_header(file)
        if header is not None and header.sop_class == WSI_STORAGE:
            series.setdefault(header.series, []).append(file)
    return series


def slide_instances(path: Path) -> tuple[Path, ...]:
    """Files of the slide that a folder, or one of its files, stands for, sorted by name.

    Args:
        path: A folder of .dcm files, or one such file: then its series in its folder.

    Returns:
        Instances of one whole-slide series; empty where there are none.

    Raises:
        SlideOpenError: a folder holds more than one whole-slide series.
        OSError: the folder or a file of it cannot be read.
    """
    series = whole_slide_series(path if path.is_dir() else path.parent, also=path)
    if path.is_dir():
        if len(series) > 1:
            firsts = ", ".join(files[0].name for files in series.values())
            raise SlideOpenError(
                f"the folder holds {len(series)} DICOM whole-slide series.",
                slide=str(path),
                stage="slide",
                hint=f"Give one file of the wanted series instead: {firsts}.",
            )
        return tuple(*series.values())
    return next((tuple(files) for files in series.values() if path in files), ())


def _walk(data: bytes) -> DicomHeader | None:
    found: dict[Tag, bytes] = {}
    at, explicit = 132, True
    try:
        while True:
            syntax = _text(found, _TRANSFER_SYNTAX)
            if data[at : at + 2] != b"\x02\0":  # past the file meta group, which is explicit
                if syntax in _NOT_WALKED:
                    return None
                explicit = syntax != _IMPLICIT_LE
            tag, start, length = element(data, at, explicit)
            if tag > _LAST:
                break
            if length == UNDEFINED:
                at = skip_sequence(data, start, explicit)
                continue
            if length <= 64:
                found[tag] = data[start : start + length]
            at = start + length
    except (IndexError, RecursionError):  # ran off the end: cut short, or not what it claims
        if _SERIES not in found:
            return None
    return DicomHeader(
        sop_class=_text(found, _SOP_CLASS),
        series=_text(found, _SERIES),
        transfer_syntax=_text(found, _TRANSFER_SYNTAX),
        photometric=_text(found, _PHOTOMETRIC),
        width=int.from_bytes(found.get(_WIDTH, b""), "little"),
        height=int.from_bytes(found.get(_HEIGHT, b""), "little"),
    )


def _text(found: dict[Tag, bytes], tag: Tag) -> str:
    return found.get(tag, b"").rstrip(b"\0 ").decode("ascii", "replace")
