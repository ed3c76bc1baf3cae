"""Multi-head attention over packed ragged sequences: one implementation for every encoder.

`attend` is the kernel: `varlen_attn` of PyTorch on CUDA in half precision, else PyTorch's SDPA on
rectangles of sequences of like length (see `ragged`). `Attention` is the module. When few queries
read many keys it does not make keys and values at all: the key projection is applied to the
queries and the value projection to what was read,

    softmax(q (x Wk)^T) (x Wv) = (softmax((q Wk^T) x^T) x) Wv,

which for 8 queries, 12 heads and 768 channels is eight times less work, and keeps nothing per
patch (see `folded`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsiprep.models.folded import read_rows, row_share
from wsiprep.models.ragged import Group, Plan, by_chunks, recomputed

__all__ = ["Attention", "Context", "FeedForward", "attend", "attend_lse", "attention_share"]

SCORES = 1 << 24
"""Scores that may be in memory at once where a kernel has to write them down (64 MB in float32)."""
KEY_ROWS = 16_384
"""From so many keys on, keys and values are made again in the backward pass, not kept."""


@cache
def _varlen() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """PyTorch's attention on packed rows, where this PyTorch has it."""
    try:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn
    except ImportError:
        return None
    return varlen_attn, AuxRequest


def _packed_kernel(q: Tensor, plan: Plan, dropout: float) -> bool:
    return (
        q.is_cuda
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 256
        and dropout == 0
        and bool(plan.groups)
        and _varlen() is not None
    )


def _on_cuda(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    found = _varlen()
    if found is None:
        raise RuntimeError("this PyTorch has no varlen_attn")
    kernel, aux = found
    out, lse = kernel(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        plan.query_starts.to(torch.int32),
        plan.key_starts.to(torch.int32),
        plan.longest_query,
        plan.longest_key,
        return_aux=aux(lse=True),
    )
    lse = lse.transpose(0, 1).float()
    if plan.blind:
        # Kernels differ in what they leave where there was nothing to read.
        many = plan.key_starts[1:] - plan.key_starts[:-1]
        asked = plan.query_starts[1:] - plan.query_starts[:-1]
        none = torch.repeat_interleave(many == 0, asked)
        out = out.masked_fill(none[:, None, None], 0)
        lse = lse.masked_fill(none[:, None], -math.inf)
    return out, lse


def _key_mask(group: Group) -> Tensor | None:
    """True where there is a key: bool (g, 1, 1, Lk)."""
    valid = group.key.valid
    return None if valid is None else valid[:, None, None, :]


def _rectangle(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """SDPA on (g, H, L, E); with dropout on a CPU, a head at a time and recomputed if large."""
    g, heads, many_q, _ = q.shape
    many_k = k.shape[2]
    if dropout == 0 or q.is_cuda or g * heads * many_q * many_k <= SCORES:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)

    def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)

    parts = zip(*(torch.split(t, 1, 1) for t in (q, k, v)), strict=True)
    return torch.cat([recomputed(one, *part) for part in parts], dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, *, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention, each sequence on its own.

    Args:
        q: float (Tq, H, E), packed queries.
        k: float (Tk, H, E), packed keys.
        v: float (Tk, H, E), packed values.
        plan: Which queries read which keys.
        dropout: Of the weights.

    Returns:
        float (Tq, H, E); zeros for queries without keys.
    """
    if _packed_kernel(q, plan, dropout):
        return _on_cuda(q, k, v, plan)[0]
    parts = []
    padded = (plan.pad_queries(q), plan.pad_keys(k), plan.pad_keys(v))
    for group, *qkv in zip(plan.groups, *padded, strict=True):
        queries, keys, values = (t.transpose(1, 2) for t in qkv)
        out = _rectangle(queries, keys, values, _key_mask(group), dropout)
        parts.append(out.transpose(1, 2))
    return plan.unpad_queries(parts, q)


def attend_lse(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """`attend`, and the logarithm of the sum of the exponentials of each query's scores.

    Returns:
        float (Tq, H, E), and float32 (Tq, H) without gradient, -inf for queries without keys.
    """
    if _packed_kernel(q, plan, 0.0):
        out, lse = _on_cuda(q, k, v, plan)
        return out, lse.detach()
    out = attend(q, k, v, plan)
    with torch.no_grad():
        parts = []
        padded = zip(plan.groups, plan.pad_queries(q), plan.pad_keys(k), strict=True)
        for group, queries, keys in padded:
            parts.append(_lse(queries, keys, group.key.valid))
        lse = plan.unpad_queries(parts, q.new_zeros(q.shape[:2], dtype=torch.float32))
        if plan.blind:
            many = plan.key_starts[1:] - plan.key_starts[:-1]
            asked = plan.query_starts[1:] - plan.query_starts[:-1]
            lse = lse.masked_fill(torch.repeat_interleave(many == 0, asked)[:, None], -math.inf)
    return out, lse


def _lse(q: Tensor, k: Tensor, valid: Tensor | None) -> Tensor:
    """(g, Lq, H, E) and (g, Lk, H, E) to (g, Lq, H), without writing all scores down at once."""
    g, many_q, heads, width = q.shape
    keys = k.permute(0, 2, 3, 1)
    out = q.new_empty((g, many_q, heads), dtype=torch.float32)
    step = max(1, SCORES // max(1, heads * many_q * k.shape[1]))
    rows = max(1, SCORES // max(1, heads * k.shape[1]))
    for a in range(0, g, step):
        for b in range(0, many_q, rows):
            some = q[a : a + step, b : b + rows].transpose(1, 2)
            scores = (some @ keys[a : a + step]).float() / math.sqrt(width)
            if valid is not None:
                scores = scores.masked_fill(~valid[a : a + step, None, None, :], -math.inf)
            out[a : a + step, b : b + rows] = scores.logsumexp(-1).transpose(1, 2)
    return out


def attention_share(q: Tensor, k: Tensor, plan: Plan) -> Tensor:
    """How much each key is read, the mean over the heads and queries of its sequence.

    Args:
        q: float (Tq, H, E).
        k: float (Tk, H, E).
        plan: Which queries read which keys.

    Returns:
        float32 (Tk,) without gradient; the shares of a sequence with queries sum to 1.
    """
    with torch.no_grad():
        parts = []
        padded = zip(plan.groups, plan.pad_queries(q), plan.pad_keys(k), strict=True)
        for group, queries, keys in padded:
            share = q.new_zeros(group.key.shape, dtype=torch.float32)
            for head in range(q.shape[1]):
                scores = queries[:, :, head] @ keys[:, :, head].transpose(1, 2)
                scores = scores.float() / math.sqrt(q.shape[-1])
                share += _query_mean(_softmax(scores, group), group)
            parts.append(share / q.shape[1])
        return plan.unpad_keys(parts, q.new_zeros((len(k),), dtype=torch.float32))


def _softmax(scores: Tensor, group: Group) -> Tensor:
    """Over keys: (g, ..., Lk)."""
    if group.key.valid is not None:
        hole = ~group.key.valid
        hole = hole.reshape(len(hole), *(1,) * (scores.ndim - 2), hole.shape[1])
        scores = scores.masked_fill(hole, -math.inf)
    return scores.softmax(-1)


def _query_mean(weights: Tensor, group: Group) -> Tensor:
    """Mean over queries that are there: (g, Lq, Lk) to (g, Lk)."""
    if group.query.valid is None:
        return weights.mean(1)
    there = group.query.valid.to(weights.dtype)
    return torch.einsum("gq,gqk->gk", there, weights) / there.sum(1, keepdim=True)


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What is read from.

    Attributes:
        rows: float (Tk, width), packed.
        plan: Which queries read which rows.
        adapter: What rows go through before they are read. Few queries go through it the other way
            instead, so that what it makes of the rows is never written down.
    """

    rows: Tensor
    plan: Plan
    adapter: nn.Linear | None = None

    def adapted(self) -> Tensor:
        """The rows after the adapter: float (Tk, context_dim)."""
        return self.rows if self.adapter is None else by_chunks(self.adapter, self.rows)


class Attention(nn.Module):
    """Multi-head attention of packed sequences on themselves or on a context.

    The key projection has no bias unless asked for: a bias there adds the same number to all
    scores of a query, which softmax takes away again.

    Args:
        dim: Width of the queries and of the result.
        heads: Number of heads.
        context_dim: Width of what is read; None is `dim`.
        dropout: Of the weights.
        key_bias: For weights that come with one and a use that feels it.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        context_dim: int | None = None,
        dropout: float = 0.0,
        key_bias: bool = False,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.dim, self.heads, self.width = dim, heads, dim // heads
        self.context_dim = context_dim or dim
        self.dropout, self._key_bias = dropout, key_bias
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(self.context_dim, dim, bias=key_bias)
        self.value = nn.Linear(self.context_dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, plan: Plan, *, drop: bool = True) -> Tensor:
        """Self-attention: (T, dim) to (T, dim); `plan` has the same starts on both sides."""
        q, k, v = (self._heads(p(x)) for p in (self.query, self.key, self.value))
        found = attend(q, k, v, plan, dropout=self._drop if drop else 0.0)
        out: Tensor = self.out(found.flatten(1))
        return out

    def read(self, x: Tensor, context: Context) -> Tensor:
        """Cross-attention: queries (Tq, dim) on the context, (Tq, dim)."""
        q = self._heads(self.query(x))
        plan = context.plan
        if self._few(plan):
            found = self._read_folded(q, context)
        elif plan.keys > KEY_ROWS:
            found = recomputed(lambda q, rows: self._read(q, rows, plan), q, context.adapted())
        else:
            found = self._read(q, context.adapted(), plan)
        out: Tensor = self.out(found.flatten(1))
        return out

    def share(self, x: Tensor, context: Context) -> Tensor:
        """How much each row of the context is read: float32 (Tk,), no gradient; see the module."""
        with torch.no_grad():
            q = self._heads(self.query(x))
            plan = context.plan
            if not self._few(plan):
                return attention_share(q, self._heads(self.key(context.adapted())), plan)
            return row_share(self._folded(q, context), context.rows, plan)

    @property
    def _drop(self) -> float:
        return self.dropout if self.training else 0.0

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, self.width))

    def folds(self, queries: int) -> bool:
        """Whether folding the projections into so many queries is less work."""
        if self._key_bias:
            return False
        return self.heads * queries * self.context_dim < (self.context_dim + queries) * self.dim

    def _few(self, plan: Plan) -> bool:
        return self.folds(plan.longest_query)

    def _read(self, q: Tensor, rows: Tensor, plan: Plan) -> Tensor:
        k, v = self._heads(self.key(rows)), self._heads(self.value(rows))
        return attend(q, k, v, plan, dropout=self._drop)

    def _folded(self, q: Tensor, context: Context) -> Tensor:
        """Queries (Tq, H, E) with the key projection in them, scaled: (Tq, H, width of rows)."""
        key = torch.unflatten(self.key.weight, 0, (self.heads, self.width))
        folded = torch.einsum("qhe,hec->qhc", q, key) / math.sqrt(self.width)
        # The adapter's bias would add the same to all scores of a query.
        return folded if context.adapter is None else folded @ context.adapter.weight

    def _read_folded(self, q: Tensor, context: Context) -> Tensor:
        if not context.plan.groups:
            return torch.zeros_like(q)
        value = torch.unflatten(self.value.weight, 0, (self.heads, self.width))
        bias = torch.unflatten(self.value.bias, 0, (self.heads, self.width))
        folded = self._folded(q, context)
        read, total = read_rows(folded, context.rows, context.plan, dropout=self._drop)
        # With dropout the weights do not sum to 1, and biases are scaled with them.
        if context.adapter is not None:
            read = F.linear(read, context.adapter.weight)
            if context.adapter.bias is not None:
                read = read + total[..., None] * context.adapter.bias
        return torch.einsum("qhc,hec->qhe", read, value) + total[..., None] * bias


class FeedForward(nn.Module):
    """Two linear layers on single rows, chunk by chunk when there are many.

    Args:
        dim: Width in and out.
        hidden: Width between.
        activation: `gelu` or `relu`.
        dropout: After the activation.
        inner_norm: LayerNorm before the second layer (the sub-LN of Magneto, as LongNet has it).
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        inner_norm: bool = False,
    ) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.act: nn.Module = nn.GELU() if activation == "gelu" else nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.norm: nn.Module = nn.LayerNorm(hidden) if inner_norm else nn.Identity()
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(T, dim) to (T, dim)."""
        return by_chunks(self._rows, x)

    def _rows(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.norm(self.dropout(self.act(self.up(x)))))
        return out
