"""Next-token loss of captions, after a prefix of a slide's tokens or beside them (CoCa).

Logits at a place are about the token at the next one. Labels of -100 are not counted: padding, the
prefix, and whatever else is not to be learned. The weights of CoCa (Yu et al., TMLR 2022), 1 for
contrast and 2 for captions, are the business of `combine`.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from wsiprep.models.objectives.gather import processes, total

__all__ = [
    "NOT_COUNTED",
    "caption_labels",
    "caption_loss",
    "caption_loss_of_hidden",
    "caption_nats",
    "mean_of_nats",
]

NOT_COUNTED: Final = -100


def caption_labels(ids: Tensor, mask: Tensor, *, prefix: int = 0) -> Tensor:
    """Labels of captions: all their tokens, not padding, not the prefix.

    Args:
        ids: int64 (B, L), captions as `Tokenizer.batch` gives them: `<bos>` ... `<eos>`.
        mask: bool (B, L), true on tokens.
        prefix: Places before the caption, such as tokens of the slide.

    Returns:
        int64 (B, prefix + L). `<eos>` is to be learned; `<bos>` is too where a prefix precedes it,
        as the first thing said after the slide, and else has nothing before it to be said from.
    """
    labels = ids.masked_fill(~mask, NOT_COUNTED)
    return functional.pad(labels, (prefix, 0), value=NOT_COUNTED)


def caption_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the next token, mean over counted tokens; a share, see the package.

    Args:
        logits: float (B, L, V).
        labels: int64 (B, L), -100 where nothing is to be learned.
        label_smoothing: Share of the target spread evenly over the vocabulary.

    Returns:
        A float32 scalar; 0 where nothing is counted.
    """
    return mean_of_nats(*caption_nats(logits, labels, label_smoothing=label_smoothing))


def caption_nats(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the next token, of this process alone: a sum, so that it adds up.

    Args:
        logits: float (B, L, V).
        labels: int64 (B, L), -100 where nothing is to be learned.
        label_smoothing: As of `caption_loss`.

    Returns:
        float32 scalar, the sum over counted tokens; int64 scalar, how many these are.
    """
    loss = _next_token(logits[:, :-1], labels[:, 1:], label_smoothing)
    return loss, _counted(labels)


def mean_of_nats(nats: Tensor, count: Tensor) -> Tensor:
    """The mean over the tokens of all processes; a share, see the package.

    Args:
        nats: float32 scalar, the sum of this process.
        count: int64 scalar, its tokens.
    """
    return nats * processes() / total(count.float()).clamp(min=1)


def caption_loss_of_hidden(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    chunk: int = 1024,
) -> Tensor:
    """`caption_loss` of logits hidden @ weight.T + bias that are never there all at once.

    Only places that count are looked at, `chunk` at a time, and logits are made again for the
    gradient: with a vocabulary of 150,000, the memory of 1024 tokens instead of that of a batch.

    Args:
        hidden: float (B, L, d).
        weight: float (V, d), of the output layer.
        labels: int64 (B, L), -100 where nothing is to be learned.
        bias: float (V,).
        label_smoothing: As of `caption_loss`.
        chunk: Places at a time.
    """
    target = labels[:, 1:]
    counted = target != NOT_COUNTED
    rows, wanted = hidden[:, :-1][counted], target[counted]

    def part(some: Tensor, of: Tensor) -> Tensor:
        return _next_token(functional.linear(some, weight, bias), of, label_smoothing)

    loss = hidden.new_zeros((), dtype=torch.float32)
    for some, of in zip(torch.split(rows, chunk), torch.split(wanted, chunk), strict=True):
        if len(some):
            loss = loss + checkpoint(part, some, of, use_reentrant=False)
    return mean_of_nats(loss, _counted(labels))


def _next_token(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    return functional.cross_entropy(
        logits.float().flatten(0, -2),
        target.flatten(),
        ignore_index=NOT_COUNTED,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


def _counted(labels: Tensor) -> Tensor:
    return (labels[:, 1:] != NOT_COUNTED).sum()
