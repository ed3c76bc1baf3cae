"""Settings of decoding, which commands may have without importing torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from wsiprep.core.config import Settings

__all__ = ["Decoding"]


class Decoding(Settings):
    """How an answer is drawn from a language model."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest token each time; above 0 samples, wider the higher it is."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """When sampling: only the likeliest tokens that together have this probability."""
    top_k: int = Field(default=0, ge=0)
    """When sampling: only that many of the likeliest tokens; 0 means all."""
    beams: int = Field(default=1, ge=1)
    """Beams of a beam search; 1 means none."""
    length_penalty: float = 1.0
    """Beams compare log-likelihood / tokens^penalty; 0 compares the sum."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.beams > 1 and self.temperature > 0:
            raise ValueError("beams do not sample: leave temperature at 0, or beams at 1")
        return self
