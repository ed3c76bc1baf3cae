"""Consoles: data to stdout, words and progress to stderr."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

from rich.console import Console

__all__ = ["print_json", "stderr", "stdout"]

LOG_WIDTH = 200
"""Columns of tables in logs, where there is no terminal to ask."""


@cache
def stderr() -> Console:
    """For progress, notes and errors; lines are not wrapped where there is no terminal."""
    return _console(stderr=True, terminal=sys.stderr.isatty())


@cache
def stdout() -> Console:
    """For results that a person reads."""
    return _console(stderr=False, terminal=sys.stdout.isatty())


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _console(*, stderr: bool, terminal: bool) -> Console:
    if terminal:
        return Console(stderr=stderr)
    return Console(stderr=stderr, width=LOG_WIDTH, soft_wrap=True)
