"""Slides of a folder, and what was passed over on the way."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from wsiprep.slide.catalog import slide_suffixes
from wsiprep.slide.dicom import whole_slide_series

__all__ = ["FLAT_SUFFIXES", "FolderSearch", "search_folder"]

FLAT_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
"""Flat pictures: more often overlays and figures than slides, so taken only when asked for."""


@dataclass(frozen=True, slots=True)
class FolderSearch:
    """Result of `search_folder`.

    Attributes:
        slides: Slides, sorted within each folder, sub-folders after files.
        passed: How many files of each extension were passed over.
        unsearched: Sub-folders that were not looked into.
        unreadable: Folders that could not be listed, with the reason.
    """

    slides: tuple[Path, ...]
    passed: dict[str, int]
    unsearched: int
    unreadable: tuple[str, ...]


def search_folder(
    folder: Path, *, recursive: bool = False, suffixes: Collection[str] = ()
) -> FolderSearch:
    """Find the slides of a folder by their names; only DICOM headers are read.

    The .dcm files of a folder are one slide, listed as the folder; where they are several
    series, each is listed as its first file. A folder of .dcm files directly inside counts even
    without `recursive`. The data folder of a .mrxs file, stores (.zarr) and names that begin
    with a dot are left alone. Links are followed, each real folder once.

    Args:
        folder: Where to look.
        recursive: Look in sub-folders too.
        suffixes: Only these extensions, lower case with the dot; all but flat pictures if empty.
    """
    known = slide_suffixes()
    allowed = frozenset(suffixes) if suffixes else known - FLAT_SUFFIXES
    slides: list[Path] = []
    passed: Counter[str] = Counter()
    unsearched = 0
    unreadable: list[str] = []
    seen: set[str] = set()

    def visit(here: Path, *, dicom_only: bool = False) -> None:
        nonlocal unsearched
        real = os.path.realpath(here)
        if real in seen:
            return
        seen.add(real)
        try:
            listing = sorted(here.iterdir())
        except OSError as err:
            unreadable.append(f"{here} ({err.strerror})")
            return
        entries = [p for p in listing if not p.name.startswith(".") and p.suffix != ".zarr"]
        files = [p for p in entries if not p.is_dir()]
        mirax = {p.stem for p in files if p.suffix.lower() == ".mrxs"}
        dicom = [p for p in files if p.suffix.lower() == ".dcm"]
        if dicom and ".dcm" in allowed:
            series = whole_slide_series(here)
            # Without one that can be read it is attempted as a slide, and says why it is none.
            slides.extend([f[0] for f in series.values()] if len(series) > 1 else [here])
            others = len(dicom) - sum(len(f) for f in series.values())
            if series and others:
                passed[".dcm"] += others
        if dicom_only:
            return
        for file in files:
            if file in dicom and ".dcm" in allowed:
                continue
            if file.suffix.lower() in allowed & known:
                slides.append(file)
            else:
                passed[file.suffix.lower() or "(none)"] += 1
        for sub in entries:
            if not sub.is_dir() or sub.name in mirax:
                continue
            if recursive:
                visit(sub)
            elif _holds_dicom(sub):
                visit(sub, dicom_only=True)
            else:
                unsearched += 1

    visit(folder)
    return FolderSearch(tuple(slides), dict(sorted(passed.items())), unsearched, tuple(unreadable))


def _holds_dicom(folder: Path) -> bool:
    try:
        return any(p.suffix.lower() == ".dcm" for p in folder.iterdir())
    except OSError:
        return False  # it is counted among the folders that were not searched
