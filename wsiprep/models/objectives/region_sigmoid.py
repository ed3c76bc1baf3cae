"""PathFLIP's loss of regions: does a sub-caption fit what it sees in a slide?

Each slide is asked about its own sub-captions and about some of other slides. Regions are pooled
with the sub-caption as query (`RegionPool`), and the cosine of what was pooled with the sub-caption
goes through a sigmoid: c_ij = pool_i(t_j), s_ij = scale cos(c_ij, t_j) + bias, and the loss is the
sum of -log sigmoid(y_ij s_ij), y = 1 for own texts and -1 for others.

Source: PathFLIP, section on text-conditioned sigmoid loss, after FLAIR (Xiao et al., CVPR 2025) and
SigLIP. Deviations: the scale is exp(log_scale), not the raw parameter; a text of another slide that
says what an own one says is never a negative; over processes candidates come from all slides, with
the same draw as in one process, instead of being passed round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsiprep.models.objectives.alike import alike
from wsiprep.models.objectives.gather import gather_rows, processes, row_offset, total
from wsiprep.models.objectives.region_pool import RegionPool, pad_runs
from wsiprep.models.objectives.scale import LogScale, unit

__all__ = ["RegionOut", "RegionSigmoid", "draw_candidates"]


@dataclass(frozen=True, slots=True, eq=False)
class RegionOut:
    """The loss, and what it came from; C is the most candidates of a slide, M the most regions.

    Attributes:
        loss: float32 scalar, a share (see the package).
        candidate: int64 (b, C), which of the texts of all processes; 0 in padding.
        label: float32 (b, C), 1 on own texts, -1 on others, 0 in padding.
        cosine: float32 (b, C), of what was pooled with the text; 0 in padding.
        weights: float (b, C, M), attention of each text over the slide's regions: grounding.
        region_mask: bool (b, M), true on regions.
    """

    loss: Tensor
    candidate: Tensor
    label: Tensor
    cosine: Tensor
    weights: Tensor
    region_mask: Tensor


def draw_candidates(
    text_bag: Tensor,
    same: Tensor,
    bags: Tensor,
    *,
    negatives: Literal["one", "all"],
    generator: torch.Generator | None,
    all_bags: int,
) -> Tensor:
    """Texts that slides are asked about.

    Args:
        text_bag: int64 (T,), the slide of each text of the whole batch.
        same: bool (T, T), texts that say the same.
        bags: int64 (b,), the slides that ask.
        negatives: `one` random text of each other slide, or `all` of them.
        generator: On the CPU, for `one`; of equal state in all processes.
        all_bags: Slides of the whole batch.

    Returns:
        bool (b, T): own texts and negatives. Texts that say what an own one says are never among
        the negatives; another text of that slide is taken, or none.
    """
    own = text_bag[None, :] == bags[:, None]
    taken = (own.float() @ same.float()) > 0
    free = ~own & ~taken
    if negatives == "all":
        return own | free
    if generator is None:
        raise ValueError("a random text of each other slide needs a generator")
    # All slides draw in all processes, so that the draw does not depend on their number. The
    # highest of random numbers is a fair draw; float64 leaves no chance of two that are equal.
    draw = torch.rand(all_bags, len(text_bag), generator=generator, dtype=torch.float64)
    draw = draw[bags.cpu()].to(free.device).masked_fill(~free, -1.0)
    index = text_bag.expand(len(bags), -1)
    highest = draw.new_full((len(bags), all_bags), -1.0).scatter_reduce(1, index, draw, "amax")
    return own | (free & (draw == highest.gather(1, index)))


class RegionSigmoid(nn.Module):
    """The loss with its pooling, scale and bias.

    Args:
        dim: Width d of texts and regions.
        pool: How a text pools regions; `RegionPool(dim)` without it.
        scale: First scale; PathFLIP's second version has 10.
        bias: First bias; PathFLIP's second version has -10, its first none.
        most: Highest scale.
        negatives: `one` random text of each other slide, as PathFLIP, or `all` of them.
        reduction: `slides` is the mean over slides of the mean over a slide's candidates.
            `pathflip` is the sum over slides of it, as in PathFLIP's first version: the loss grows
            with the batch. `texts` divides the sum over all pairs by the own texts of all slides,
            as in its second.
    """

    def __init__(
        self,
        dim: int,
        *,
        pool: RegionPool | None = None,
        scale: float = 10.0,
        bias: float = -10.0,
        most: float = 100.0,
        negatives: Literal["one", "all"] = "one",
        reduction: Literal["slides", "pathflip", "texts"] = "slides",
    ) -> None:
        super().__init__()
        self.pool = RegionPool(dim) if pool is None else pool
        self.scale = LogScale(scale, most=most)
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float32))
        self.negatives: Literal["one", "all"] = negatives
        self.reduction: Literal["slides", "pathflip", "texts"] = reduction

    def forward(
        self,
        region: Tensor,
        region_bag: Tensor,
        text: Tensor,
        text_bag: Tensor,
        keys: Tensor,
        *,
        bags: int,
        generator: torch.Generator | None = None,
        near: float | None = None,
    ) -> RegionOut:
        """Loss and grounding of a batch. Slides without regions or own texts are left out.

        Args:
            region: float (R, d), slide after slide.
            region_bag: int64 (R,), the slide of each, not decreasing.
            text: float (T, d), sub-captions, slide after slide; as many as each slide has.
            text_bag: int64 (T,), the slide of each, not decreasing.
            keys: int64 (T,), of `text_keys`.
            bags: Slides b of this process.
            generator: On the CPU, of equal state in all processes; draws the negatives.
            near: Cosine from which texts count as saying the same, too; not by default.
        """
        numbers = torch.arange(bags, device=region.device)
        offset = row_offset(numbers)
        all_bags = len(gather_rows(numbers))
        all_text, all_text_bag = gather_rows(text), gather_rows(text_bag + offset)
        all_keys = gather_rows(keys)
        vectors = None if near is None else all_text
        same = alike(all_keys, all_keys, vectors, vectors, threshold=near or 1.0)
        chosen = draw_candidates(
            all_text_bag,
            same,
            numbers + offset,
            negatives=self.negatives,
            generator=generator,
            all_bags=all_bags,
        )
        # Rows and columns of the candidates, slide after slide.
        slide, column = chosen.nonzero(as_tuple=True)
        candidate, asked = pad_runs(column, slide, bags)
        query = all_text[candidate]
        table, region_mask = pad_runs(region, region_bag, bags)
        pooled, weights = self.pool(query, table, region_mask)
        with torch.autocast(region.device.type, enabled=False):
            cosine = (unit(pooled) * unit(query)).sum(dim=-1)
        own = (all_text_bag[candidate] == (numbers + offset)[:, None]) & asked
        counted = asked & region_mask.any(dim=1, keepdim=True) & own.any(dim=1, keepdim=True)
        label = torch.where(own, 1.0, -1.0) * asked
        pair = -functional.logsigmoid(label * (self.scale() * cosine + self.bias)) * counted
        return RegionOut(
            loss=self._reduce(pair, counted, own),
            candidate=candidate * asked,
            label=label,
            cosine=cosine * asked,
            weights=weights * asked[:, :, None],
            region_mask=region_mask,
        )

    def _reduce(self, pair: Tensor, counted: Tensor, own: Tensor) -> Tensor:
        if self.reduction == "texts":
            share = total((own & counted).sum().float()).clamp(min=1)
            return pair.sum() * processes() / share
        mean = pair.sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        if self.reduction == "pathflip":
            return mean.sum() * processes()
        slides = total(counted.any(dim=1).sum().float()).clamp(min=1)
        return mean.sum() * processes() / slides
