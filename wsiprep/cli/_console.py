"""Consoles: data to stdout, words and progress to stderr."""

from __future__ import annotations

import json
import os
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
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    text = json.dumps(value, indent=2, ensure_ascii=plain) + "\n"
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())


class _Console(Console):
    """A console whose reader may go away without stopping the work."""

    def on_broken_pipe(self) -> None:
        """Write to nowhere from now on."""
        self.file = open(os.devnull, "w")  # noqa: SIM115 - it serves until the program ends
        self.quiet = True


def _console(*, stderr: bool, terminal: bool) -> Console:
    if terminal:
        return _Console(stderr=stderr)
    return _Console(stderr=stderr, width=LOG_WIDTH, soft_wrap=True)
