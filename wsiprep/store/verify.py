"""Checking everything that an output folder promises."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from wsiprep.core.errors import StoreError
from wsiprep.store.disk import files_digest
from wsiprep.store.manifest import Manifest, Unit
from wsiprep.store.schema import GRIDS, MAPS, TISSUE, WORK_FOLDER

__all__ = ["Finding", "VerifyReport", "verify_output"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as promised.

    Attributes:
        slide: Slide id.
        part: Part of its store, or `store` for the whole.
        problem: What is wrong.
        remedy: What to run.
    """

    slide: str
    part: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Result of `verify_output`.

    Attributes:
        stores: Stores read.
        parts: Finished parts whose every file was hashed.
        bytes: Bytes hashed.
        findings: Problems, by slide.
    """

    stores: int
    parts: int
    bytes: int
    findings: tuple[Finding, ...]


def verify_output(out: Path) -> VerifyReport:
    """Hash every file of every store in `out` and check it against its manifest.

    Args:
        out: An output folder, or one `<slide>.zarr`.
    """
    paths = [out] if out.suffix == ".zarr" else sorted(out.glob("*.zarr"))
    findings: list[Finding] = []
    parts = size = 0
    for path in paths:
        try:
            manifest = Manifest.read(path)
        except StoreError as err:
            findings.append(Finding(path.stem, "store", err.message, err.hint or ""))
            continue
        for name, unit in manifest.units.items():
            parts += 1
            size += sum(int(entry[0]) for entry in unit.files.values())
            findings += _check_unit(manifest, name, unit)
        findings += _check_strays(manifest)
    findings += _check_work((out.parent if out.suffix == ".zarr" else out) / WORK_FOLDER)
    return VerifyReport(len(paths), parts, size, tuple(findings))


def _check_unit(manifest: Manifest, name: str, unit: Unit) -> list[Finding]:
    slide = manifest.slide.id
    command = {0: "segment", 1: "coords", 3: "embed"}.get(name.count("/"), "ground")
    settings = (
        "with the settings it was made with "
        f"(`wsiprep inspect {quote(str(manifest.path))}` shows them)"
    )
    remedy = (
        f"`wsiprep {command} {quote(manifest.slide.uri)} -o {quote(str(manifest.path.parent))} "
        f"--overwrite` {settings}"
    )
    if command == "ground":
        remedy = f"`wsiprep ground {quote(str(manifest.path))}` {settings}"
    found: list[Finding] = []
    # What stands on a part lies in its folder, and is a part of its own.
    below = {"coords": ("features",), "embed": (MAPS,)}.get(command, ())
    actual = files_digest(manifest.path / name, skip=below)
    for relative, expected in unit.files.items():
        if relative not in actual:
            found.append(Finding(slide, name, f"{relative} is missing", remedy))
        elif actual[relative] != expected:
            found.append(Finding(slide, name, f"{relative} does not match its sha256", remedy))
    found += [
        Finding(slide, name, f"{relative} is not in the manifest", "delete that file")
        for relative in sorted(set(actual) - set(unit.files))
    ]
    parent = _parent(name)
    if parent and (parent not in manifest.units or manifest.units[parent].key != unit.parent):
        problem = f"it was made from another {parent} than is there now"
        found.append(Finding(slide, name, problem, remedy))
    return found


def _check_strays(manifest: Manifest) -> list[Finding]:
    """Folders of parts that no entry vouches for, and groups without metadata."""
    there = [manifest.path / TISSUE]
    there += list((manifest.path / GRIDS).glob("*/"))
    there += list((manifest.path / GRIDS).glob("*/features/*/"))
    there += list((manifest.path / GRIDS).glob(f"*/features/*/{MAPS}/*/"))
    found = [
        Finding(
            manifest.slide.id,
            path.relative_to(manifest.path).as_posix(),
            "it was not finished",
            "run the command that was making it again; it goes on where it stopped",
        )
        for path in there
        if path.is_dir() and path.relative_to(manifest.path).as_posix() not in manifest.units
    ]
    groups = [manifest.path / GRIDS, *(manifest.path / GRIDS).glob("*/features/")]
    groups += list((manifest.path / GRIDS).glob(f"*/features/*/{MAPS}/"))
    found += [
        Finding(
            manifest.slide.id,
            group.relative_to(manifest.path).as_posix(),
            "its zarr.json is missing",
            "run any command on this slide again; it is restored",
        )
        for group in groups
        if not (group / "zarr.json").is_file()
    ]
    return found


def _check_work(work: Path) -> list[Finding]:
    """Journals of runs that stopped."""
    return [
        Finding(
            log.relative_to(work).parts[0],
            "/".join(log.relative_to(work).parts[1:-1]) + " (journal)",
            "a run stopped before this was finished",
            "run the same command again; it goes on where it stopped",
        )
        for log in sorted(work.glob("*/*/*/log.jsonl"))
    ]


def _parent(unit: str) -> str:
    if unit == TISSUE:
        return ""
    return TISSUE if unit.count("/") == 1 else "/".join(unit.split("/")[:-2])
