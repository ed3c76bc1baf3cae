"""Dilated attention of LongNet on packed ragged sequences.

Source: Ding et al. 2023, arXiv 2307.02486. For each pair (segment length w, ratio r) a sequence of
L rows is cut into segments of w' = min(w, L). The heads form up to r blocks of ceil(H / r); block
j attends densely among the rows of its segment whose place in it is j modulo r. A row that a block
passes over gets nothing from it. The pairs are put together with weights that are the softmax,
without gradient, of their log-sum-exps.

`pad_mode="masked"` is that and nothing else. `pad_mode="reference"` does as the published weights
were trained: the last segment is filled up to w', and every segment to a multiple of r, with keys
and values of zero that take part in the softmax; and a log-sum-exp of exactly 0 counts as absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsiprep.models.attend import attend_lse
from wsiprep.models.ragged import Plan

__all__ = ["ABSENT", "DilatedAttention", "Dilation", "PadMode", "dilated_attention"]

PadMode = Literal["reference", "masked"]
ABSENT = -1e8
"""Log-sum-exp of a pair that passes a row over."""


class Dilation:
    """One (segment length, ratio) on one batch: who attends to whom. Serves all layers.

    Args:
        starts: int64 (B + 1,), where each sequence begins; none is empty.
        segment: Segment length w.
        ratio: Dilation r.
        heads: Number of heads H.
        pad_mode: See the module.
    """

    def __init__(
        self, starts: Tensor, segment: int, ratio: int, heads: int, pad_mode: PadMode
    ) -> None:
        self.ratio, self.heads = ratio, heads
        self.block = -(-heads // ratio)
        device = starts.device
        lengths = starts[1:] - starts[:-1]
        width = lengths.clamp(max=segment)
        owner = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        step = torch.arange(int(starts[-1]), device=device) - starts[owner]
        part = step // width[owner]
        phase = step % width[owner] % ratio
        # Blocks beyond the last head are made of padding alone.
        row = (phase * self.block < heads).nonzero()[:, 0]
        key = torch.stack([owner[row], part[row], phase[row]], dim=1)
        order = torch.arange(len(row), device=device)
        for column in reversed(range(3)):
            order = order[torch.argsort(key[order, column], stable=True)]
        row, key = row[order], key[order]
        _, run, many = torch.unique_consecutive(key, dim=0, return_inverse=True, return_counts=True)
        query_starts = torch.cat([many.new_zeros(1), many.cumsum(0)])
        self.rows = len(step)
        self.place = row * ratio + phase[row]
        """int64 (n,), rows of q, k and v seen as (T * ratio, block, E)."""
        self.key_place: Tensor | None = None
        key_starts = query_starts
        if pad_mode == "reference":
            first = key[query_starts[:-1], 0] if len(key) else key[:, 0]
            full = (width[first] + ratio - 1) // ratio
            key_starts = torch.cat([full.new_zeros(1), full.cumsum(0)])
            if int(key_starts[-1]) != len(row):
                rank = torch.arange(len(row), device=device) - query_starts[run]
                filled = self.place.new_full((int(key_starts[-1]),), self.rows * ratio)
                filled[key_starts[run] + rank] = self.place
                self.key_place = filled
        self.zero_is_absent = pad_mode == "reference"
        self.plan = Plan(query_starts, key_starts)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of this pair alone.

        Args:
            q: float (T, H, E).
            k: float (T, H, E).
            v: float (T, H, E).

        Returns:
            float (T, H, E), zeros where passed over, and float32 (T, H) log-sum-exps without
            gradient, `ABSENT` there.
        """
        queries, keys, values = (self._blocks(x) for x in (q, k, v))
        some = queries.index_select(0, self.place)
        if self.key_place is None:
            some_keys, some_values = (x.index_select(0, self.place) for x in (keys, values))
        else:
            # The row after the last is the zero that fills up segments.
            zero = keys.new_zeros((1, *keys.shape[1:]))
            some_keys, some_values = (
                torch.cat([x, zero]).index_select(0, self.key_place) for x in (keys, values)
            )
        found, lse = attend_lse(some, some_keys, some_values, self.plan)
        if self.zero_is_absent:
            lse = lse.masked_fill(lse == 0, ABSENT)
        out = torch.zeros_like(queries).index_copy(0, self.place, found)
        all_lse = lse.new_full(queries.shape[:2], ABSENT).index_copy(0, self.place, lse)
        shape = (self.rows, self.ratio * self.block)
        return (
            out.reshape(*shape, q.shape[-1])[:, : self.heads],
            all_lse.reshape(shape)[:, : self.heads],
        )

    def _blocks(self, x: Tensor) -> Tensor:
        """(T, H, E) to (T * ratio, block, E); heads are filled up with zeros."""
        missing = self.ratio * self.block - self.heads
        if missing:
            x = F.pad(x, (0, 0, 0, missing))
        return x.reshape(self.rows * self.ratio, self.block, x.shape[-1])


def dilated_attention(q: Tensor, k: Tensor, v: Tensor, dilations: Sequence[Dilation]) -> Tensor:
    """All pairs together: (T, H, E) to (T, H, E)."""
    found = [dilation(q, k, v) for dilation in dilations]
    weights = torch.stack([lse for _, lse in found]).softmax(0).detach()
    total = torch.zeros_like(q)
    for (out, _), weight in zip(found, weights, strict=True):
        total = total + out * weight[..., None].to(out.dtype)
    return total


class DilatedAttention(nn.Module):
    """Projections, dilated attention, LayerNorm on what was read (sub-LN), projection.

    Keys have a bias here: in reference mode it is felt, against keys of zero.

    Args:
        dim: Width.
        heads: Number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, dilations: Sequence[Dilation]) -> Tensor:
        """(T, dim) to (T, dim)."""
        q, k, v = (p(x).unflatten(1, (self.heads, -1)) for p in (self.query, self.key, self.value))
        out: Tensor = self.out(self.norm(dilated_attention(q, k, v, dilations).flatten(1)))
        return out
