"""Identity of a slide's content, cheap enough to take of every slide at every run.

The fingerprint of one file is sha256 over its length (8 bytes, little endian), its first MiB and
its last MiB (the same bytes twice where the file is shorter). A slide of several files is sha256
over the fingerprints of its parts, in this order:

- DICOM: every instance of the whole-slide series, sorted by file name. A folder and any file of
  the series in it give the same.
- MRXS: the .mrxs file, `Slidedat.ini` in the data folder (whole), then name and length of every
  file of the data folder, sorted by name.

It tells apart slides and notices a replaced or cut file. It does not notice a change in the
middle of a file that keeps its length: hashing gigabytes at every run is not worth that.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from wsiprep.core.errors import SlideOpenError
from wsiprep.slide.dicom import is_dicom, slide_instances

__all__ = ["fingerprint"]

_END_BYTES = 1 << 20


def fingerprint(path: str | os.PathLike[str]) -> str:
    """sha256 (hex) over length and ends of the file or files of a slide.

    Raises:
        SlideOpenError: a file cannot be read, or a folder holds no slide.
    """
    path = Path(path)
    try:
        return _fingerprint(path)
    except OSError as err:
        if isinstance(err, SlideOpenError):
            raise
        raise SlideOpenError(
            f"cannot be read: {err.strerror or err}.", slide=str(path), stage="slide"
        ) from err


def _fingerprint(path: Path) -> str:
    if path.is_dir() or is_dicom(path):
        parts = slide_instances(path)
        if parts:
            return _combined(_of_file(part) for part in parts)
        if path.is_dir():
            raise SlideOpenError(
                "the folder holds no DICOM whole-slide image.", slide=str(path), stage="slide"
            )
    if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
        return _of_mrxs(path)
    return _of_file(path)


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(length.to_bytes(8, "little"))
        for start in (0, max(0, length - _END_BYTES)):
            file.seek(start)
            digest.update(file.read(_END_BYTES))
    return digest.hexdigest()


def _of_mrxs(path: Path) -> str:
    folder = path.with_suffix("")
    parts = [_of_file(path)]
    index = folder / "Slidedat.ini"
    if index.is_file():
        parts.append(hashlib.sha256(index.read_bytes()).hexdigest())
    for file in sorted(folder.iterdir(), key=lambda p: p.name):
        parts.append(f"{file.name}:{file.stat().st_size}")
    return _combined(parts)


def _combined(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(os.fsencode(part) + b"\n")
    return digest.hexdigest()
