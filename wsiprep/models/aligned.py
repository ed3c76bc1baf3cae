"""Slides and texts in one space: what `train align` makes, and what reads slides by text.

Two sides (`towers`) and what relates them: a loss of slides and captions, and perhaps of regions or
patches and sub-captions, of matching, and of captions said from the slide. Which, and with what
weights, a recipe says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError
from wsiprep.models.bags import PackedBags
from wsiprep.models.caption_heads import CrossCaptions, PrefixCaptions
from wsiprep.models.encoders.qformer import QFormerEncoder
from wsiprep.models.grounding import GroundMethod, ground
from wsiprep.models.objectives.infonce_loss import InfoNCE
from wsiprep.models.objectives.matching import MatchingHead
from wsiprep.models.objectives.region_pool import RegionPool, pad_runs
from wsiprep.models.objectives.region_sigmoid import RegionSigmoid
from wsiprep.models.objectives.scale import unit
from wsiprep.models.objectives.siglip_loss import SigLIP
from wsiprep.models.objectives.top_k import SoftTopK
from wsiprep.models.text.tokenizer import Tokenizer
from wsiprep.models.towers import SharedText, SlideSide, SlideTower, TextSide, TextTower

__all__ = ["Aligned", "AlignedConfig", "Objectives"]


class Objectives(Settings):
    """What slides and texts are trained on; a weight of 0 leaves an objective out."""

    slide: Literal["infonce", "siglip"] = "infonce"
    """Loss of slides and captions."""
    slide_weight: float = Field(default=1.0, ge=0)
    """Its weight."""
    slide_options: dict[str, Any] = Field(default_factory=dict)
    """Its own options: temperature, learned, label_smoothing; or scale, bias, reduction."""
    region: Literal["sigmoid", "soft_top_k"] = "sigmoid"
    """Loss of sub-captions: of what they see in the regions of a slide (PathFLIP), or in its
    patches (PathFLIP 2)."""
    region_weight: float = Field(default=0.0, ge=0)
    """Its weight."""
    region_options: dict[str, Any] = Field(default_factory=dict)
    """Its own options."""
    pool_options: dict[str, Any] = Field(default_factory=dict)
    """Of the attention by which a sub-caption pools regions: heads, zero_slot, norm, dropout."""
    matching_weight: float = Field(default=0.0, ge=0)
    """Of the question whether slide and caption belong together; needs a Q-Former with a shared
    text side."""
    caption_weight: float = Field(default=0.0, ge=0)
    """Of saying the caption from the slide's tokens."""
    caption_tokens: int = Field(default=256, ge=3)
    """Most tokens of a caption that is said."""
    caption_decoder: Literal["prefix", "cross"] = "prefix"
    """How it sees the slide: tokens before the caption, or by attention of its later blocks, as in
    CoCa."""
    caption_options: dict[str, Any] = Field(default_factory=dict)
    """Size of the decoder that says them: width, layers, heads, hidden, dropout."""
    sub_captions: int = Field(default=8, ge=1)
    """Sub-captions of a slide at a step."""
    sentences: int = Field(default=3, ge=1)
    """Most sentences of a sub-caption that is drawn from the caption."""
    same_text: bool = True
    """Leave texts that say the same out of each other's negatives."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> Objectives:
        if not (self.slide_weight or self.region_weight or self.caption_weight):
            raise ValueError("all weights are 0: there is nothing to learn")
        return self


class AlignedConfig(Settings):
    """What an aligned model is made of."""

    dim: int | None = Field(default=None, ge=1)
    """Width of the shared space; the slide encoder's without it."""
    slides: SlideSide = Field(default_factory=SlideSide)
    """The slide's side."""
    texts: TextSide = Field(default_factory=TextSide)
    """The text's side."""
    objectives: Objectives = Field(default_factory=Objectives)
    """What relates them."""


class Aligned(nn.Module):
    """See the module.

    Args:
        cfg: What it is made of.
        input_dim: Width of features.
        tokenizer: Made of captions, where a part needs one (`needs_tokenizer`).
        seed: Of LoRA's first weights; all others come from torch's default generator.

    Attributes:
        slides: `SlideTower`.
        texts: `TextTower`.
        heads: Losses with parameters, by name: slide, region, matching, caption.
        dim: Width of the shared space.

    Raises:
        ConfigError: parts that do not go together, or wrong options.
    """

    def __init__(
        self, cfg: AlignedConfig, input_dim: int, tokenizer: Tokenizer | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.cfg, self.input_dim, self.tokenizer = cfg, input_dim, tokenizer
        shared = cfg.texts.encoder == "shared"
        vocabulary = tokenizer.vocab_size if shared and tokenizer is not None else 0
        self.slides = SlideTower(cfg.slides, input_dim, cfg.dim, vocabulary)
        self.dim = self.slides.dim
        self.texts = TextTower(cfg.texts, self.dim, tokenizer, self.slides, seed)
        self.heads = nn.ModuleDict(self._make_heads())

    @staticmethod
    def needs_tokenizer(cfg: AlignedConfig) -> bool:
        """Whether a tokenizer is to be made of the captions."""
        return cfg.texts.own_tokenizer or cfg.objectives.caption_weight > 0

    def _make_heads(self) -> dict[str, nn.Module]:
        wanted, heads = self.cfg.objectives, dict[str, nn.Module]()
        try:
            kind = InfoNCE if wanted.slide == "infonce" else SigLIP
            heads["slide"] = kind(**wanted.slide_options)
            if wanted.region_weight and wanted.region == "sigmoid":
                pool = RegionPool(self.dim, **wanted.pool_options)
                heads["region"] = RegionSigmoid(self.dim, pool=pool, **wanted.region_options)
            elif wanted.region_weight:
                heads["region"] = SoftTopK(**wanted.region_options)
            if wanted.caption_weight and self.tokenizer is not None:
                says = PrefixCaptions if wanted.caption_decoder == "prefix" else CrossCaptions
                options = wanted.caption_options
                heads["caption"] = says(self.slides.token_dim, options, self.tokenizer)
        except (TypeError, ValueError) as err:
            raise ConfigError(f"options of the objectives cannot be used: {err}.") from err
        if wanted.matching_weight:
            encoder = self.slides.encoder
            if not isinstance(encoder, QFormerEncoder) or encoder.text_head is None:
                raise ConfigError(
                    "matching needs the slide encoder 'qformer' and a shared text side.",
                    hint="Set texts.encoder to shared, or matching_weight to 0.",
                )
            heads["matching"] = MatchingHead(encoder.cfg.width)
        return heads

    def start_from_bert(self, state: Mapping[str, Tensor]) -> None:
        """Start the Q-Former and its text side from a BERT; see `QFormerNetwork.load_bert`.

        Args:
            state: Weights, rows of words in the order of this model's tokenizer.

        Raises:
            ConfigError: there is no shared text side, or the BERT is of another size.
        """
        encoder = self.slides.encoder
        if not isinstance(encoder, QFormerEncoder) or encoder.text_head is None:
            raise ConfigError("only a Q-Former with a shared text side starts from a BERT.")
        try:
            encoder.load_bert(state)
        except (KeyError, ValueError) as err:
            raise ConfigError(
                f"the Q-Former cannot start from this BERT: {err}.",
                hint="Give width, layers, heads and hidden of slides.options the BERT's sizes.",
            ) from err

    @property
    def shared_text(self) -> SharedText:
        """The text side that shares the slide encoder.

        Raises:
            ConfigError: there is none.
        """
        if not isinstance(self.texts.encoder, SharedText):
            raise ConfigError("this model's text side shares nothing with the slide's.")
        return self.texts.encoder

    @torch.no_grad()
    def embed_slides(self, bags: PackedBags) -> Tensor:
        """Vectors of slides, float32 (B, dim), of length 1."""
        return unit(self.slides(bags).slide)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts, float32 (P, dim), of length 1."""
        return unit(self.texts(texts))

    @torch.no_grad()
    def fit(self, bags: PackedBags, texts: Sequence[str]) -> Tensor:
        """How well single findings fit slides: cosine of a text with what it pools of the regions.

        That is what the loss of regions compares (FLAIR's text-conditioned similarity), and finer
        than the slide's vector, which stands for the caption as a whole.

        Returns:
            float32 (B, P).

        Raises:
            ConfigError: the model was trained without that loss.
        """
        head = dict(self.heads.items()).get("region")
        out = self.slides(bags)
        if not isinstance(head, RegionSigmoid) or out.region is None:
            raise ConfigError("this model was trained without the loss 'sigmoid' of regions.")
        text = self.texts(texts)
        table, mask = pad_runs(out.region, bags.region_bag, len(bags))
        queries = text.expand(len(bags), *text.shape)
        pooled, _ = head.pool(queries, table, mask)
        return (unit(pooled) * unit(queries)).sum(dim=-1)

    def scale(self) -> float:
        """By what cosines are multiplied to be logits, as learned by the loss of slides."""
        head = self.heads["slide"]
        assert isinstance(head, InfoNCE | SigLIP)  # noqa: S101 - made so
        return float(head.scale().detach())

    def ground(
        self, bags: PackedBags, texts: Sequence[str], method: GroundMethod = "attention"
    ) -> Tensor:
        """Scores of the patches of one bag, float32 (P, T); see `grounding`."""
        return ground(self, bags, texts, method)
