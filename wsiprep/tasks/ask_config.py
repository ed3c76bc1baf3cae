"""Settings of the commands that use an assistant: `ask` and `caption`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from wsiprep.core.config import Settings, flag
from wsiprep.models.language.decoding_config import Decoding
from wsiprep.slide.config import SlideConfig
from wsiprep.tasks.output_config import OutputSettings
from wsiprep.tasks.use_config import SlidesOrStores

__all__ = [
    "AnswerConfig",
    "AnsweringConfig",
    "AskConfig",
    "AssistantChoice",
    "CaptionConfig",
    "QuestionsConfig",
]


class AssistantChoice(Settings):
    """Which assistant, and how slides are shown to it."""

    panel: ClassVar[str] = "Model"

    model: Path = Field(json_schema_extra=flag("-m"))
    """Output folder of `wsiprep train caption` or `train instruct`, or one checkpoint of it."""
    llm: str | None = None
    """Where its language model lies now, if not where it lay in training."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the first of cuda, mps, cpu that is there."""
    max_patches: int | None = Field(default=None, ge=1)
    """Most patches of a slide that the model is shown, spread over the tissue; by default as in
    training, where it drew patches, but all regions."""
    weights: Path | None = None
    """Weights file of the patch encoder, for slides that are embedded first."""


class AnsweringConfig(Decoding):
    """How answers are drawn."""

    panel: ClassVar[str] = "Answers"

    seed: int = Field(default=0, ge=0)
    """Of sampling: the same seed, the same answers."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.beams > 1 and self.temperature > 0:
            raise ValueError("beams do not sample: leave --temperature at 0, or --beams at 1")
        return self


class AnswerConfig(OutputSettings):
    """Where answers go."""

    panel: ClassVar[str] = "Run"

    output: Path | None = Field(default=None, json_schema_extra=flag("-o"))
    """Folder for answers as CSV and JSON, and for the stores of slides that are embedded first;
    not needed where stores are given, and answers only to be read."""
    json_: bool = Field(default=False, json_schema_extra=flag("--json"))
    """Print the result as JSON on stdout."""


class QuestionsConfig(Settings):
    """What is asked."""

    panel: ClassVar[str] = "Questions"

    question: tuple[str, ...] = Field(default=(), json_schema_extra=flag("-q"))
    """A question; may be repeated, and each is asked by itself. Without one a chat is opened."""
    follow_up: bool = False
    """Let each question go on with the conversation before it."""
    choice: tuple[str, ...] = Field(default=(), json_schema_extra=flag("-c"))
    """An answer to choose from; may be repeated. They are compared by how likely the model finds
    them, and nothing is generated."""
    together: bool = False
    """All slides are of one case, and are asked about as one."""
    blind: bool = False
    """Answer without the slide too, to see what the slide changes."""

    @model_validator(mode="before")
    @classmethod
    def _says_something(cls, values: Any) -> Any:
        for name in ("question", "choice") if isinstance(values, dict) else ():
            texts = values.get(name)
            for text in texts if isinstance(texts, (tuple, list)) else ():
                if not str(text).strip():
                    raise ValueError(f"a {name} is empty")
        return values

    @model_validator(mode="after")
    def _can_be_compared(self) -> QuestionsConfig:
        if self.choice and (len(self.choice) < 2 or len(set(self.choice)) < len(self.choice)):
            raise ValueError("there must be two different choices at least, each given once")
        if self.choice and not self.question:
            raise ValueError("choices belong to a question: give one with -q")
        return self


class AskConfig(Settings):
    """Settings of `wsiprep ask`."""

    inputs: SlidesOrStores
    questions: QuestionsConfig
    answers: AnsweringConfig
    slide: SlideConfig
    model: AssistantChoice
    result: AnswerConfig


class CaseConfig(Settings):
    """How slides are described."""

    panel: ClassVar[str] = "Captions"

    together: bool = False
    """All slides are of one case, and are described as one."""
    blind: bool = False
    """Say what the model says without the slide too, to see what the slide changes."""


class CaptionConfig(Settings):
    """Settings of `wsiprep caption`."""

    inputs: SlidesOrStores
    case: CaseConfig
    answers: AnsweringConfig
    slide: SlideConfig
    model: AssistantChoice
    result: AnswerConfig
