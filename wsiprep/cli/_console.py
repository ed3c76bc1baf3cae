"""Consoles: data to stdout, words and progress to stderr."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

from rich.console import Console

__all__ = ["print_json", "stderr", "stdout"]


@cache
def stderr() -> Console:
    """For progress, notes and errors; lines are not wrapped where there is no terminal."""
    return Console(stderr=True, soft_wrap=not sys.stderr.isatty())


@cache
def stdout() -> Console:
    """For results that a person reads."""
    return Console(soft_wrap=not sys.stdout.isatty())


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
