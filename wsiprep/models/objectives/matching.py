"""Does a text belong to a slide? Asked of true pairs and of the hardest wrong ones.

For each true pair a wrong slide is drawn for its text and a wrong text for its slide, the more
often the more alike they are: 3 B pairs, of which B are true. A network that has seen slide and
text together gives vectors of each pair (one a query), a linear map two logits of each, and their
mean over the queries is the answer.

Source: Li et al., Align before Fuse, NeurIPS 2021; BLIP-2, ICML 2023. Negatives are of the same
process, as in Align before Fuse; and pairs whose texts say the same are never drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsiprep.models.objectives.gather import processes, total

__all__ = ["Fuse", "MatchingHead", "hard_negatives", "matching_loss", "pairs_of"]

Fuse = Callable[[Tensor, Tensor], Tensor]
"""Numbers of slides and of texts, both int64 (n,), to vectors of the pairs, float (n, q, d)."""


def hard_negatives(
    similarity: Tensor, *, generator: torch.Generator, ignore: Tensor | None = None
) -> Tensor:
    """For each row a wrong column, drawn with chances softmax(similarity) over wrong columns.

    Args:
        similarity: float (b, b), scaled cosines; takes no gradient.
        generator: On the CPU.
        ignore: bool (b, b), pairs that are no negatives either.

    Returns:
        int64 (b,), on the CPU; -1 where there is no wrong column.
    """
    scores = similarity.detach().float().cpu()
    barred = torch.eye(len(scores), dtype=torch.bool)
    if ignore is not None:
        barred = barred | ignore.cpu()
    possible = ~barred.all(dim=1)
    scores = scores.masked_fill(barred, -torch.inf)
    chosen = torch.full((len(scores),), -1)
    if bool(possible.any()):
        chance = scores[possible].softmax(dim=1)
        chosen[possible] = torch.multinomial(chance, 1, generator=generator)[:, 0]
    return chosen


class MatchingHead(nn.Module):
    """Logits of "does not belong" and "belongs".

    Args:
        dim: Width of the vectors of a pair.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2)

    def forward(self, fused: Tensor) -> Tensor:
        """From float (n, q, d) to float32 (n, 2): the mean over the queries of their logits."""
        logits: Tensor = self.linear(fused)
        return logits.float().mean(dim=1)


def matching_loss(
    fuse: Fuse,
    head: nn.Module,
    similarity: Tensor,
    *,
    generator: torch.Generator,
    ignore: Tensor | None = None,
    pairs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy over true pairs and hard wrong ones; a share, see the package.

    Args:
        fuse: What sees slide and text together.
        head: Vectors of pairs, (n, q, d), to logits (n, 2).
        similarity: float (b, b), scaled cosines of slide i and text j of this process.
        generator: On the CPU.
        ignore: bool (b, b), pairs whose texts say the same.
        pairs: float scalar, pairs of the whole step over all processes (`pairs_of`), where this is
            a part of it: processes may then have different numbers of parts. Counted here without.

    Returns:
        Loss, a float32 scalar, and bool (n,), which of the pairs were answered rightly: first the
        b true ones, then wrong slides, then wrong texts.
    """
    count = len(similarity)
    own = torch.arange(count)
    slide_of = hard_negatives(similarity.T, generator=generator, ignore=_flip(ignore))
    text_of = hard_negatives(similarity, generator=generator, ignore=ignore)
    has_slide, has_text = slide_of >= 0, text_of >= 0
    slides = torch.cat([own, slide_of[has_slide], own[has_text]])
    texts = torch.cat([own, own[has_slide], text_of[has_text]])
    device = similarity.device
    logits = head(fuse(slides.to(device), texts.to(device))).float()
    truth = torch.zeros(len(slides), dtype=torch.int64, device=device)
    truth[:count] = 1
    loss = functional.cross_entropy(logits, truth, reduction="sum")
    if pairs is None:
        pairs = total(torch.tensor(float(len(slides)), device=device))
    return loss * processes() / pairs.clamp(min=1), logits.argmax(dim=1) == truth


def pairs_of(ignore: Tensor) -> int:
    """Pairs that `matching_loss` asks of, wrong ones included: they do not depend on the draw.

    Args:
        ignore: bool (b, b), pairs whose texts say the same.
    """
    free = ~(ignore.cpu() | torch.eye(len(ignore), dtype=torch.bool))
    return len(ignore) + int(free.any(dim=0).sum()) + int(free.any(dim=1).sum())


def _flip(ignore: Tensor | None) -> Tensor | None:
    return None if ignore is None else ignore.T
