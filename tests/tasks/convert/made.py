"""Files in the formats of public sets, with rows made up for tests."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

from wsiprep.tasks.convert import formats
from wsiprep.tasks.convert._records import Source
from wsiprep.tasks.convert_config import ConvertConfig
from wsiprep.tasks.convert_text import Conversion, convert_text
from wsiprep.train.language.manifest import Sample


def write_json(path: Path, value: Any) -> Path:
    text = json.dumps(value)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def samples_of(name: str, path: Path) -> list[Sample]:
    """Every record as a sample, without the driver."""
    plugin = formats.load(name)
    return [plugin.sample(record) for record in plugin.records(Source.of(path))]


def converted(name: str, out: Path, *files: Path, **settings: Any) -> Conversion:
    config = getattr(formats.load(name), "Config", ConvertConfig)
    return convert_text(name, config.of(files=files, out=out, **settings))
