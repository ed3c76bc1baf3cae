"""Sequences of unequal length that stand one after another, and how they are worked on together.

Packed rows are never padded in memory. Where a kernel wants a rectangle, sequences of similar
length are put together and padded there, with zeros that are written (not multiplied), so that
whatever else lies in memory cannot reach a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = [
    "Group",
    "Plan",
    "Side",
    "by_chunks",
    "even_starts",
    "recomputed",
    "segment_mean",
    "segment_softmax",
    "segment_sum",
]

WASTE = 1.25
"""Rows of a rectangle, padding included, per row that is there."""
SLACK_ROWS = 64
"""Padding that is never worth another kernel call."""
GROUP_ROWS = 65_536
"""Rows of a rectangle; a longer sequence is a rectangle of its own."""


def even_starts(count: int, length: int, device: torch.device | None = None) -> Tensor:
    """Starts of `count` sequences of one length: int64 (count + 1,)."""
    return torch.arange(count + 1, device=device) * length


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Where the sequences of a group stand in packed rows.

    Attributes:
        shape: Sequences, and rows of each with padding.
        rows: The rows as they follow each other, or int64 (g * length,).
        valid: bool (g, length), False on padding; None when there is none.
    """

    shape: tuple[int, int]
    rows: slice | Tensor
    valid: Tensor | None

    @property
    def size(self) -> int:
        """Rows of the rectangle, padding included."""
        return self.shape[0] * self.shape[1]

    def clear(self, x: Tensor) -> Tensor:
        """Rows as they were gathered (size, ...) as a rectangle, zeros written on padding."""
        out = torch.unflatten(x, 0, self.shape)
        if self.valid is None:
            return out
        hole = ~self.valid
        return out.masked_fill(hole.reshape(*hole.shape, *(1,) * (x.ndim - 1)), 0)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Sequences worked on as one rectangle: their queries and their keys."""

    query: Side
    key: Side


class Plan:
    """Which queries read which keys: query sequence b reads key sequence b.

    Made once a batch and used by every layer. Sequences without queries or without keys are in no
    group; queries without keys read zeros.

    Args:
        query_starts: int64 (B + 1,), where the queries of each sequence begin.
        key_starts: int64 (B + 1,), where its keys begin.
        group_rows: Most rows of a rectangle that holds more than one sequence.
    """

    def __init__(
        self, query_starts: Tensor, key_starts: Tensor, *, group_rows: int = GROUP_ROWS
    ) -> None:
        if query_starts.shape != key_starts.shape:
            raise ValueError("a plan needs as many query sequences as key sequences")
        self.query_starts = query_starts
        self.key_starts = key_starts
        self.device = query_starts.device
        begin_q, begin_k = query_starts.tolist(), key_starts.tolist()
        self.queries, self.keys = int(begin_q[-1]), int(begin_k[-1])
        many_q = [b - a for a, b in pairwise(begin_q)]
        many_k = [b - a for a, b in pairwise(begin_k)]
        self.longest_query, self.longest_key = max(many_q, default=0), max(many_k, default=0)
        self.groups: list[Group] = []
        for bags in _similar(many_q, many_k, group_rows):
            sides = (
                _side([begin[b] for b in bags], [many[b] for b in bags], self.device)
                for begin, many in ((begin_q, many_q), (begin_k, many_k))
            )
            self.groups.append(Group(*sides))
        self.blind = any(q and not k for q, k in zip(many_q, many_k, strict=True))
        """Whether some queries have no keys."""
        self._query_sides = [group.query for group in self.groups]
        self._key_sides = [group.key for group in self.groups]
        self._query_slots = self._slots(self._query_sides, self.queries)
        self._key_slots = self._slots(self._key_sides, self.keys)
        self._query_rows = self._rows(self._query_sides, self.queries)
        self._key_rows = self._rows(self._key_sides, self.keys)

    def pad_queries(self, x: Tensor) -> list[Tensor]:
        """Packed rows (Tq, ...) as rectangles (g, length, ...), one a group, zeros on padding."""
        return self._pad(x, self._query_sides, self._query_rows)

    def pad_keys(self, x: Tensor) -> list[Tensor]:
        """The same for what belongs to the keys, (Tk, ...)."""
        return self._pad(x, self._key_sides, self._key_rows)

    def unpad_queries(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        """Rectangles (g, length, ...), one a group, as packed rows (Tq, ...).

        Args:
            parts: As many as there are groups.
            like: Gives dtype, device and, when there is no group, the shape of a row.
        """
        return self._unpad(parts, self._query_slots, self.queries, like)

    def unpad_keys(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        """The same for what belongs to the keys: (Tk, ...)."""
        return self._unpad(parts, self._key_slots, self.keys, like)

    def _slots(self, sides: Sequence[Side], rows: int) -> Tensor | None:
        """For every packed row its place in the rectangles laid out flat; None if the same.

        Rows in no rectangle get the place after the last.
        """
        total = sum(side.size for side in sides)
        slots = torch.full((rows,), total, dtype=torch.int64, device=self.device)
        offset = 0
        for side in sides:
            place = torch.arange(offset, offset + side.size, device=self.device)
            if side.valid is not None and isinstance(side.rows, Tensor):
                keep = side.valid.flatten()
                slots[side.rows[keep]] = place[keep]
            else:
                slots[side.rows] = place
            offset += side.size
        same = total == rows and bool((slots == torch.arange(rows, device=self.device)).all())
        return None if same else slots

    def _rows(self, sides: Sequence[Side], rows: int) -> Tensor | None:
        """The rows of all rectangles, one after another; None if that is every row in order."""
        every = torch.arange(rows, device=self.device)
        parts = [every[side.rows] if isinstance(side.rows, slice) else side.rows for side in sides]
        found = torch.cat([every[:0], *parts])
        return None if len(found) == rows and bool((found == every).all()) else found

    @staticmethod
    def _pad(x: Tensor, sides: Sequence[Side], rows: Tensor | None) -> list[Tensor]:
        # One gather and one split: backward, the gradient of x is put together once, where a
        # slice for each rectangle would make as many arrays of the size of x.
        flat = x if rows is None else x.index_select(0, rows)
        parts = torch.split(flat, [side.size for side in sides])
        return [side.clear(part) for side, part in zip(sides, parts, strict=True)]

    @staticmethod
    def _unpad(parts: Sequence[Tensor], slots: Tensor | None, rows: int, like: Tensor) -> Tensor:
        if not parts:
            return like.new_zeros((rows, *like.shape[1:]))
        flat = [part.flatten(0, 1) for part in parts]
        if slots is None:
            return flat[0] if len(flat) == 1 else torch.cat(flat)
        zero = flat[0].new_zeros((1, *flat[0].shape[1:]))
        return torch.cat([*flat, zero]).index_select(0, slots)


def _similar(many_q: list[int], many_k: list[int], group_rows: int) -> list[list[int]]:
    """Numbers of sequences by group: like lengths together, little padding, bounded size."""
    order = sorted(
        (k, q, b) for b, (q, k) in enumerate(zip(many_q, many_k, strict=True)) if q and k
    )
    groups: list[list[int]] = []
    used = wide_q = 0
    for k, q, b in order:
        if groups:
            count = len(groups[-1]) + 1
            rows = count * (k + max(wide_q, q))
            if rows <= group_rows and rows <= WASTE * (used + k + q) + SLACK_ROWS:
                groups[-1].append(b)
                used, wide_q = used + k + q, max(wide_q, q)
                continue
        groups.append([b])
        used, wide_q = k + q, q
    return groups


def _side(begin: list[int], many: list[int], device: torch.device) -> Side:
    longest = max(many)
    shape = (len(many), longest)
    in_line = all(
        b == a + longest and m == longest
        for a, b, m in zip(begin, begin[1:], many[1:], strict=False)
    )
    if in_line and many[0] == longest:
        return Side(shape, slice(begin[0], begin[0] + len(many) * longest), None)
    first = torch.tensor(begin, device=device)[:, None]
    count = torch.tensor(many, device=device)[:, None]
    step = torch.arange(longest, device=device)[None]
    rows = first + torch.minimum(step, count - 1)
    valid = step < count
    return Side(shape, rows.flatten(), None if min(many) == longest else valid)


def segment_sum(x: Tensor, starts: Tensor) -> Tensor:
    """Sum of the rows of each sequence: (T, ...) to (B, ...); zeros for an empty one."""
    lengths = starts[1:] - starts[:-1]
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=x.device), lengths)
    out = x.new_zeros((len(lengths), *x.shape[1:]))
    return out.index_add(0, owner, x)


def segment_mean(x: Tensor, starts: Tensor) -> Tensor:
    """Mean of the rows of each sequence, zeros for an empty one: (T, d) to (B, d)."""
    lengths = (starts[1:] - starts[:-1]).clamp(min=1)
    return segment_sum(x, starts) / lengths.to(x.dtype)[:, None]


def segment_softmax(scores: Tensor, starts: Tensor) -> Tensor:
    """Softmax over the rows of each sequence, column by column: (T, h) to (T, h)."""
    lengths = starts[1:] - starts[:-1]
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=scores.device), lengths)
    top = scores.new_zeros((len(lengths), scores.shape[1]))
    with torch.no_grad():
        top = top.scatter_reduce(
            0, owner[:, None].expand_as(scores), scores, "amax", include_self=False
        )
    grown = (scores - top[owner]).exp()
    return grown / segment_sum(grown, starts)[owner]


def recomputed(fn: Callable[..., Tensor], *args: Tensor, when: bool = True) -> Tensor:
    """`fn(*args)`, its inner values computed again in the backward pass when asked to.

    Random numbers drawn inside are drawn again, so dropout is the same in both passes.
    """
    if not when or not torch.is_grad_enabled():
        return fn(*args)
    out = checkpoint(fn, *args, use_reentrant=False)
    if not isinstance(out, Tensor):
        raise TypeError("only a function that returns one tensor can be recomputed")
    return out


def by_chunks(fn: Callable[[Tensor], Tensor], x: Tensor, rows: int = 16_384) -> Tensor:
    """A function of single rows, on many: chunk by chunk, recomputed in the backward pass.

    Keeps the memory of wide inner layers at that of one chunk.
    """
    if len(x) <= rows:
        return fn(x)
    return torch.cat([recomputed(fn, part) for part in torch.split(x, rows)])
