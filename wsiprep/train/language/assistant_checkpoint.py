"""Checkpoints of assistants: what they hold, reading them, and starting from one.

Slide encoder and projector are kept whole, and of the language model all that cannot be had from
elsewhere: the tiny one with its tokenizer, or adapters, or the weights of one that was tuned in
full. A language model of Hugging Face itself is not copied; its name and a digest of its weights
are, and another is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsiprep import __version__
from wsiprep.core.config import digest
from wsiprep.core.errors import ConfigError, StoreMismatchError, WeightsError
from wsiprep.encoders.load import resolve_device
from wsiprep.models.assistant import Assistant
from wsiprep.models.assistant_parts import AssistantParts, make_assistant, with_llm
from wsiprep.models.language.hf import HfLanguageModel
from wsiprep.models.sampling import Sampling
from wsiprep.models.text.tokenizer import Tokenizer
from wsiprep.models.towers import SlideSide
from wsiprep.store.disk import write_whole
from wsiprep.train.language.checkpoint import (
    FORMAT,
    MODEL,
    TOKENIZER,
    locate,
    read_model_json,
    read_tokenizer,
    read_weights,
    save_weights,
)
from wsiprep.train.language.fingerprint import Fingerprint

__all__ = ["AssistantCheckpoint", "Start", "load_assistant", "read_start", "save_assistant"]

ADAPTER = "adapter"


@dataclass(frozen=True, slots=True, eq=False)
class AssistantCheckpoint:
    """An assistant, ready to be asked.

    Attributes:
        model: In evaluation mode, on its device.
        parts: What it is made of.
        features: What features it takes.
        sampling: Which patches it was trained on.
        recipe: Name and settings of its recipe.
        folder: Where it was read from.
    """

    model: Assistant
    parts: AssistantParts
    features: Fingerprint
    sampling: Sampling
    recipe: dict[str, Any]
    folder: Path


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A checkpoint whose parts a training begins with.

    Attributes:
        kind: aligned or assistant.
        slides: Its slide encoder.
        encoder: The encoder's weights, by their names in the encoder.
        features: What features it takes.
        folder: Where it was read from.
        projector: Weights of the projector; empty in an aligned model.
        language: Tensors of the language model; likewise.
        spoken: Fingerprint of the language model; likewise.
        tokenizer: Of the tiny language model, if it is that.
        identity: Digest that tells it from others, wherever it lies.
        shared: Whether the encoder has weights of a text side, which an assistant has no use for.
    """

    kind: str
    slides: SlideSide
    encoder: dict[str, Tensor]
    features: Fingerprint
    folder: Path
    projector: dict[str, Tensor]
    language: dict[str, Tensor]
    spoken: dict[str, Any]
    tokenizer: Tokenizer | None
    identity: str
    shared: bool = False

    def parts(self, wanted: AssistantParts) -> AssistantParts:
        """What a recipe wants, with the slide encoder that is there.

        Options that the recipe gives the encoder replace those it was trained with; its weights
        must still fit.

        Raises:
            ConfigError: the recipe names another slide encoder.
        """
        side = self.slides
        if wanted.slides is not None:
            if wanted.slides.encoder != side.encoder:
                raise ConfigError(
                    f"the recipe wants the slide encoder '{wanted.slides.encoder}', and "
                    f"{self.folder} has '{side.encoder}'.",
                    hint="Start from another model, or leave model.slides out of the recipe.",
                )
            options = {**side.options, **wanted.slides.options}
            side = side.model_copy(update={"options": options})
        return wanted.model_copy(update={"slides": side})

    def fill(self, model: Assistant) -> None:
        """Put its weights into an assistant.

        A language model that learns for the first time keeps its own.

        Raises:
            StoreMismatchError: its projector was trained for another language model.
            WeightsError: tensors do not fit.
        """
        state = model.trainable_state()
        for part, given in (("slides", self.encoder), ("projector", self.projector)):
            if part == "projector" and self.kind == "aligned":
                continue
            own = {k for k in state if k.startswith(f"{part}.")}
            state = {k: v for k, v in state.items() if k not in own}
            kept = {f"{part}.{k}": v for k, v in given.items()}
            if part == "slides" and self.shared:
                kept = {k: v for k, v in kept.items() if k in own}
            state |= kept
        if self.kind == "assistant":
            now = _spoken(model)
            _check_language(self.spoken, now, self.folder, ("model", "tuning", "lora"))
            if self.language:
                _check_language(self.spoken, now, self.folder, ("model",))
                state |= {f"language.{k}": v for k, v in self.language.items()}
        model.load_trainable(state)


def save_assistant(
    folder: Path,
    model: Assistant,
    parts: AssistantParts,
    *,
    features: Fingerprint,
    sampling: Sampling,
    recipe: Mapping[str, Any],
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Fill the folder of a checkpoint.

    Args:
        folder: It is there, and empty.
        model: What was trained.
        parts: What it was made of.
        features: What its features were made with.
        sampling: Which patches it saw.
        recipe: Name and settings, plain JSON.
        state: Its `trainable_state`; needed of a model that is spread over processes, which must
            first be gathered (`sharding.gathered`).
    """
    state = model.trainable_state() if state is None else state
    words = {
        "format": FORMAT,
        "kind": "assistant",
        "wsiprep": __version__,
        "model": parts.canonical(),
        "input_dim": features.dim,
        "features": features.canonical(),
        "sampling": sampling.canonical(),
        "language": _spoken(model),
        "recipe": dict(recipe),
    }
    tokenizer = model.language.tokenizer
    if isinstance(tokenizer, Tokenizer):
        write_whole(folder / TOKENIZER, tokenizer.to_json().encode())
    language = model.language
    if isinstance(language, HfLanguageModel) and language.cfg.tuning == "lora":
        language.save_adapter(folder / ADAPTER, _under("language.", state))
    save_weights(folder, {name: value.cpu().contiguous() for name, value in state.items()})
    write_whole(folder / MODEL, json.dumps(words, indent=1, sort_keys=True).encode())


def load_assistant(
    path: Path, device: str = "auto", *, llm: str | None = None
) -> AssistantCheckpoint:
    """Read a checkpoint of `wsiprep train caption` or `train instruct`.

    Args:
        path: Of a run, or of one checkpoint.
        device: cpu, cuda, mps; auto takes the first that is there.
        llm: Where its language model lies now, if not where it lay in training.

    Raises:
        WeightsError: it cannot be read, its tensors do not fit, or its language model is not there.
        StoreMismatchError: the language model is not the one it was trained with.
        DeviceError: there is no such device.
    """
    where = resolve_device(device)
    folder = locate(path)
    words = read_model_json(folder, "assistant")
    parts = with_llm(AssistantParts(**words["model"]), llm)
    random = torch.get_rng_state()  # whose numbers the first weights would use up
    try:
        model = make_assistant(parts, int(words["input_dim"]), read_tokenizer(folder))
    except WeightsError as err:
        raise WeightsError(
            err.message, stage="models", hint="Say where it lies now with --llm."
        ) from err
    finally:
        torch.set_rng_state(random)
    _check_language(words["language"], _spoken(model), folder, ("model",))
    model.load_trainable(read_weights(folder))
    model.to(where).eval()
    return AssistantCheckpoint(
        model=model,
        parts=parts,
        features=Fingerprint.of_canonical(words["features"]),
        sampling=Sampling(**words["sampling"]),
        recipe=dict(words["recipe"]),
        folder=folder,
    )


def read_start(path: Path) -> Start:
    """Read what a training is to begin with: an aligned model's encoder, or an assistant.

    Raises:
        WeightsError: it cannot be read.
    """
    folder = locate(path)
    try:
        kind = str(json.loads((folder / MODEL).read_text(encoding="utf-8"))["kind"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise WeightsError(f"{folder / MODEL} cannot be read: {err}.") from err
    words = read_model_json(folder, "aligned" if kind == "aligned" else "assistant")
    weights = read_weights(folder)
    side = SlideSide(**words["model"]["slides"])
    assistant = kind == "assistant"
    encoder = _under("slides." if assistant else "slides.encoder.", weights)
    return Start(
        kind=kind,
        slides=side,
        encoder=encoder,
        features=Fingerprint.of_canonical(words["features"]),
        folder=folder,
        projector=_under("projector.", weights) if assistant else {},
        language=_under("language.", weights) if assistant else {},
        spoken=dict(words["language"]) if assistant else {},
        tokenizer=read_tokenizer(folder) if assistant else None,
        identity=digest({"words": words, "step": folder.name}),
        shared=not assistant and words["model"]["texts"]["encoder"] == "shared",
    )


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _spoken(model: Assistant) -> dict[str, Any]:
    """Fingerprint of the language model, and of a tokenizer that was made for it."""
    words, tokenizer = model.language.fingerprint(), model.language.tokenizer
    if isinstance(tokenizer, Tokenizer):
        words["tokenizer_sha256"] = tokenizer.sha256
    return words


def _check_language(
    trained: Mapping[str, Any], given: Mapping[str, Any], folder: Path, aside: tuple[str, ...]
) -> None:
    """Refuse another language model; what is `aside` may differ (folders may be renamed)."""
    names = sorted((trained.keys() | given.keys()) - set(aside))
    wrong = [n for n in names if trained.get(n) != given.get(n)]
    if wrong:
        said = "; ".join(f"{n} was {trained.get(n)} and is {given.get(n)}" for n in wrong)
        raise StoreMismatchError(
            f"the language model is not the one that {folder} was trained with: {said}.",
            stage="models",
            hint=f"It was {trained.get('model', trained.get('kind'))}; name it, or where it lies "
            "now, with --llm.",
        )
