"""Names of manifest columns: in one spelling, and those that are nearly the name of a setting."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["near_notes", "plain_name"]

ALIKE = 0.83
"""Likeness (`difflib`) from which a column may be a misspelt setting: a letter too much or too few
in names of four, a letter exchanged with its neighbour in names of six."""


def plain_name(column: str) -> str:
    """A column's name in the spelling of settings: `Min-Tissue Area` is `min_tissue_area`."""
    return column.strip().lower().replace("-", "_").replace(" ", "_")


def near_notes(manifest: Path, passed: Iterable[str], known: Iterable[str]) -> list[str]:
    """A sentence for each column that is passed over though it is nearly one that is known.

    It is no error: tables hold columns of their owner, as `excluded` or `present`.

    Args:
        manifest: The table, to be named.
        passed: Columns that are passed over, as they are written.
        known: Names of columns that mean something.
    """
    # Without underscores: `minTissueArea` and `--smooth` are alike to nothing else.
    bare = {name.replace("_", ""): name for name in known}
    notes = []
    for column in dict.fromkeys(passed):
        word = plain_name(column).replace("_", "")
        near = difflib.get_close_matches(word, list(bare), n=1, cutoff=ALIKE)
        if near:
            notes.append(
                f"{manifest}: column '{column}' is passed over; if it is the setting"
                f" `{bare[near[0]]}`, name it so."
            )
    return notes
