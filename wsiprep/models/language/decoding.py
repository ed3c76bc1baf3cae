"""Continuing a prompt: greedy, sampled or by beams, with a cache, the same for every model.

The loop is not that of the transformers library, so that the in-tree model and any other decode by
the same rules, and so that sampling takes a generator and repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsiprep.models.language.decoding_config import Decoding

if TYPE_CHECKING:
    from wsiprep.models.language.interface import LanguageModel, LanguageOut

__all__ = ["choose", "generate"]


@torch.no_grad()
def generate(
    model: LanguageModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    decoding: Decoding,
    *,
    stop_ids: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Continue prompts, in evaluation mode.

    Args:
        model: The language model.
        inputs_embeds: float (B, L, width), padded on the left.
        attention_mask: bool (B, L), False where padding.
        decoding: The rules.
        stop_ids: Tokens that end an answer besides the tokenizer's own end token.
        generator: Of the device of the model; needed for sampling.

    Returns:
        Ids of each answer, without the token that ended it.

    Raises:
        ValueError: padding on the right, or sampling without a generator.
    """
    mask = attention_mask.bool()
    if not bool(mask[:, -1].all()):
        raise ValueError("prompts are continued at their right end: pad them on the left")
    if decoding.temperature > 0 and generator is None:
        raise ValueError("sampling needs a generator")
    ends = torch.tensor(sorted({model.tokenizer.eos_id, *stop_ids}), device=mask.device)
    was_training = model.training
    model.train(False)
    try:
        if decoding.beams > 1:
            return _beam_search(model, inputs_embeds, mask, decoding, ends)
        return _one_by_one(model, inputs_embeds, mask, decoding, ends, generator)
    finally:
        model.train(was_training)


def choose(logits: Tensor, decoding: Decoding, generator: torch.Generator | None) -> Tensor:
    """Next tokens int64 (B,) for logits float (B, V), by the rules of `decoding`."""
    if decoding.temperature == 0:
        return logits.argmax(dim=-1)
    scaled = logits.float() / decoding.temperature
    if 0 < decoding.top_k < scaled.shape[-1]:
        floor = scaled.topk(decoding.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < floor, float("-inf"))
    if decoding.top_p < 1:
        ordered, order = scaled.sort(dim=-1, descending=True)
        share = ordered.softmax(dim=-1)
        # A token goes when those before it have the probability already; the first always stays.
        over = share.cumsum(dim=-1) - share >= decoding.top_p
        scaled = scaled.masked_fill(over.gather(1, order.argsort(dim=-1)), float("-inf"))
    return torch.multinomial(scaled.softmax(dim=-1), 1, generator=generator)[:, 0]


class _Stepper:
    """The model with its cache: tokens in, logits (B, V) of the next token out."""

    def __init__(self, model: LanguageModel, inputs_embeds: Tensor, mask: Tensor) -> None:
        self.model, self.mask, self.cache = model, mask, model.new_cache()
        self.position = mask.long().sum(dim=1)
        last = torch.tensor([inputs_embeds.shape[1] - 1], device=mask.device)
        out: LanguageOut = model(inputs_embeds, mask, cache=self.cache, columns=last)
        self.logits = out.logits[:, 0].float()

    def take_rows(self, rows: Tensor) -> None:
        """Go on with these rows (int64), which may repeat."""
        self.cache.reorder_cache(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def step(self, tokens: Tensor) -> None:
        """Append a token int64 (B,) to each row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        out: LanguageOut = self.model(
            self.model.embed(tokens[:, None]),
            self.mask,
            position_ids=self.position[:, None],
            cache=self.cache,
        )
        self.logits = out.logits[:, -1].float()
        self.position = self.position + 1


def _one_by_one(
    model: LanguageModel,
    inputs_embeds: Tensor,
    mask: Tensor,
    decoding: Decoding,
    ends: Tensor,
    generator: torch.Generator | None,
) -> list[list[int]]:
    stepper = _Stepper(model, inputs_embeds, mask)
    open_ = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
    answers: list[list[int]] = [[] for _ in range(len(mask))]
    for index in range(decoding.max_new_tokens):
        tokens = choose(stepper.logits, decoding, generator)
        open_ &= ~torch.isin(tokens, ends)
        for row in open_.nonzero()[:, 0].tolist():
            answers[row].append(int(tokens[row]))
        if not bool(open_.any()) or index + 1 == decoding.max_new_tokens:
            break
        stepper.step(tokens)
    return answers


@dataclass(slots=True)
class _Beams:
    """Beams of one prompt."""

    width: int
    penalty: float
    ids: list[list[int]] = field(default_factory=lambda: [[]])
    scores: list[float] = field(default_factory=lambda: [0.0])
    finished: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def worth(self, score: float, length: int) -> float:
        return score / float(max(length, 1) ** self.penalty)

    def finish(self, score: float, ids: list[int], length: int) -> None:
        self.finished.append((self.worth(score, length), ids))
        self.finished.sort(key=lambda one: -one[0])
        del self.finished[self.width :]

    def advance(self, candidates: list[tuple[float, int, int]], ends: set[int]) -> list[int]:
        """Take (score, beam, token), best first; gives the beams gone on with."""
        ids, scores, parents = [], [], []
        for rank, (score, beam, token) in enumerate(candidates):
            if token in ends:
                if rank < self.width:
                    self.finish(score, self.ids[beam], len(self.ids[beam]) + 1)
                continue
            ids.append([*self.ids[beam], token])
            scores.append(score)
            parents.append(beam)
            if len(ids) == self.width:
                break
        self.ids, self.scores = ids, scores
        best = max(scores) if scores else float("-inf")
        full = len(self.finished) == self.width
        self.done = not ids or (full and self.finished[-1][0] >= self.worth(best, len(ids[0])))
        return parents


def _beam_search(
    model: LanguageModel, inputs_embeds: Tensor, mask: Tensor, decoding: Decoding, ends: Tensor
) -> list[list[int]]:
    """Beam search; hypotheses that end are kept apart, compared by length-normalised score."""
    stepper = _Stepper(model, inputs_embeds, mask)
    stops = set(ends.tolist())
    prompts = [_Beams(decoding.beams, decoding.length_penalty) for _ in range(len(mask))]
    rows = list(range(len(mask)))  # row of the first beam of each prompt
    for index in range(decoding.max_new_tokens):
        likely = stepper.logits.log_softmax(dim=-1)
        wanted = min(decoding.beams * (1 + len(stops)), likely.shape[1])
        top = likely.topk(wanted, dim=1)
        values, tokens = top.values.tolist(), top.indices.tolist()
        parents: list[int] = []
        firsts: list[int] = []
        for prompt, row in zip(prompts, rows, strict=True):
            firsts.append(len(parents))
            if prompt.done:
                continue
            found = [
                (prompt.scores[beam] + value, beam, token)
                for beam in range(len(prompt.ids))
                for value, token in zip(values[row + beam], tokens[row + beam], strict=True)
            ]
            found.sort(key=lambda one: -one[0])
            kept = prompt.advance(found, stops)
            if not prompt.done:
                parents += [row + beam for beam in kept]
        rows = firsts
        if not parents or index + 1 == decoding.max_new_tokens:
            break
        stepper.take_rows(torch.tensor(parents, device=mask.device))
        chosen = [ids[-1] for prompt in prompts if not prompt.done for ids in prompt.ids]
        stepper.step(torch.tensor(chosen, device=mask.device))
    for prompt in prompts:
        if not prompt.done:
            for score, ids in zip(prompt.scores, prompt.ids, strict=True):
                prompt.finish(score, ids, len(ids))
    return [prompt.finished[0][1] for prompt in prompts]
