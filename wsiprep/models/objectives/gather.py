"""Rows of all processes, with gradients; without processes everything is the identity."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather_rows", "processes", "row_offset", "total"]


def processes() -> int:
    """Number of processes of the run; 1 where there is no group of them."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks.

    The gradient of a process's rows is the sum of what all processes ask of them, so that nothing
    is lost that other processes learn about them.

    Args:
        rows: (n, ...), n may differ from process to process, the rest may not.

    Returns:
        (sum of n, ...), of the same type; has a gradient where `rows` has one.
    """
    if processes() == 1:
        return rows
    counts = _counts(rows)
    gathered: Tensor = _Gather.apply(rows, counts)  # type: ignore[no-untyped-call, unused-ignore]
    return gathered


def row_offset(rows: Tensor) -> int:
    """Where the rows of this process begin in `gather_rows(rows)`."""
    return 0 if processes() == 1 else sum(_counts(rows)[: dist.get_rank()])


def total(value: Tensor) -> Tensor:
    """The sum of a value over all processes, without gradient."""
    value = value.detach().clone()
    if processes() > 1:
        dist.all_reduce(value)
    return value


def _counts(rows: Tensor) -> list[int]:
    own = torch.tensor([len(rows)], device=rows.device)
    every = [torch.empty_like(own) for _ in range(processes())]
    dist.all_gather(every, own)
    return [int(count) for count in every]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        most = max(counts)
        # Processes exchange blocks of one size.
        block = rows.new_zeros(most, *rows.shape[1:])
        block[: len(rows)] = rows
        every = [torch.empty_like(block) for _ in counts]
        dist.all_gather(every, block)
        return torch.cat([part[:count] for part, count in zip(every, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        # A copy, because the sum is formed in place.
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        begin = sum(ctx.counts[: dist.get_rank()])
        return gradient[begin : begin + ctx.counts[dist.get_rank()]], None
