"""Regions as a text sees them: attention with the text as query.

Source: PathFLIP, and the text-conditioned pooling of FLAIR (Xiao et al., CVPR 2025). FLAIR lets a
text attend to an empty slot, so that one that describes nothing of a slide need not attend
anywhere; PathFLIP's releases do not. Here it is an option that is on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RegionPool", "pad_runs"]


def pad_runs(rows: Tensor, owner: Tensor, owners: int) -> tuple[Tensor, Tensor]:
    """Runs of rows as a table.

    Args:
        rows: (R, ...), run after run.
        owner: int64 (R,), not decreasing, below `owners`.
        owners: Number B of runs, empty ones included.

    Returns:
        (B, M, ...) with zeros after the end of each run, M the longest and at least 1, and bool
        (B, M), true on rows.
    """
    counts = torch.bincount(owner, minlength=owners)
    longest = max(int(counts.max()), 1) if owners else 1
    mask = torch.arange(longest, device=rows.device) < counts[:, None]
    table = rows.new_zeros(owners, longest, *rows.shape[1:])
    # Differentiable in `rows`: they land where the mask is true, in their order.
    table = table.masked_scatter(mask.view(*mask.shape, *[1] * (rows.ndim - 1)), rows)
    return table, mask


class RegionPool(nn.Module):
    """Texts attend over the regions of a slide; many heads, softmax over regions and empty slot.

    PathFLIP's first version has a linear map of q, k and v before those of its attention; two
    linear maps in a row are one, so there is one here. With `norm` they are normalised first, as
    in its second version.

    Args:
        dim: Width d of texts and regions, which share a space.
        heads: They divide the width.
        zero_slot: Let a text attend to nothing: a slot with key and value 0.
        norm: LayerNorm of texts and regions before the maps.
        dropout: Of the attention weights that pool; the weights given back are without it.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 8,
        zero_slot: bool = True,
        norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads = heads
        self.zero_slot = zero_slot
        self.text_norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.key_norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.value_norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, text: Tensor, region: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pool each slide's regions for each of its texts.

        Args:
            text: float (B, C, d), as many texts for each slide; what is padding is the caller's.
            region: float (B, M, d), regions or patches.
            mask: bool (B, M), true on regions; a slide may have none.

        Returns:
            float (B, C, d), the pooled regions, and float (B, C, M), the attention of each text,
            mean over heads. It sums to 1, to less with the zero slot (what is missing went there),
            and to 0 on a slide without regions.
        """
        region = region.masked_fill(~mask[:, :, None], 0.0)
        q = self._split(self.q(self.text_norm(text)))
        k = self._split(self.k(self.key_norm(region)))
        v = self._split(self.v(self.value_norm(region)))
        scores = (q @ k.transpose(-1, -2)).float() / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        if self.zero_slot:
            nothing = scores.new_zeros(*scores.shape[:-1], 1)
            weights = torch.cat([scores, nothing], dim=-1).softmax(dim=-1)[..., :-1]
        else:
            weights = scores.softmax(dim=-1)
        weights = weights * mask[:, None, None, :]
        pooled = self.dropout(weights).to(v.dtype) @ v
        batch, texts, dim = text.shape
        return self.out(pooled.transpose(1, 2).reshape(batch, texts, dim)), weights.mean(dim=1)

    def alone(self, region: Tensor) -> Tensor:
        """What a text would pool that attends to one region and nothing else.

        Args:
            region: float (R, d), regions or patches.

        Returns:
            float (R, d); comparable with texts, as what is pooled is.
        """
        out: Tensor = self.out(self.v(self.value_norm(region)))
        return out

    def _split(self, rows: Tensor) -> Tensor:
        batch, length, dim = rows.shape
        return rows.view(batch, length, self.heads, dim // self.heads).transpose(1, 2)
