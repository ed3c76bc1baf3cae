"""The two sides of an aligned model: slides to vectors, and texts to vectors of the same space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError
from wsiprep.models.bags import PackedBags, SlideOut
from wsiprep.models.encoders import registry
from wsiprep.models.encoders.qformer import QFormerEncoder
from wsiprep.models.norm import RMSNorm
from wsiprep.models.text.hf import HFTextConfig, HFTextEncoder
from wsiprep.models.text.tokenizer import Tokenizer
from wsiprep.models.text.transformer import TransformerTextConfig, TransformerTextEncoder

__all__ = ["SharedText", "SlideSide", "SlideTower", "TextSide", "TextTower", "make_slide_encoder"]

Head = Literal["auto", "none", "linear", "linear_norm"]


class SlideSide(Settings):
    """The slide's side."""

    encoder: str = "qformer"
    """Name of the slide encoder."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its own options."""
    head: Head = "auto"
    """From its vectors to the shared space: none, linear, or linear, RMSNorm and dropout of 0.1
    (PathFLIP 2); auto is linear where widths differ, else none."""


class TextSide(Settings):
    """The text's side."""

    encoder: Literal["transformer", "hf", "shared"] = "transformer"
    """transformer: of our own, from scratch, with a tokenizer made of the captions; hf: one of
    Hugging Face transformers; shared: the text side of the Q-Former (PathFLIP, BLIP-2)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its own options; shared has none."""
    vocabulary: int = Field(default=8192, ge=300)
    """Most tokens of a tokenizer made of the captions."""
    tokens: Literal["bpe", "words"] = "bpe"
    """What that tokenizer's tokens are."""
    bert: str | None = None
    """Of shared: a BERT of the Q-Former's size whose weights and tokenizer it starts from in `train
    align`, in place of weights from scratch and a tokenizer of the captions; a folder, or a name on
    the Hugging Face hub, as dmis-lab/biobert-base-cased-v1.2."""
    head: Head = "auto"
    """As of the slide's side."""

    @model_validator(mode="after")
    def _shared_has_no_options(self) -> TextSide:
        if self.encoder == "shared" and self.options:
            raise ValueError("the shared text side has no options; it is the Q-Former's")
        if self.encoder != "shared" and self.bert is not None:
            raise ValueError("bert starts the shared text side; for others it is an option, model")
        return self

    @property
    def own_tokenizer(self) -> bool:
        """Whether the tokenizer is made of the captions, and kept in the checkpoint."""
        return self.encoder != "hf"


def make_slide_encoder(
    side: SlideSide, input_dim: int, vocabulary: int = 0
) -> tuple[nn.Module, int]:
    """The slide encoder and the width of its vectors.

    Args:
        side: Which, and its options.
        input_dim: Width of features.
        vocabulary: Tokens of the text side that shares its network; 0 for none.

    Raises:
        ConfigError: there is none of that name, or an option is wrong.
    """
    module = registry.load(side.encoder)
    options = dict(side.options)
    if vocabulary and "vocabulary" in module.Config.model_fields:
        options["vocabulary"] = vocabulary
    try:
        cfg = module.Config(**options)
    except ValueError as err:
        raise ConfigError(
            f"options of the slide encoder '{side.encoder}' cannot be used: {err}."
        ) from err
    encoder = module.create(cfg, input_dim)
    return encoder, int(encoder.dim)


class SlideTower(nn.Module):
    """A slide encoder, and heads into the shared space.

    Slides have a head, regions and patches another of the same kind.

    Args:
        side: What it is made of.
        input_dim: Width of features.
        dim: Width of the shared space; None takes the encoder's.
        vocabulary: Tokens of a text side that shares the encoder.
    """

    def __init__(
        self, side: SlideSide, input_dim: int, dim: int | None, vocabulary: int = 0
    ) -> None:
        super().__init__()
        self.encoder, width = make_slide_encoder(side, input_dim, vocabulary)
        self.input_dim, self.dim = input_dim, dim or width
        self.token_dim = width
        self.head = _head(side.head, width, self.dim)
        self.local_head = _head(side.head, width, self.dim)

    def forward(self, bags: PackedBags) -> SlideOut:
        """Slides, regions and patches in the shared space, float (.., dim), not normalised.

        Tokens stay those of the encoder, of width `token_dim`.
        """
        out: SlideOut = self.encoder(bags)
        return replace(
            out,
            slide=self.head(out.slide),
            region=None if out.region is None else self.local_head(out.region),
            patch=None if out.patch is None else self.local_head(out.patch),
        )


class TextTower(nn.Module):
    """A text encoder and its head.

    Args:
        side: What it is made of.
        dim: Width of the shared space.
        tokenizer: Made of captions, for encoders that need one.
        slides: The other side, for a text encoder that shares its network.
        seed: Of LoRA's first weights.

    Raises:
        ConfigError: there is no tokenizer where one is needed, or nothing to share.
        PluginUnavailableError: transformers are not installed, or what they are to load is not had.
    """

    def __init__(
        self,
        side: TextSide,
        dim: int,
        tokenizer: Tokenizer | None,
        slides: SlideTower,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = _text_encoder(side, tokenizer, slides, seed)
        self.head = _head(side.head, self.encoder.dim, dim)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Vectors float (P, dim), not normalised."""
        out: Tensor = self.head(self.encoder.encode(texts))
        return out

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Which encoder it is."""
        return self.encoder.fingerprint


class SharedText(nn.Module):
    """The text side of a Q-Former as a text encoder; the Q-Former owns the weights."""

    def __init__(self, qformer: QFormerEncoder, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._qformer = (qformer,)  # in a tuple: its weights are counted once, on the other side
        self.tokenizer = tokenizer
        self.dim = qformer.dim

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Which encoder it is: its tokenizer; the rest is the slide's side."""
        return {"kind": "shared", "tokenizer_sha256": self.tokenizer.sha256}

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids int64 (P, L) and mask bool (P, L), on the device of the network."""
        qformer = self._qformer[0]
        ids, mask = self.tokenizer.batch(texts, max_tokens=qformer.cfg.text_length)
        device = qformer.queries.device
        return ids.to(device), mask.to(device)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors float (P, dim)."""
        return self._qformer[0].text(*self.ids(texts))


def _text_encoder(
    side: TextSide, tokenizer: Tokenizer | None, slides: SlideTower, seed: int
) -> HFTextEncoder | TransformerTextEncoder | SharedText:
    try:
        if side.encoder == "hf":
            return HFTextEncoder(HFTextConfig(**side.options), seed=seed)
        if tokenizer is None:
            raise ConfigError(f"the text encoder '{side.encoder}' needs a tokenizer.")
        if side.encoder == "transformer":
            return TransformerTextEncoder(TransformerTextConfig(**side.options), tokenizer)
    except ValueError as err:
        raise ConfigError(
            f"options of the text encoder '{side.encoder}' cannot be used: {err}."
        ) from err
    if not isinstance(slides.encoder, QFormerEncoder):
        raise ConfigError(
            "a shared text side needs the slide encoder 'qformer'.",
            hint="Set text.encoder to transformer or hf.",
        )
    return SharedText(slides.encoder, tokenizer)


def _head(kind: Head, width: int, dim: int) -> nn.Module:
    if kind == "none" and width != dim:
        raise ConfigError(
            f"vectors of width {width} need a head to a shared space of width {dim}.",
            hint="Set head: linear.",
        )
    if kind == "none" or (kind == "auto" and width == dim):
        return nn.Identity()
    linear = nn.Linear(width, dim)
    if kind == "linear_norm":
        return nn.Sequential(linear, RMSNorm(dim, eps=1e-6), nn.Dropout(0.1))
    return linear


def parameters_of(*modules: nn.Module) -> list[nn.Parameter]:
    """Parameters that learn, each once."""
    found: dict[int, nn.Parameter] = {}
    for module in modules:
        found.update({id(p): p for p in module.parameters() if p.requires_grad})
    return list(found.values())


def device_of(module: nn.Module) -> torch.device:
    """Where a module is; the CPU for one without tensors."""
    tensor = next(iter(module.parameters()), None)
    return torch.device("cpu") if tensor is None else tensor.device
