"""What counts as a slide in a folder, and what it is called; opens nothing."""

from __future__ import annotations

import os
import unicodedata
from functools import cache
from pathlib import Path

from wsiprep.core.errors import PluginUnavailableError, SlideOpenError
from wsiprep.core.registry import Registry

__all__ = ["looks_like_slide", "readers", "slide_id_of", "slide_suffixes", "slides_in"]

readers = Registry("reader", "wsiprep.slide.readers", "wsiprep.readers")
"""Readers by name; a module defines `EXTENSIONS` and `create`, see `readers/_base.py`."""

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


def slides_in(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """Slides of a folder, sorted by path.

    A folder of .dcm files is one slide, listed as the folder, `folder` itself included. Neither
    it nor the data folder of a .mrxs file is searched for others. Links to folders are followed,
    each real folder once.

    Args:
        folder: Where to look.
        recursive: Look in sub-folders too; DICOM folders directly inside count in any case.

    Raises:
        SlideOpenError: a folder cannot be listed.
    """
    found: list[Path] = []
    seen: set[str] = set()
    todo = [Path(folder)]
    while todo:
        here = todo.pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        if _holds_dicom(here):
            found.append(here)
            found += [p for p in _entries(here) if p.suffix.lower() != _DICOM and _is_file(p)]
            continue
        entries = _entries(here)
        found += [p for p in entries if _is_file(p)]
        mirax = {p.stem for p in entries if p.suffix.lower() == ".mrxs"}
        for sub in entries:
            if not sub.is_dir() or sub.name.startswith(".") or sub.name in mirax:
                continue
            if recursive or _holds_dicom(sub):
                todo.append(sub)
    return sorted(found)


def slide_id_of(path: str | os.PathLike[str]) -> str:
    """Default name of a slide in outputs: the file's stem, or the folder's name.

    Normalised to NFC, so that a name typed on macOS and on Linux is the same; control characters,
    path separators and undecodable bytes become `_`.
    """
    path = Path(os.path.abspath(path))
    name = unicodedata.normalize("NFC", path.name if path.is_dir() else path.stem)
    clean = "".join("_" if c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") else c
                    for c in name)  # fmt: skip
    return clean if clean.strip(" .") else "_" * max(1, len(clean))


def _is_file(path: Path) -> bool:
    return not path.is_dir() and looks_like_slide(path)


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
