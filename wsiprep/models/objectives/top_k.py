"""Patches that a text sees: softmax of cosines, the highest k kept (PathFLIP's second version).

For a text t of a slide with patches p: softmax over patches of cos(t, p) / 0.5, all but the highest
128 dropped, the rest made to sum to 1 again; their mean of patches stands for what the text says of
the slide. All such means are contrasted with all texts by SigLIP, a mean of a text with that text
being the only positive. (The reference, run over several processes, calls every pair of a process
positive; that is not followed.)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from wsiprep.models.objectives.scale import cosines
from wsiprep.models.objectives.siglip_loss import SigLIP

__all__ = ["SoftTopK", "TopK", "soft_top_k", "straight_through_top_k"]


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """What `soft_top_k` found.

    Attributes:
        pooled: float (T, d), one vector a text.
        weights: of each text the weights over the patches of its slide, float (N_i,), in the order
            of the texts; at most k are not 0, and they sum to 1.
    """

    pooled: Tensor
    weights: list[Tensor]


def soft_top_k(
    text: Tensor,
    text_bag: Tensor,
    patch: Tensor,
    starts: Tensor,
    *,
    k: int = 128,
    temperature: float = 0.5,
) -> TopK:
    """Pool the patches of each text's own slide.

    Args:
        text: float (T, d), texts, slide after slide.
        text_bag: int64 (T,), the slide of each, not decreasing.
        patch: float (N, d), patches of all slides, packed.
        starts: int64 (B + 1,), where those of each slide begin.
        k: Patches kept; all where a slide has no more.
        temperature: Of the softmax.

    Returns:
        Means and weights; of a slide without patches zeros and an empty tensor.
    """
    if k < 1:
        raise ValueError(f"k is at least 1, not {k}")
    pooled: list[Tensor] = []
    weights: list[Tensor] = []
    counts = torch.bincount(text_bag, minlength=len(starts) - 1).tolist()
    begins = starts.tolist()
    for texts, begin, end in zip(torch.split(text, counts), begins, begins[1:], strict=False):
        patches = patch[begin:end]
        if not len(texts):
            continue
        chance = (cosines(texts, patches) / temperature).softmax(dim=1)
        if k < len(patches):
            kept = chance.topk(k, dim=1)
            # Ties are cut by `topk`: exactly k are kept.
            chance = torch.zeros_like(chance).scatter(1, kept.indices, kept.values)
            chance = chance / kept.values.sum(dim=1, keepdim=True)
        pooled.append(chance.to(patches.dtype) @ patches)
        weights.extend(chance.unbind())
    return TopK(torch.cat(pooled) if pooled else text.new_zeros(0, patch.shape[1]), weights)


def straight_through_top_k(
    score: Tensor, token: Tensor, starts: Tensor, *, k: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The k tokens of each slide with the highest scores, with a gradient for the scores.

    Picking has no gradient. Tokens are multiplied by w - stop(w) + 1, w = n softmax(score /
    temperature) over the n picked: by exactly 1 on the way forward, while the gradient raises the
    scores of tokens that help.

    Args:
        score: float (N,), of each token.
        token: float (N, d), packed.
        starts: int64 (B + 1,), where those of each slide begin.
        k: Tokens picked; all where a slide has no more.
        temperature: Of the softmax.

    Returns:
        float (M, d), picked tokens, in the order in which they stood; int64 (B + 1,), where those
        of each slide begin; int64 (M,), which rows they were.
    """
    rows: list[Tensor] = []
    factors: list[Tensor] = []
    begins = starts.tolist()
    for begin, end in pairwise(begins):
        own = score[begin:end]
        picked = own.detach().topk(min(k, end - begin)).indices.sort().values
        weight = len(picked) * (own[picked].float() / temperature).softmax(dim=0)
        rows.append(picked + begin)
        factors.append(weight - weight.detach() + 1)
    chosen = torch.cat(rows)
    sizes = torch.tensor([0, *(len(row) for row in rows)], device=starts.device)
    out = token[chosen] * torch.cat(factors)[:, None].to(token.dtype)
    return out, sizes.cumsum(0), chosen


class SoftTopK(nn.Module):
    """The loss: `soft_top_k`, then SigLIP over all pairs of means and texts.

    Args:
        k: Patches kept.
        temperature: Of the softmax.
        siglip: The loss of pairs; by default from scale 10 and bias -10, mean over pairs.
    """

    def __init__(
        self, *, k: int = 128, temperature: float = 0.5, siglip: SigLIP | None = None
    ) -> None:
        super().__init__()
        self.k = k
        self.temperature = temperature
        self.siglip = SigLIP(reduction="pairs") if siglip is None else siglip

    def forward(
        self,
        text: Tensor,
        text_bag: Tensor,
        patch: Tensor,
        starts: Tensor,
        *,
        ignore: Tensor | None = None,
    ) -> tuple[Tensor, TopK]:
        """Loss, a float32 scalar, and what was pooled; arguments as of `soft_top_k`.

        `ignore` is bool (T, all T), pairs that are no negatives; see `false_negatives`.
        """
        found = soft_top_k(text, text_bag, patch, starts, k=self.k, temperature=self.temperature)
        return self.siglip(found.pooled, text, ignore=ignore), found
