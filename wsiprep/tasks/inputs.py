"""Which slides a command works on: files, folders, globs, or a manifest."""

from __future__ import annotations

import csv
import glob
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsiprep.core.config import leaves
from wsiprep.core.errors import ManifestError, UsageError
from wsiprep.slide.catalog import MAX_ID_BYTES, slide_id_of
from wsiprep.slide.search import FLAT_SUFFIXES, search_folder
from wsiprep.tasks.columns import near_notes, plain_name
from wsiprep.tasks.config import InputConfig, PrepareConfig

__all__ = ["Inputs", "SlideRef", "gather"]

ALIASES: dict[str, tuple[str, ...]] = {
    "slide_id": ("slide_id", "sample_id", "wsi", "slide", "filename"),
    "path": ("path", "image_path", "slide_path", "wsi_path", "image"),
    "slide_mpp": ("mpp", "spacing_at_level_0", "slide_mpp"),
    "mask": ("mask", "mask_path", "tissue_mask_path"),
    "patient_id": ("patient_id", "case_id", "patient"),
}
"""Column names of the manifest, lower case, that neighbours use for the same thing."""


@dataclass(frozen=True, slots=True)
class SlideRef:
    """A slide to work on.

    Attributes:
        path: File or folder.
        id: Name in outputs.
        fixed_id: The user gave the id.
        overrides: Settings of this slide alone, by leaf name.
    """

    path: Path
    id: str
    fixed_id: bool = False
    overrides: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was found.

    Attributes:
        slides: In a stable order: manifest order, else arguments in order and folders sorted.
        notes: Sentences for the user, e.g. files that were passed over.
    """

    slides: tuple[SlideRef, ...]
    notes: tuple[str, ...]


def gather(cfg: InputConfig) -> Inputs:
    """Find the slides.

    Raises:
        UsageError: nothing was named, or nothing was found.
        ManifestError: the manifest cannot be used; nothing has been written.
    """
    if not cfg.slides and cfg.manifest is None:
        raise UsageError("no slides were named.", hint="Give slide files, folders, or --manifest.")
    notes: list[str] = []
    paths = _unique(_expand(cfg, notes))
    if cfg.manifest is not None:
        slides = _read_manifest(cfg.manifest, paths if cfg.slides else None, notes)
    else:
        slides = [SlideRef(path, slide_id_of(path)) for path in paths]
    if not slides:
        raise UsageError(
            f"no slides were found in {', '.join(cfg.slides)}.",
            hint="Check the path, or pass --recursive or --ext. " + " ".join(notes),
        )
    return Inputs(tuple(slides), tuple(notes))


def _expand(cfg: InputConfig, notes: list[str]) -> Iterator[Path]:
    wanted = {e.lower().lstrip("*").lstrip(".") for e in cfg.ext}
    for text in cfg.slides:
        path = Path(text).expanduser()
        if not os.path.lexists(path) and glob.has_magic(text):
            found = sorted(glob.glob(str(path), recursive=True))
            if not found:
                notes.append(f"'{text}' matches no file.")
            for match in map(Path, found):
                if os.path.isdir(match):
                    yield from _search(match, cfg, wanted, notes)
                elif _wanted(match, wanted):
                    yield match
        elif os.path.isdir(path):
            yield from _search(path, cfg, wanted, notes)
        else:
            # Named outright: it is attempted, and fails with its own reason if it is no slide.
            yield path


def _wanted(path: Path, wanted: set[str]) -> bool:
    return not wanted or path.suffix.lower().lstrip(".") in wanted


def _search(folder: Path, cfg: InputConfig, wanted: set[str], notes: list[str]) -> Iterator[Path]:
    found = search_folder(folder, recursive=cfg.recursive, suffixes={f".{e}" for e in wanted})
    if found.passed:
        listing = ", ".join(f"{count} {suffix}" for suffix, count in found.passed.items())
        flat = " (--ext takes flat pictures)" if FLAT_SUFFIXES & set(found.passed) else ""
        notes.append(f"Passed over in {folder}: {listing}{flat}.")
    notes.extend(f"This folder cannot be listed: {text}." for text in found.unreadable)
    if found.unsearched:
        notes.append(
            f"{found.unsearched} sub-folders of {folder} were not searched (--recursive does)."
        )
    yield from found.slides


def _unique(paths: Iterable[Path]) -> list[Path]:
    seen: dict[str, Path] = {}
    for path in paths:
        seen.setdefault(os.path.realpath(path), path)
    return list(seen.values())


def _read_manifest(manifest: Path, paths: list[Path] | None, notes: list[str]) -> list[SlideRef]:
    """Rows as slides; with `paths`, rows without a path are looked up there by name or stem."""
    rows, columns = _rows(manifest, notes)
    if "path" not in columns.values() and paths is None:
        raise ManifestError(
            f"{manifest} has no column for the path.",
            hint=f"Name it one of {', '.join(ALIASES['path'])}, or give SLIDES to look in.",
        )
    by_name: dict[str, list[Path]] = {}
    for path in paths or []:
        for name in {path.name, path.stem, slide_id_of(path)}:
            by_name.setdefault(name, []).append(path)
    slides: list[SlideRef] = []
    lines: list[int] = []
    for number, row in rows:
        values = {name: row[column].strip() for column, name in columns.items() if row[column]}
        values = {name: value for name, value in values.items() if value}
        where = f"{manifest}, line {number}"
        given = values.pop("slide_id", None)
        text = values.pop("path", None)
        values.pop("patient_id", None)
        if text is not None:
            path = Path(text).expanduser()
            path = path if path.is_absolute() else manifest.parent / path
        elif given is not None:
            found = by_name.get(given, [])
            if len(found) != 1:
                raise ManifestError(
                    f"{where}: '{given}' names {len(found)} of the slides given.",
                    hint="Add a path column.",
                )
            path = found[0]
            given = None if slide_id_of(path) == given or path.name == given else given
        else:
            raise ManifestError(f"{where}: neither a path nor an id.")
        if "mask" in values and not Path(values["mask"]).expanduser().is_absolute():
            values["mask"] = str(manifest.parent / values["mask"])
        slide_id = _checked_id(given, where) if given is not None else slide_id_of(path)
        slides.append(SlideRef(path, slide_id, given is not None, values))
        lines.append(number)
    _check_apart(manifest, slides, lines)
    return slides


def _check_apart(manifest: Path, slides: list[SlideRef], lines: list[int]) -> None:
    """Refuse rows that would write into one store."""
    owners: dict[str, list[tuple[SlideRef, int]]] = {}
    for ref, line in zip(slides, lines, strict=True):
        namesakes = owners.setdefault(ref.id.casefold(), [])
        for other, before in namesakes:
            same = os.path.realpath(ref.path) == os.path.realpath(other.path)
            if same or ref.fixed_id or other.fixed_id:
                raise ManifestError(
                    f"{manifest}, line {line}: the id '{ref.id}' is also on line {before}.",
                    hint="Give every row its own slide_id.",
                )
        namesakes.append((ref, line))


def _rows(
    manifest: Path, notes: list[str]
) -> tuple[list[tuple[int, dict[str, str]]], dict[str, str]]:
    """Rows with their line numbers, and manifest column -> our name for columns we use."""
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise ManifestError(f"{manifest} cannot be read: {err}.") from err
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    if not reader.fieldnames:
        raise ManifestError(f"{manifest} is empty.", hint="Its first line names the columns.")
    settings = {name: section for section, name, _, _ in leaves(PrepareConfig)}
    columns: dict[str, str] = {}
    plains = {plain_name(column) for column in reader.fieldnames}
    passed: list[str] = []
    for column in reader.fieldnames:
        plain = plain_name(column)
        name = next((n for n, others in ALIASES.items() if plain in others), None)
        if name is not None and plain != name and name in plains:
            continue  # `filename` beside `slide_id`: the plain name says it
        if name is None and settings.get(plain) in ("slide", "tissue"):
            name = plain
        if name is None and plain in settings:
            raise ManifestError(
                f"{manifest}: '{column}' cannot be set for one slide.",
                hint=f"Pass --{plain.replace('_', '-')} for all; per slide are mpp, mask and the "
                "settings of tissue detection.",
            )
        if name is None:  # labels and the like, which others put into the same table
            passed.append(column)
            continue
        if name in columns.values():
            raise ManifestError(f"{manifest}: two columns mean {name}.", hint="Remove one.")
        columns[column] = name
    own = {name for name, section in settings.items() if section in ("slide", "tissue")}
    notes += near_notes(manifest, passed, {*own, *ALIASES, "mpp"} - {"patient_id"})
    rows = []
    for row in _parsed(reader, manifest):
        if None in row:
            raise ManifestError(
                f"{manifest}, line {reader.line_num}: more cells than columns.",
                hint="Quote cells that contain the delimiter.",
            )
        rows.append((reader.line_num, row))
    return rows, columns


def _parsed(reader: csv.DictReader[str], manifest: Path) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as err:
        raise ManifestError(f"{manifest}, line {reader.line_num}: {err}.") from err


def _checked_id(text: str, where: str) -> str:
    bad = (
        not text
        or text in {".", ".."}
        or text.startswith(".")
        or any(c in "/\\" or ord(c) < 32 or ord(c) == 127 for c in text)
        or len(text.encode("utf-8", "surrogateescape")) > MAX_ID_BYTES
    )
    if bad:
        raise ManifestError(
            f"{where}: {text!r} cannot be a slide id.",
            hint=f"Use a plain name: no / or \\, no control characters, not starting with a dot, "
            f"at most {MAX_ID_BYTES} bytes.",
        )
    return text
