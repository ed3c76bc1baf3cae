"""Texts that say the same: pairs of them are no negatives, whichever slide they came with.

"Margins are clear" is true of many slides. A negative whose text equals that of a positive teaches
what is false; objectives leave such pairs out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from wsiprep.models.objectives.gather import gather_rows, row_offset
from wsiprep.models.objectives.scale import cosines
from wsiprep.models.text.captions import normalised

__all__ = ["alike", "false_negatives", "text_keys"]


def text_keys(texts: Sequence[str]) -> Tensor:
    """A number for each text, equal for texts that are equal when normalised: int64 (B,).

    Numbers, not texts, so that they can be gathered over processes; two different texts have the
    same one with a chance of 2^-64.
    """
    numbers = [
        int.from_bytes(hashlib.blake2b(normalised(t).encode(), digest_size=8).digest(), signed=True)
        for t in texts
    ]
    return torch.tensor(numbers, dtype=torch.int64)


def alike(
    keys: Tensor,
    all_keys: Tensor,
    text: Tensor | None = None,
    all_text: Tensor | None = None,
    *,
    threshold: float = 0.95,
) -> Tensor:
    """Which texts say the same: bool (n, m).

    Args:
        keys: int64 (n,), of `text_keys`.
        all_keys: int64 (m,).
        text: float (n, d), vectors of the texts, where near ones are to be found too.
        all_text: float (m, d).
        threshold: Cosine from which texts are near. Give vectors of a frozen encoder, or train a
            while first: an encoder that has learned nothing yet finds all texts near.
    """
    same = keys[:, None] == all_keys[None, :]
    if text is not None and all_text is not None:
        same = same | (cosines(text.detach(), all_text.detach()) > threshold)
    return same


def false_negatives(keys: Tensor, text: Tensor | None = None, *, threshold: float = 0.95) -> Tensor:
    """Pairs of a batch that are neither positives nor negatives.

    Args:
        keys: int64 (b,), of `text_keys`; of this process.
        text: float (b, d), where near texts count too; see `alike`.
        threshold: Cosine from which texts are near.

    Returns:
        bool (b, B), own rows against those of all processes; false on the pairs themselves.
    """
    every = None if text is None else gather_rows(text.detach())
    same = alike(keys, gather_rows(keys), text, every, threshold=threshold)
    own = torch.arange(len(keys), device=keys.device)
    same[own, own + row_offset(keys)] = False
    return same
