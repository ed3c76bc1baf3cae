"""Few queries read many rows: one softmax over row after row, a piece at a time.

Queries come with the key projection in them, and what they read is rows, not values (see
`attention`). Scores are made for a piece of the rows, used and forgotten, and made again in the
backward pass from the logarithm of their sum that was kept; so memory does not grow with the rows
but for the rows themselves and their gradient. Rows of unequal sequences are put into rectangles
a piece at a time too.

Sources: Milakov and Gimelshein 2018, arXiv 1805.02867 (the sum as it goes); Dao et al. 2022, arXiv
2205.14135, appendix B (the backward pass).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wsiprep.models.ragged import Group, Plan

__all__ = ["read_rows", "row_share"]

PIECE_SCORES = 1 << 20
"""Scores in memory at once (4 MB in float32)."""


def read_rows(
    queries: Tensor, rows: Tensor, plan: Plan, *, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Each query's rows, weighted by the softmax of their products with it.

    Args:
        queries: float (Tq, H, C), scaled.
        rows: float (Tk, C), of any floating type; a piece at a time becomes that of `queries`.
        plan: Which queries read which rows.
        dropout: Of the weights; its random numbers come from a seed that is drawn from torch's
            default generator.

    Returns:
        float (Tq, H, C), and float (Tq, H), the sums of the weights: 1 without dropout. Both are
        zeros for queries without rows, and of the type of `queries`.
    """
    seed = int(torch.randint(1 << 62, (1,))) if dropout else None
    kind = queries.device.type
    # What autocast would make of a product, made here, for the backward pass runs without it.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else queries.dtype
    with torch.autocast(kind, enabled=False):
        read, total = _Read.apply(queries, rows, plan, _Weights(dtype, dropout, seed))
    return read, total


def row_share(queries: Tensor, rows: Tensor, plan: Plan) -> Tensor:
    """How much each row is read, the mean over the heads and queries of its sequence.

    Returns:
        float32 (Tk,) without gradient; the shares of a sequence with queries sum to 1.
    """
    heads = queries.shape[1]
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        weights = _Weights(queries.dtype)
        share = torch.zeros(len(rows), dtype=torch.float32, device=rows.device)
        for group, asked in zip(plan.groups, _by_head(plan, queries), strict=True):
            _, _, log_sum = _read_group(asked, rows, group, weights, None)
            there = _there(group, heads, log_sum)
            for piece in _pieces(group, asked.shape[1]):
                scores, _ = piece.scores(asked, rows, weights.dtype)
                mean = there[piece.some, None] @ (scores - log_sum[piece.some]).exp_()
                piece.put(share, mean[:, 0].float())
    return share


@dataclass(frozen=True, slots=True)
class _Weights:
    """How weights are made: the type of products, the dropout, and the seed of it."""

    dtype: torch.dtype
    dropout: float = 0.0
    seed: int | None = None

    def generator(self, device: torch.device) -> torch.Generator | None:
        """At its beginning: pieces in the same order get the same numbers."""
        if self.seed is None:
            return None
        return torch.Generator(device).manual_seed(self.seed)

    def mask(self, like: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """What weights are multiplied with."""
        if generator is None:
            return None
        kept = torch.empty_like(like).bernoulli_(1 - self.dropout, generator=generator)
        return kept.div_(1 - self.dropout)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some sequences of a group, and some of the rows of each."""

    group: Group
    some: slice
    part: slice

    def _index(self) -> Tensor | None:
        """Row of each place of the piece, int64 (g, l); None if they follow each other."""
        side = self.group.key
        if isinstance(side.rows, slice):
            return None
        return torch.unflatten(side.rows, 0, side.shape)[self.some, self.part]

    @property
    def valid(self) -> Tensor | None:
        """False on padding: bool (g, l), or None if there is none."""
        valid = self.group.key.valid
        return None if valid is None else valid[self.some, self.part]

    def of(self, packed: Tensor) -> Tensor:
        """Its rows, (g, l, ...) of (Tk, ...), zeros written on padding; a view if there is one."""
        side, index = self.group.key, self._index()
        if index is None:
            whole = torch.unflatten(packed[side.rows], 0, side.shape)
            return whole[self.some, self.part]
        found = torch.unflatten(packed.index_select(0, index.flatten()), 0, index.shape)
        valid = self.valid
        if valid is None:
            return found
        return found.masked_fill_(~valid.reshape(*valid.shape, *(1,) * (found.ndim - 2)), 0)

    def put(self, packed: Tensor, values: Tensor) -> None:
        """Write values (g, l, ...) to the rows of `packed` (Tk, ...) that they belong to."""
        side, index = self.group.key, self._index()
        if index is None:
            whole = torch.unflatten(packed[side.rows], 0, side.shape)
            whole[self.some, self.part] = values
            return
        valid = self.valid
        index, values = index.flatten(), values.flatten(0, 1)
        if valid is not None:
            keep = valid.flatten().nonzero()[:, 0]
            index, values = index[keep], values[keep]
        packed.index_copy_(0, index, values)

    def scores(self, asked: Tensor, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Scores (g, n, l), at least float32, -inf on padding; and the rows, (g, l, C)."""
        content = self.of(rows).to(dtype)
        scores = asked[self.some].to(dtype) @ content.transpose(1, 2)
        scores = scores.to(torch.promote_types(dtype, torch.float32))
        valid = self.valid
        if valid is not None:
            scores = scores.masked_fill_(~valid[:, None], -torch.inf)
        return scores, content


def _pieces(group: Group, asked: int) -> Iterator[_Piece]:
    """Pieces of a group whose sequences have so many queries, heads counted; first rows first."""
    count, long = group.key.shape
    some = min(count, max(1, PIECE_SCORES // (asked * long)))
    part = min(long, max(1, PIECE_SCORES // (asked * some)))
    for a in range(0, count, some):
        for b in range(0, long, part):
            yield _Piece(group, slice(a, a + some), slice(b, b + part))


def _by_head(plan: Plan, x: Tensor) -> list[Tensor]:
    """Packed (Tq, H, C) as (g, H * M, C), one a group."""
    return [part.transpose(1, 2).flatten(1, 2) for part in plan.pad_queries(x)]


def _packed(plan: Plan, parts: list[Tensor], like: Tensor) -> Tensor:
    """The way back: (g, H * M, ...) to (Tq, H, ...)."""
    heads = like.shape[1]
    split = [torch.unflatten(part, 1, (heads, -1)).transpose(1, 2) for part in parts]
    return plan.unpad_queries(split, like).to(like.dtype)


def _there(group: Group, heads: int, like: Tensor) -> Tensor:
    """Weight of each query of a sequence in the mean over those that are there: (g, H * M)."""
    count, many = group.query.shape
    valid = group.query.valid
    if valid is None:
        return like.new_full((count, heads * many), 1 / (heads * many))
    there = valid.to(like.dtype)
    return (there / (there.sum(1, keepdim=True) * heads)).repeat(1, heads)


def _read_group(
    asked: Tensor,
    rows: Tensor,
    group: Group,
    weights: _Weights,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(g, n, C) that is read, (g, n) sums of weights, (g, n, 1) logarithms of sums of scores."""
    wide = torch.promote_types(weights.dtype, torch.float32)
    read = torch.zeros(asked.shape, dtype=wide, device=asked.device)
    shape = (*asked.shape[:2], 1)
    top = torch.full(shape, -torch.inf, dtype=wide, device=asked.device)
    sums, kept = torch.zeros_like(top), torch.zeros_like(top)
    for piece in _pieces(group, asked.shape[1]):
        some = piece.some
        scores, content = piece.scores(asked, rows, weights.dtype)
        higher = torch.maximum(top[some], scores.amax(-1, keepdim=True))
        shrunk = (top[some] - higher).exp_()
        top[some] = higher
        grown = scores.sub_(higher).exp_()
        sums[some] = sums[some] * shrunk + grown.sum(-1, keepdim=True)
        mask = weights.mask(grown, generator)
        if mask is not None:
            grown = grown.mul_(mask)
            kept[some] = kept[some] * shrunk + grown.sum(-1, keepdim=True)
        read[some] = read[some] * shrunk + (grown.to(weights.dtype) @ content).to(wide)
    total = torch.ones_like(sums) if generator is None else kept / sums
    return read.div_(sums), total[..., 0], top.add_(sums.log())


class _Read(torch.autograd.Function):
    """`read_rows`."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, rows: Tensor, plan: Plan, weights: _Weights
    ) -> tuple[Tensor, Tensor]:
        generator = weights.generator(rows.device)
        parts = [
            _read_group(asked, rows, group, weights, generator)
            for group, asked in zip(plan.groups, _by_head(plan, queries), strict=True)
        ]
        read = _packed(plan, [part[0] for part in parts], queries)
        total = _packed(plan, [part[1] for part in parts], queries[..., 0])
        ctx.save_for_backward(queries, rows, read, total, *(part[2] for part in parts))
        ctx.plan, ctx.weights = plan, weights
        return read, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_read: Tensor, d_total: Tensor) -> tuple[Tensor | None, ...]:
        queries, rows, read, total, *log_sums = ctx.saved_tensors
        plan, weights = ctx.plan, ctx.weights
        wide = torch.promote_types(weights.dtype, torch.float32)
        with torch.autocast(rows.device.type, enabled=False):
            # What each query's weights give together, as every score feels it.
            mean = (d_read.to(wide) * read).sum(-1) + d_total.to(wide) * total
            given = (queries, d_read, d_total[..., None], mean[..., None])
            padded = (_by_head(plan, x) for x in given)
            generator = weights.generator(rows.device)
            d_rows = torch.zeros_like(rows) if ctx.needs_input_grad[1] else None
            d_queries = []
            for group, log_sum, *parts in zip(plan.groups, log_sums, *padded, strict=True):
                parts = [*parts, log_sum]
                d_queries.append(_back(rows, group, weights, generator, parts, d_rows))
            return _packed(plan, d_queries, queries), d_rows, None, None


def _back(
    rows: Tensor,
    group: Group,
    weights: _Weights,
    generator: torch.Generator | None,
    parts: list[Tensor],
    d_rows: Tensor | None,
) -> Tensor:
    """Gradient of the queries of a group, (g, n, C); that of the rows is written into `d_rows`."""
    asked, d_read, d_total, mean, log_sum = parts
    dtype = weights.dtype
    d_asked = torch.zeros(asked.shape, dtype=log_sum.dtype, device=asked.device)
    for piece in _pieces(group, asked.shape[1]):
        some = piece.some
        scores, content = piece.scores(asked, rows, dtype)
        weight = scores.sub_(log_sum[some]).exp_()
        given = d_read[some].to(dtype)
        felt = (given @ content.transpose(1, 2)).to(weight.dtype).add_(d_total[some])
        mask = weights.mask(weight, generator)
        used = weight
        if mask is not None:
            used = mask.mul_(weight)
            felt = felt.mul_(used).sub_(weight.mul_(mean[some]))
        else:
            felt = felt.sub_(mean[some]).mul_(weight)
        slope = felt.to(dtype)
        d_asked[some] += (slope @ content).to(d_asked.dtype)
        if d_rows is not None:
            own = slope.transpose(1, 2) @ asked[some].to(dtype)
            own += used.to(dtype).transpose(1, 2) @ given
            piece.put(d_rows, own.to(d_rows.dtype))
    return d_asked
