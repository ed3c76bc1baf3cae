"""Records of JSON, JSON Lines and CSV files, and what is asked of them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wsiprep.core.errors import ManifestError
from wsiprep.train.language.manifest import Split, load_object
from wsiprep.train.language.text_file import first_character, read_lines, read_text

__all__ = [
    "Record",
    "Source",
    "csv_header",
    "csv_records",
    "json_records",
    "listed",
    "load_json",
    "optional",
    "split_called",
    "text",
]

_SPLITS: Final[dict[str, Split]] = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
    **{"test": "test", "testing": "test"},
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be converted.

    Attributes:
        path: Where it is.
        name: Its name without folders and suffixes.
    """

    path: Path
    name: str

    @classmethod
    def of(cls, path: Path) -> Source:
        """From a path: `a/b_test.json.gz` is called `b_test`."""
        return cls(path, re.sub(r"(\.(json|jsonl|csv|tsv|gz))+$", "", path.name, flags=re.I))

    @property
    def split(self) -> Split:
        """The split that the name speaks of, e.g. `Staging_choice_train`; empty if of none."""
        words = re.split(r"[^a-z]+", self.name.lower())
        named: set[Split] = {_SPLITS[word] for word in words if word in _SPLITS}
        return named.pop() if len(named) == 1 else ""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file.

    Attributes:
        source: The file.
        number: Which, from 1, of all of the file.
        where: Where it stands, for a message: `item 7`, `line 7`.
        values: Its fields by name.
        problem: Why it has no fields; empty otherwise.
        part: Part of the file that it stands under, where files have parts.
    """

    source: Source
    number: int
    where: str
    values: dict[str, Any]
    problem: str = ""
    part: str = ""


def json_records(source: Source) -> Iterator[Record]:
    """Objects of a JSON array, or one a line.

    Raises:
        ManifestError: the file is neither.
    """
    head = first_character(source.path)
    if head == "[":
        for number, value in enumerate(load_json(source), 1):
            yield _record(source, number, f"item {number}", value)
    elif head == "{":
        count = 0
        for line_number, line in read_lines(source.path):
            if line.strip():
                count += 1
                where = f"line {line_number}"
                try:
                    value = load_object(line)
                except ValueError as err:
                    yield Record(source, count, where, {}, str(err))
                else:
                    yield _record(source, count, where, value)
    else:
        raise ManifestError(f"{source.path} holds neither a JSON list nor JSON objects by line.")


def load_json(source: Source) -> Any:
    """The one JSON value of a file.

    Raises:
        ManifestError: it is not JSON.
    """
    try:
        return load_object(read_text(source.path))
    except ValueError as err:
        raise ManifestError(f"{source.path}: {err}.") from err


def csv_header(source: Source) -> list[str]:
    """Names of the columns of a CSV file, in lower case.

    Raises:
        ManifestError: it is not CSV.
    """
    reader = csv.reader(io.StringIO(read_text(source.path), newline=""), strict=True)
    return [name.strip().lower() for name in next(_parsed(reader, source), [])]


def csv_records(source: Source, columns: Iterable[str]) -> Iterator[Record]:
    """Rows of a CSV file with a header; names of columns in lower case.

    Raises:
        ManifestError: it is not CSV, or lacks one of `columns`.
    """
    reader = csv.reader(io.StringIO(read_text(source.path), newline=""), strict=True)
    rows = _parsed(reader, source)
    header = [name.strip().lower() for name in next(rows, [])]
    missing = [name for name in columns if name not in header]
    if missing:
        raise ManifestError(
            f"{source.path} has no column {', '.join(missing)}.",
            hint=f"Its first line names {', '.join(header) or 'none'}.",
        )
    if len(set(header)) < len(header):
        raise ManifestError(f"{source.path} has two columns of one name.")
    count, ended = 0, reader.line_num
    for row in rows:
        where = f"line {ended + 1}"  # where the row begins: cells may hold line ends
        ended = reader.line_num
        if not row:
            continue
        count += 1
        if len(row) != len(header):
            yield Record(source, count, where, {}, f"{len(row)} cells under {len(header)} columns")
        else:
            yield Record(source, count, where, dict(zip(header, row, strict=True)))


def text(values: dict[str, Any], name: str) -> str:
    """A field that must hold text, without blanks around it.

    Raises:
        ValueError: it is missing, empty, or no text.
    """
    if name not in values:
        raise ValueError(f"'{name}' is missing")
    value = values[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"'{name}' must be text that is not empty, not {str(value)[:40]!r}")
    return value.strip()


def optional(values: dict[str, Any], name: str) -> str:
    """A field that may be missing, null or empty.

    Raises:
        ValueError: it is no text.
    """
    value = values.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    return text(values, name)


def listed(values: dict[str, Any], name: str) -> tuple[str, ...]:
    """A field that holds one text or a list of texts.

    Raises:
        ValueError: it is missing, or holds something else.
    """
    value = values.get(name)
    items = value if isinstance(value, list) else [value]
    texts = tuple(item.strip() for item in items if isinstance(item, str) and item.strip())
    if not texts or len(texts) < len(items):
        raise ValueError(f"'{name}' must be text or a list of texts, not {str(value)[:40]!r}")
    return texts


def split_called(name: str) -> Split:
    """Our name of a split.

    Raises:
        ValueError: it is none that is known.
    """
    if name.lower() not in _SPLITS:
        raise ValueError(f"there is no split '{name}'")
    return _SPLITS[name.lower()]


def _record(source: Source, number: int, where: str, value: Any) -> Record:
    if not isinstance(value, dict):
        return Record(source, number, where, {}, "this is not an object with named fields")
    return Record(source, number, where, value)


def _parsed(reader: Any, source: Source) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as err:
        raise ManifestError(f"{source.path}, line {reader.line_num}: {err}.") from err
