"""Slides with what is true of them: from a manifest, or from folders of image and mask."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsiprep.core.config import leaves
from wsiprep.core.errors import ManifestError, UsageError
from wsiprep.slide.catalog import looks_like_slide, slide_id_of
from wsiprep.tasks import inputs
from wsiprep.tasks.columns import near_notes, plain_name
from wsiprep.tasks.evaluate_config import EvaluateTissueConfig, PairsConfig

__all__ = ["Pair", "find_pairs"]

ALIASES: dict[str, tuple[str, ...]] = {
    **{name: inputs.ALIASES[name] for name in ("path", "slide_id", "slide_mpp")},
    "reference": ("reference", "reference_mask", *inputs.ALIASES["mask"]),
    "reference_pen": ("reference_pen",),
    "predicted": ("predicted", "prediction", "predicted_mask"),
    "group": (*inputs.ALIASES["patient_id"], "group"),
    "split": ("split",),
}
"""Column names of the manifest, lower case, by what they mean."""

PATHS = ("path", "reference", "reference_pen", "predicted")
MASK_ENDS = ("_mask", "-mask", ".mask")
MASK_SUFFIXES = (".png", ".tif", ".tiff")
OUTLINE_SUFFIXES = (".geojson",)
IMAGE_FOLDERS = ("images", "slides")
MASK_FOLDERS = ("masks", "references")


@dataclass(frozen=True, slots=True)
class Pair:
    """A slide and its reference.

    Attributes:
        path: The slide, or a plain image.
        id: Its name in outputs.
        reference: Mask image or GeoJSON of the tissue.
        reference_pen: The same of the ink, or None.
        predicted: A prediction to evaluate, or None.
        group: Patient, or the slide's path: what is resampled as one.
        split: Value of the column `split`.
        overrides: Settings of this slide alone, by leaf name.
    """

    path: Path
    id: str
    reference: Path
    reference_pen: Path | None = None
    predicted: Path | None = None
    group: str = ""
    split: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)


def find_pairs(cfg: PairsConfig) -> tuple[list[Pair], list[str]]:
    """Slides with their references in a stable order, and sentences for the user.

    Raises:
        UsageError: nothing was named, or nothing was found.
        ManifestError: the manifest cannot be used.
    """
    if not cfg.pairs and cfg.manifest is None:
        raise UsageError(
            "no slides were named.", hint="Give folders of image and mask, or --manifest."
        )
    notes: list[str] = []
    pairs = [pair for text in cfg.pairs for pair in _of_folder(Path(text).expanduser(), notes)]
    if cfg.manifest is not None:
        pairs += _of_manifest(cfg.manifest, cfg.split, notes)
    elif cfg.split is not None:
        raise UsageError(
            "--split needs a manifest.", hint="Folders of pairs have no column `split`."
        )
    if not pairs:
        raise UsageError(
            "no slide with a reference was found.",
            hint=" ".join(notes) or "Check the column `reference`.",
        )
    return pairs, notes


def _of_folder(folder: Path, notes: list[str]) -> list[Pair]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", hint="A CSV file is given with --manifest.")
    images = next((folder / n for n in IMAGE_FOLDERS if (folder / n).is_dir()), folder)
    masks = next((folder / n for n in MASK_FOLDERS if (folder / n).is_dir()), folder)
    apart = images != masks
    slides: dict[str, list[Path]] = {}
    references: dict[str, list[Path]] = {}
    for path in sorted(masks.iterdir()):
        stem = _reference_stem(path, apart)
        if stem is not None:
            references.setdefault(stem, []).append(path)
    for path in sorted(images.iterdir()):
        if looks_like_slide(path) and (apart or _reference_stem(path, apart) is None):
            slides.setdefault(path.name if path.is_dir() else path.stem, []).append(path)
    pairs: list[Pair] = []
    for stem, paths in slides.items():
        found = references.pop(stem, [])
        for what, several in (("slide", paths), ("reference", found)):
            if len(several) > 1:
                names = ", ".join(path.name for path in several)
                raise UsageError(
                    f"{folder}: '{stem}' has more than one {what}: {names}.",
                    hint="Name the pairs in a manifest.",
                )
        if found:
            pairs.append(Pair(paths[0], slide_id_of(paths[0]), found[0], group=str(paths[0])))
        else:
            notes.append(f"{paths[0]} has no reference and is passed over.")
    notes += [f"{paths[0]} has no slide and is passed over." for paths in references.values()]
    return pairs


def _reference_stem(path: Path, apart: bool) -> str | None:
    """Stem of the slide that a file is the reference of, or None where it is none."""
    suffix = path.suffix.lower()
    if path.name.startswith(".") or suffix not in (*MASK_SUFFIXES, *OUTLINE_SUFFIXES):
        return None
    for end in MASK_ENDS:
        if path.stem.lower().endswith(end):
            return path.stem[: -len(end)]
    return path.stem if apart or suffix in OUTLINE_SUFFIXES else None


def _of_manifest(manifest: Path, split: str | None, notes: list[str]) -> list[Pair]:
    rows, columns = _rows(manifest, notes)
    for needed in ("path", "reference"):
        if needed not in columns.values():
            raise ManifestError(
                f"{manifest} has no column for the {needed}.",
                hint=f"Name it one of {', '.join(ALIASES[needed])}.",
            )
    if split is not None and "split" not in columns.values():
        raise ManifestError(f"{manifest} has no column `split`.", hint="Leave out --split.")
    pairs: list[Pair] = []
    without = 0
    for line, row in rows:
        values = {name: (row[column] or "").strip() for column, name in columns.items()}
        values = {name: value for name, value in values.items() if value}
        own_split = values.pop("split", "")
        if split is not None and own_split != split:
            continue
        paths = {name: _path(manifest, values.pop(name)) for name in PATHS if name in values}
        if "path" not in paths:
            raise ManifestError(f"{manifest}, line {line}: there is no path.")
        if "reference" not in paths:
            without += 1
            continue
        path = paths["path"]
        pairs.append(
            Pair(
                path,
                values.pop("slide_id", "") or slide_id_of(path),
                paths["reference"],
                paths.get("reference_pen"),
                paths.get("predicted"),
                values.pop("group", "") or str(path),
                own_split,
                values,
            )
        )
    if without:
        notes.append(f"{without} rows of {manifest} have no reference and are passed over.")
    return pairs


def _path(manifest: Path, text: str) -> Path:
    path = Path(text).expanduser()
    return path if path.is_absolute() else manifest.parent / path


def _rows(
    manifest: Path, notes: list[str]
) -> tuple[list[tuple[int, dict[str, str]]], dict[str, str]]:
    """Rows with their line numbers, and manifest column -> our name for columns we use."""
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise ManifestError(f"{manifest} cannot be read: {err}.") from err
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    if not reader.fieldnames:
        raise ManifestError(f"{manifest} is empty.", hint="Its first line names the columns.")
    columns = _columns(manifest, list(reader.fieldnames), notes)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        for row in reader:
            if None in row:
                raise ManifestError(
                    f"{manifest}, line {reader.line_num}: more cells than columns.",
                    hint="Quote cells that contain the delimiter.",
                )
            rows.append((reader.line_num, row))
    except csv.Error as err:
        raise ManifestError(f"{manifest}, line {reader.line_num}: {err}.") from err
    return rows, columns


def _columns(manifest: Path, fields: list[str], notes: list[str]) -> dict[str, str]:
    settings = {
        name for section, name, _, _ in leaves(EvaluateTissueConfig)
        if section in ("slide", "tissue")
    }  # fmt: skip
    plain = {column: plain_name(column) for column in fields}
    passed: list[str] = []
    columns: dict[str, str] = {}
    for column in fields:
        word = plain[column]
        name = next((n for n, others in ALIASES.items() if word in others), None)
        if name is not None and word != name and name in plain.values():
            continue  # `mask` beside `reference`: the plain name says it
        name = word if name is None and word in settings else name
        if name is None:  # labels and the like, which others put into the same table
            passed.append(column)
            continue
        if name in columns.values():
            raise ManifestError(f"{manifest}: two columns mean {name}.", hint="Remove one.")
        columns[column] = name
    notes += near_notes(manifest, passed, {*settings, *ALIASES, "mpp", "patient_id"} - {"group"})
    return columns
