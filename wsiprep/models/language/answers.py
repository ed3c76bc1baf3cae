"""Asking a language model: answers by generation, and options by their likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from wsiprep.core.errors import ManifestError
from wsiprep.models.language.conversation import (
    Encoded,
    Turn,
    encode_conversation,
    encode_prompt,
)
from wsiprep.models.language.decoding_config import Decoding
from wsiprep.models.language.interface import (
    IGNORE,
    KeyValueCache,
    LanguageModel,
    LanguageOut,
    labelled_columns,
)
from wsiprep.models.language.splice import SplicedBatch, splice_slides
from wsiprep.models.language.templates import TemplateName

__all__ = ["OptionScores", "answer", "score_options"]


@dataclass(frozen=True, slots=True, eq=False)
class OptionScores:
    """How likely each option is as the answer.

    Attributes:
        total: float32 (n,), log-likelihood in nats of the option's tokens.
        tokens: int64 (n,), how many tokens that is over.
    """

    total: Tensor
    tokens: Tensor

    @property
    def per_token(self) -> Tensor:
        """float32 (n,), log-likelihood per token, which does not favour short options."""
        return self.total / self.tokens

    def best(self, normalised: bool = True) -> int:
        """Index of the likeliest option, the first among equals."""
        return int((self.per_token if normalised else self.total).argmax())


def answer(
    model: LanguageModel,
    conversations: Sequence[Sequence[Turn]],
    slides: Sequence[Sequence[Tensor]],
    *,
    template: TemplateName,
    decoding: Decoding,
    generator: torch.Generator | None = None,
    max_tokens: int | None = None,
    names: Sequence[str] | None = None,
) -> list[str]:
    """Answer the last question of each conversation, as one batch.

    Args:
        model: The language model.
        conversations: B conversations that end with a question.
        slides: Embeddings of the slides of each, as `splice_slides` takes them.
        template: How turns are written; that of training.
        decoding: How an answer is drawn.
        generator: Of the device of the model; needed for sampling.
        max_tokens: Most tokens of a prompt; older exchanges are dropped to fit.
        names: Samples, for messages.

    Raises:
        ManifestError: places and slides differ in number, or a prompt is too long.
        ConfigError: the tokenizer lacks what the template needs.
    """
    encoded = [
        encode_prompt(
            turns,
            model.tokenizer,
            template,
            slide_tokens=[len(part) for part in shown],
            max_tokens=max_tokens,
            overflow="drop_oldest",
            name=None if names is None else names[index],
        )
        for index, (turns, shown) in enumerate(zip(conversations, slides, strict=True))
    ]
    with torch.no_grad():
        batch = splice_slides(model, encoded, slides, padding="left", names=names)
    found = model.generate(
        batch.inputs_embeds,
        batch.attention_mask,
        decoding,
        stop_ids=sorted({id_ for one in encoded for id_ in one.stop_ids}),
        generator=generator,
    )
    return [model.tokenizer.decode(ids).strip() for ids in found]


@torch.no_grad()
def score_options(
    model: LanguageModel,
    turns: Sequence[Turn],
    options: Sequence[str],
    slides: Sequence[Tensor],
    *,
    template: TemplateName,
    with_end: bool = False,
    batch: int = 4,
    name: str | None = None,
) -> OptionScores:
    """Log-likelihood of each option as the answer to the last question.

    What comes before the options, the slide above all, is read once.

    Args:
        model: The language model; it is asked in evaluation mode.
        turns: A conversation that ends with a question.
        options: Answers to compare: letters, or texts.
        slides: Embeddings float (m, width) of each slide.
        template: How turns are written; that of training.
        with_end: Count the token that ends the answer too, so that an option which is the
            beginning of another is not always at least as likely.
        batch: Options scored at once.
        name: Sample, for messages.

    Raises:
        ManifestError: no option, an empty one, or places and slides differ in number.
        ConfigError: the tokenizer lacks what the template needs.
    """
    if not options:
        raise ManifestError("a question has no options to compare.", slide=name, stage="models")
    encoded = []
    for option in options:
        said = [*turns, Turn("assistant", option)]
        one = encode_conversation(said, model.tokenizer, template, name=name)
        labels = one.labels.clone()
        learned = (labels != IGNORE).nonzero()[:, 0].tolist()
        # Only the last answer is compared: its run of labels is the last one.
        run = [index for step, index in enumerate(learned) if _in_last_run(learned, step)]
        kept = run if with_end else run[: _without_end(one.ids[run].tolist(), one.stop_ids)]
        masked = torch.full_like(labels, IGNORE)
        masked[kept] = labels[kept]
        encoded.append(replace(one, labels=masked))
    was_training = model.training
    model.train(False)
    totals: list[Tensor] = []
    counts: list[Tensor] = []
    try:
        begun, encoded, shown = _begin(model, encoded, slides, name)
        for begin in range(0, len(encoded), batch):
            part = encoded[begin : begin + batch]
            names = None if name is None else [name] * len(part)
            spliced = splice_slides(model, part, [shown] * len(part), names=names)
            columns = labelled_columns(spliced.labels)
            out = _go_on(model, begun, spliced, columns)
            targets = spliced.labels[:, columns + 1]
            loss = F.cross_entropy(
                out.logits.transpose(1, 2).float(), targets, ignore_index=IGNORE, reduction="none"
            )
            totals.append(-loss.sum(dim=1).cpu())
            counts.append((targets != IGNORE).sum(dim=1).cpu())
    finally:
        model.train(was_training)
    return OptionScores(total=torch.cat(totals), tokens=torch.cat(counts))


def _begin(
    model: LanguageModel, encoded: list[Encoded], slides: Sequence[Tensor], name: str | None
) -> tuple[KeyValueCache | None, list[Encoded], Sequence[Tensor]]:
    """Read what all conversations begin with.

    Returns:
        Its keys and values, and what is left of conversations and slides; None and all of them
        where nothing is shared.
    """
    first = encoded[0]
    # The token before an answer is read with the answer, whose first token it is to tell.
    most = min(int((one.labels != IGNORE).nonzero()[0, 0]) - 1 for one in encoded)
    same = torch.ones(max(most, 0), dtype=torch.bool)
    for one in encoded[1:]:
        same &= one.ids[:most] == first.ids[:most]
    shared = int(same.cumprod(0).sum())
    start = replace(first, ids=first.ids[:shared], labels=first.labels[:shared])
    if len(encoded) == 1 or not shared or start.slides != first.slides:
        return None, encoded, slides
    names = None if name is None else [name]
    spliced = splice_slides(model, [start], [slides], names=names)
    length = spliced.inputs_embeds.shape[1]
    if not length:
        return None, encoded, slides
    begun = model.new_cache()
    last = torch.tensor([length - 1], device=spliced.labels.device)
    model(spliced.inputs_embeds, spliced.attention_mask, cache=begun, columns=last)
    return begun, [replace(o, ids=o.ids[shared:], labels=o.labels[shared:]) for o in encoded], ()


def _go_on(
    model: LanguageModel, begun: KeyValueCache | None, spliced: SplicedBatch, columns: Tensor
) -> LanguageOut:
    """A pass over conversations, after what was read of them."""
    mask, places = spliced.attention_mask, spliced.position_ids
    cache = None
    if begun is not None:
        rows, length = len(mask), begun.get_seq_length()
        cache = deepcopy(begun)  # the pass appends to it
        cache.reorder_cache(torch.zeros(rows, dtype=torch.int64, device=mask.device))
        mask, places = torch.cat([mask.new_ones(rows, length), mask], dim=1), places + length
    out: LanguageOut = model(
        spliced.inputs_embeds, mask, position_ids=places, cache=cache, columns=columns
    )
    return out


def _in_last_run(learned: Sequence[int], step: int) -> bool:
    """Whether indices from `step` on are neighbours to the end."""
    return learned[-1] - learned[step] == len(learned) - 1 - step


def _without_end(ids: Sequence[int], stop_ids: Sequence[int]) -> int:
    """How many ids there are before the one that ends the answer."""
    return next((index for index, id_ in enumerate(ids) if id_ in stop_ids), len(ids))
