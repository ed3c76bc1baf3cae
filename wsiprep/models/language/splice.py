"""Slides into conversations: each place of a slide is replaced by the slide's embeddings.

The id that stands for a slide is in no vocabulary (`interface.SLIDE_ID`), so no embedding table is
resized and none has to be saved with an adapter. Embeddings of slides have no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wsiprep.core.errors import ConfigError, ManifestError
from wsiprep.models.language.conversation import Encoded
from wsiprep.models.language.interface import (
    IGNORE,
    SLIDE_ID,
    SLIDE_MARK,
    LanguageModel,
    positions_of,
)

__all__ = ["SplicedBatch", "splice_slides"]


@dataclass(frozen=True, slots=True, eq=False)
class SplicedBatch:
    """What a language model is given.

    Attributes:
        inputs_embeds: float (B, L, width); zero where padding.
        attention_mask: bool (B, L), False where padding.
        position_ids: int64 (B, L), 0 at the first token of each row.
        labels: int64 (B, L), IGNORE on slides, questions and padding.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor


def splice_slides(
    model: LanguageModel,
    encoded: Sequence[Encoded],
    slides: Sequence[Sequence[Tensor]],
    *,
    padding: Literal["left", "right"] = "right",
    names: Sequence[str] | None = None,
) -> SplicedBatch:
    """Assemble a batch.

    Args:
        model: Embeds the tokens; its table says device and dtype.
        encoded: B conversations.
        slides: Of each conversation, embeddings float (m, width) of each of its slides, in the
            order of their places. They may be of different lengths, also 0.
        padding: `right` to train, `left` to generate.
        names: Samples, for messages.

    Raises:
        ManifestError: a conversation has more or fewer places than slides.
        ConfigError: slides of another width than the model's.
        ValueError: no conversation, or lists of different lengths.
    """
    if not encoded or len(encoded) != len(slides):
        raise ValueError(f"{len(encoded)} conversations, slides for {len(slides)}")
    for index, (one, shown) in enumerate(zip(encoded, slides, strict=True)):
        _check(one, shown, model.width, names[index] if names is not None else None)
    device = next(iter(model.parameters())).device
    all_ids = torch.cat([one.ids for one in encoded])
    text = model.embed(all_ids[all_ids != SLIDE_ID].to(device))
    texts = iter(torch.split(text, [len(one.ids) - one.slides for one in encoded]))
    rows: list[Tensor] = []
    labels: list[Tensor] = []
    for one, shown, words in zip(encoded, slides, texts, strict=True):
        embeds, label = _row(one, [part.to(device, text.dtype) for part in shown], words)
        rows.append(embeds)
        labels.append(label)
    longest = max(len(row) for row in rows)
    inputs = text.new_zeros(len(rows), longest, model.width)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=device)
    target = torch.full((len(rows), longest), IGNORE, device=device)
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        where = slice(0, len(row)) if padding == "right" else slice(longest - len(row), None)
        inputs[index, where] = row
        mask[index, where] = True
        target[index, where] = label.to(device)
    return SplicedBatch(inputs, mask, positions_of(mask, longest), target)


def _row(one: Encoded, shown: Sequence[Tensor], words: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and labels of one conversation."""
    places = (one.ids == SLIDE_ID).nonzero()[:, 0].tolist()
    embeds: list[Tensor] = []
    labels: list[Tensor] = []
    at = 0
    for index, place in enumerate([*places, len(one.ids)]):
        begin = at - index  # of the words, which leave out the places before
        embeds.append(words[begin : begin + place - at])
        labels.append(one.labels[at:place])
        if index < len(places):
            embeds.append(shown[index])
            labels.append(torch.full((len(shown[index]),), IGNORE))
        at = place + 1
    return torch.cat(embeds), torch.cat(labels)


def _check(one: Encoded, shown: Sequence[Tensor], width: int, name: str | None) -> None:
    if one.slides != len(shown):
        raise ManifestError(
            f"a conversation has {one.slides} places '{SLIDE_MARK}' for slides, and there are "
            f"{len(shown)} slides.",
            slide=name,
            stage="models",
            hint=f"Write '{SLIDE_MARK}' once for each slide.",
        )
    for part in shown:
        if part.ndim != 2 or part.shape[1] != width:
            raise ConfigError(
                f"a slide's embeddings are {tuple(part.shape)}; the language model takes "
                f"(m, {width}).",
                slide=name,
                stage="models",
                hint="Use the projector that was trained with this language model.",
            )
