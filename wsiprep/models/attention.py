"""Multi-head attention over packed ragged sequences: one implementation for every encoder.

`Attention` is the module; its kernels are those of `attend`. When few queries read many keys it
does not make keys and values at all: the key projection is applied to the queries and the value
projection to what was read,

    softmax(q (x Wk)^T) (x Wv) = (softmax((q Wk^T) x^T) x) Wv,

which for 8 queries, 12 heads and 768 channels is eight times less work, and keeps nothing per
patch (see `folded`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsiprep.models.attend import attend, attention_share
from wsiprep.models.folded import read_rows, row_share
from wsiprep.models.ragged import Plan, by_chunks, recomputed

__all__ = ["Attention", "Context", "FeedForward"]

KEY_ROWS = 16_384
"""From so many keys on, keys and values are made again in the backward pass, not kept."""


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
