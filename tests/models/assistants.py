"""Small assistants, and slides that they can tell apart."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.language.fakes import PieceTokenizer
from wsiprep.models import Bag
from wsiprep.models.assistant import Assistant, AssistantConfig
from wsiprep.models.encoders import perceiver
from wsiprep.models.encoders.identity import IdentityEncoder
from wsiprep.models.language import (
    Decoding,
    Projector,
    ProjectorConfig,
    TinyConfig,
    TinyLanguageModel,
    Turn,
)
from wsiprep.models.language.templates import VICUNA_SYSTEM
from wsiprep.testing.slide_encoder import store_order

WIDTH = 24
SLIDES = 8
DECODING = Decoding(max_new_tokens=24)
QUESTIONS = ("Which organ?", "Is it malignant?")
ORGANS = ("colon", "lung", "kidney", "breast")


# Each question's answers are shared by equally many slides, and by other slides than the other's.
FACTS = [(ORGANS[k % 4], ("Yes, it is.", "No.")[k // 4]) for k in range(SLIDES)]
PROMPT = AssistantConfig().caption_prompt
SAID = (" USER:", " ASSISTANT:", VICUNA_SYSTEM, PROMPT)
TOKENIZER = PieceTokenizer([*SAID, *QUESTIONS, *(word for fact in FACTS for word in fact)])


def slide_of(number: int, patches: int = 12) -> Bag:
    """A slide whose patches point in a direction of its own, with noise."""
    generator = torch.Generator().manual_seed(number)
    features = 0.3 * torch.randn(patches, WIDTH, generator=generator)
    features[:, number] += 3
    picked = torch.randperm(1600, generator=generator)[:patches]
    cell = torch.stack([picked // 40, picked % 40], dim=1)
    cell = cell[store_order(cell)]
    return Bag(features, cell, torch.zeros(patches, dtype=torch.int64))


def assistant(
    cfg: AssistantConfig | None = None,
    slides: nn.Module | None = None,
    kind: str = "mlp2",
    width: int = 64,
    **tiny: object,
) -> Assistant:
    tiny_cfg = TinyConfig.model_validate({"width": width, "layers": 2, "heads": 4, **tiny})
    language = TinyLanguageModel(tiny_cfg, TOKENIZER)
    encoder = slides if slides is not None else IdentityEncoder(WIDTH)
    dim = int(encoder.dim)  # type: ignore[arg-type]
    resampler = {"resampler_width": 32, "resampler_heads": 2, "queries": 4}
    projector = ProjectorConfig.model_validate({"projector": kind, **resampler})
    return Assistant(
        encoder, Projector(projector, dim, width), language, cfg or AssistantConfig(max_tokens=200)
    )


def small_perceiver() -> nn.Module:
    torch.manual_seed(1)
    return perceiver.create(perceiver.Config(dim=16, latents=5, heads=2), WIDTH)


def asked(question: str) -> list[Turn]:
    return [Turn("user", question)]


def exchange(question: str, said: str) -> list[Turn]:
    return [Turn("user", question), Turn("assistant", said)]
