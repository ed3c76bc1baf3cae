"""Attention over packed ragged sequences: the kernels.

`varlen_attn` of PyTorch reads packed rows as they lie. It wants CUDA, float16 or bfloat16, and
heads of at most 256 numbers, a multiple of 8; and it has no dropout (torch 2.15). So it serves what
is asked with `--precision bf16`, and of training with it what drops no attention weights: LongNet
always, others where a recipe's dropout of attention is 0 (`prism`).

All else is SDPA on rectangles of sequences of like length (see `ragged`), which may be padded by a
quarter. On CUDA that is PyTorch's flash or memory-efficient kernel, with mask and dropout; it
writes no scores down either, so that memory stays linear in the rows. Few queries that read many
rows do not come here: see `folded`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wsiprep.models.ragged import Group, Plan, recomputed

__all__ = ["attend", "attend_lse", "attention_share"]

SCORES = 1 << 24
"""Scores that may be in memory at once where a kernel has to write them down (64 MB in float32)."""


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
