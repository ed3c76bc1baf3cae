"""What a recipe says of `wsiprep train caption` and `train instruct`."""

from __future__ import annotations

from pydantic import Field

from wsiprep.core.config import Settings
from wsiprep.models.assistant_parts import AssistantParts
from wsiprep.models.sampling import Sampling
from wsiprep.train.language.recipe import Optimisation

__all__ = ["AssistantRecipe"]


class AssistantRecipe(Settings):
    """A section `caption` or `instruct`."""

    model: AssistantParts = Field(default_factory=AssistantParts)
    """Parts, and which of them learn."""
    sampling: Sampling = Field(default_factory=Sampling)
    """Which patches a step sees."""
    optimisation: Optimisation = Field(default_factory=Optimisation)
    """How it learns; text_rate is that of the language model."""
    captions: bool = True
    """Whether instruct learns captions too, of samples that have one."""
    validate_most: int = Field(default=512, ge=1)
    """Most samples a validation looks at, drawn once."""
