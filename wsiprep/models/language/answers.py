"""Asking a language model: answers by generation, and options by their likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from wsiprep.core.errors import ManifestError
from wsiprep.models.language.conversation import Turn, encode_conversation, encode_prompt
from wsiprep.models.language.decoding_config import Decoding
from wsiprep.models.language.interface import (
    IGNORE,
    LanguageModel,
    LanguageOut,
    labelled_columns,
)
from wsiprep.models.language.splice import splice_slides
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
        for begin in range(0, len(encoded), batch):
            part = encoded[begin : begin + batch]
            names = None if name is None else [name] * len(part)
            spliced = splice_slides(model, part, [slides] * len(part), names=names)
            columns = labelled_columns(spliced.labels)
            out: LanguageOut = model(
                spliced.inputs_embeds,
                spliced.attention_mask,
                position_ids=spliced.position_ids,
                columns=columns,
            )
            targets = spliced.labels[:, columns + 1]
            loss = F.cross_entropy(
                out.logits.transpose(1, 2).float(), targets, ignore_index=IGNORE, reduction="none"
            )
            totals.append(-loss.sum(dim=1).cpu())
            counts.append((targets != IGNORE).sum(dim=1).cpu())
    finally:
        model.train(was_training)
    return OptionScores(total=torch.cat(totals), tokens=torch.cat(counts))


def _in_last_run(learned: Sequence[int], step: int) -> bool:
    """Whether indices from `step` on are neighbours to the end."""
    return learned[-1] - learned[step] == len(learned) - 1 - step


def _without_end(ids: Sequence[int], stop_ids: Sequence[int]) -> int:
    """How many ids there are before the one that ends the answer."""
    return next((index for index, id_ in enumerate(ids) if id_ in stop_ids), len(ids))
