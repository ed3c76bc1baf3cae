"""What every setting `output` has in common."""

from __future__ import annotations

from pydantic import field_validator

from wsiprep.core.config import Settings

__all__ = ["OutputSettings"]


class OutputSettings(Settings):
    """Settings with a folder `output`, which has a name."""

    @field_validator("output", mode="before", check_fields=False)
    @classmethod
    def _not_empty(cls, value: object) -> object:
        if value == "":  # an unset variable of a script would mean the current folder
            raise ValueError("the folder has no name")
        return value
