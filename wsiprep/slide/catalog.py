"""What counts as a slide in a folder, and what it is called; opens nothing."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from functools import cache
from pathlib import Path

from wsiprep.core.errors import PluginUnavailableError, SlideOpenError
from wsiprep.slide.readers import registry as readers

__all__ = ["looks_like_slide", "readers", "slide_id_of", "slide_suffixes"]

MAX_ID_BYTES = 180
"""Leaves room for `-<fingerprint>.zarr` within the 255 bytes of a file name."""

_DICOM = ".dcm"


@cache
def slide_suffixes() -> frozenset[str]:
    """File extensions of all readers, lower case with the dot.

    A reader that does not import adds none: it could not open the file either.
    """
    found: set[str] = set()
    for name in readers.names():
        try:
            found.update(readers.load(name).EXTENSIONS)
        except PluginUnavailableError:
            continue
    return frozenset(found)


def looks_like_slide(path: str | os.PathLike[str]) -> bool:
    """Whether a path is taken for a slide when a folder is searched; judged by name.

    A file is one if a reader lists its extension and its name does not begin with a dot (as the
    companions that macOS writes beside files do). A folder is one if it holds .dcm files.
    """
    path = Path(path)
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return _holds_dicom(path)
    return path.suffix.lower() in slide_suffixes() and path.is_file()


def slide_id_of(path: str | os.PathLike[str]) -> str:
    """Default name of a slide in outputs: the file's stem, or the folder's name.

    Normalised to NFC, so that a name typed on macOS and on Linux is the same; control characters,
    path separators and undecodable bytes become `_`; a name above 180 bytes is cut and ends in a
    hash of the whole.
    """
    path = Path(os.path.abspath(path))
    name = unicodedata.normalize("NFC", path.name if os.path.isdir(path) else path.stem)
    clean = "".join("_" if c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") else c
                    for c in name)  # fmt: skip
    clean = clean if clean.strip(" .") else "_" * max(1, len(clean))
    if len(clean.encode()) > MAX_ID_BYTES:
        kept = clean.encode()[: MAX_ID_BYTES - 9].decode(errors="ignore")
        clean = f"{kept}-{hashlib.sha256(clean.encode()).hexdigest()[:8]}"
    return clean


def _holds_dicom(folder: Path) -> bool:
    return any(
        p.suffix.lower() == _DICOM and not p.name.startswith(".") and p.is_file()
        for p in _entries(folder)
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as err:
        raise SlideOpenError(
            f"the folder cannot be listed: {err.strerror or err}.", slide=str(folder), stage="slide"
        ) from err
