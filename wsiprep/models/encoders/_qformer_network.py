"""The transformer of BERT with learned queries that read a context: BLIP-2's Q-Former.

Source: Li et al. 2023, arXiv 2301.12597, section 3.1; sizes as in PathFLIP. Post-LN; a LayerNorm
on what goes in; every second layer reads the context with its query rows only; query rows and
text rows have their own feed-forward layers and share everything else. Text rows, where there are
any, see queries and queries see text. Weights equal to those of transformers' `Blip2QFormerModel`
give equal numbers; only the biases of keys are left out, which change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from wsiprep.models.attention import KEY_ROWS, Attention, Context, FeedForward
from wsiprep.models.ragged import Plan, even_starts, recomputed

__all__ = ["QFormerLayer", "QFormerNetwork"]

KEPT_ROWS = 1024
"""From so many rows on, the inside of a layer is made again in the backward pass, not kept."""
GROUP_ROWS = {False: 256, True: 8192}
"""Rows of queries that go through the network together, on a CPU and on a GPU."""
EPS = 1e-12


def _large(rows: int, keys: int) -> bool:
    """Whether the inside of layers is not kept."""
    return rows > KEPT_ROWS or keys > KEY_ROWS


BERT_STD, BERT_WIDTH = 0.02, 768
"""Standard deviation of BERT's first weights, and the width that it is right for."""


def _run(
    layer: QFormerLayer,
    plan: Plan,
    context: Context | None,
    queries: Tensor | None,
    x: Tensor,
) -> Tensor:
    out: Tensor = layer(x, plan, context, queries)
    return out


class _Block(nn.Module):
    """Feed-forward, dropout, sum, LayerNorm."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.ffn = FeedForward(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x + self.dropout(self.ffn(x)))
        return out


class QFormerLayer(nn.Module):
    """Self-attention, cross-attention of the queries where it has one, feed-forward."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: float,
        *,
        context_dim: int | None,
        text: bool,
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout=dropout)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.cross: Attention | None = None
        self.cross_norm: nn.LayerNorm | None = None
        if context_dim is not None:
            self.cross = Attention(width, heads, context_dim=context_dim, dropout=dropout)
            self.cross_norm = nn.LayerNorm(width, eps=EPS)
        self.query_block = _Block(width, hidden, dropout)
        self.text_block = _Block(width, hidden, dropout) if text else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, plan: Plan, context: Context | None, queries: Tensor | None
    ) -> Tensor:
        """One layer.

        Args:
            x: float (T, width).
            plan: Self-attention.
            context: Read by the query rows; None when there are none.
            queries: bool (T,), which rows are queries; None when all are of one kind: queries if
                there is a context, else text.
        """
        x = self.norm(x + self.dropout(self.attention(x, plan)))
        if queries is None:
            return self._queries(x, context) if context is not None else self._text(x)
        one, two = queries.nonzero()[:, 0], (~queries).nonzero()[:, 0]
        out = torch.cat([self._queries(x[one], context), self._text(x[two])])
        return out[torch.cat([one, two]).argsort()]

    def share(self, x: Tensor, plan: Plan, context: Context) -> Tensor:
        """How its queries spread over the context, without dropout: float32 (Tk,), no gradient."""
        if self.cross is None:
            raise ValueError("this layer reads no context")
        with torch.no_grad():
            return self.cross.share(self.norm(x + self.attention(x, plan, drop=False)), context)

    def _queries(self, x: Tensor, context: Context | None) -> Tensor:
        if self.cross is not None and self.cross_norm is not None and context is not None:
            x = self.cross_norm(x + self.dropout(self.cross.read(x, context)))
        out: Tensor = self.query_block(x)
        return out

    def _text(self, x: Tensor) -> Tensor:
        if self.text_block is None:
            raise ValueError("this Q-Former was made without a text side; give it a vocabulary")
        out: Tensor = self.text_block(x)
        return out


class QFormerNetwork(nn.Module):
    """See the module.

    Args:
        width: Of the rows.
        layers: Number of layers.
        heads: Of every attention.
        hidden: Width inside feed-forward layers.
        context_dim: Width of the context.
        cross_every: Layers 0, n, 2n ... read the context.
        dropout: Of rows and of attention weights.
        vocabulary: Number of tokens; 0 makes no text side.
        positions: Longest text.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        *,
        context_dim: int,
        cross_every: int = 2,
        dropout: float = 0.1,
        vocabulary: int = 0,
        positions: int = 512,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        self.word = nn.Embedding(vocabulary, width) if vocabulary else None
        self.position = nn.Embedding(positions, width) if vocabulary else None
        self.layers = nn.ModuleList(
            QFormerLayer(
                width,
                heads,
                hidden,
                dropout,
                context_dim=context_dim if n % cross_every == 0 else None,
                text=vocabulary > 0,
            )
            for n in range(layers)
        )
        self.last_reader = (layers - 1) // cross_every * cross_every
        self.apply(_as_bert)

    def forward(
        self, x: Tensor, plan: Plan, context: Context | None, queries: Tensor | None = None
    ) -> Tensor:
        """Rows through all layers: see `QFormerLayer.forward`; (T, width) to (T, width)."""
        large = _large(len(x), 0 if context is None else context.plan.keys)
        x = self.dropout(self.norm(x))
        for layer in self._all():
            x = recomputed(partial(_run, layer, plan, context, queries), x, when=large)
        return x

    def read_each(
        self,
        queries: Tensor,
        rows: Tensor,
        starts: Tensor,
        adapter: nn.Linear | None = None,
        *,
        share: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """The queries read every sequence of rows on its own.

        A layer works on so many sequences at a time as `GROUP_ROWS` says.

        Args:
            queries: float (M, width).
            rows: float (Tk, D).
            starts: int64 (B + 1,), where each sequence of rows begins.
            adapter: From D to `context_dim`; without it they are equal.
            share: Whether to tell the attention.

        Returns:
            float (B * M, width) and, when asked for, float32 (Tk,) without gradient: how much of
            its attention the last reading layer gives to each row, summing to 1 over each sequence
            (mean over heads and queries).
        """
        asked, count = len(queries), len(starts) - 1
        step = max(1, GROUP_ROWS[rows.is_cuda] // asked)
        ends = torch.cat([starts[:-1:step], starts[-1:]])
        groups = []
        # One split: a slice for each group would give the rows as many gradients of their size.
        for number, part in enumerate(torch.split(rows, (ends[1:] - ends[:-1]).tolist())):
            own = starts[number * step : (number + 1) * step + 1] - ends[number]
            even = even_starts(len(own) - 1, asked, rows.device)
            groups.append((Plan(even, even), Context(part, Plan(even, own), adapter)))
        large = _large(count * asked, len(rows))
        x = self.dropout(self.norm(queries.repeat(count, 1)))
        shares = None
        for number, layer in enumerate(self._all()):
            parts = list(zip(torch.split(x, step * asked), groups, strict=False))
            if share and number == self.last_reader:
                told = [layer.share(part, plan, context) for part, (plan, context) in parts]
                shares = torch.cat([rows.new_zeros(0, dtype=torch.float32), *told])
            found = [
                recomputed(partial(_run, layer, plan, context, None), part, when=large)
                for part, (plan, context) in parts
            ]
            x = torch.cat(found) if len(found) > 1 else found[0] if found else x
        return x, shares

    def folds(self, queries: int) -> bool:
        """Whether `read_each` leaves rows as they are when so many queries read them."""
        cross = self._layer(0).cross
        return cross is not None and cross.folds(queries)

    def _all(self) -> list[QFormerLayer]:
        return [self._layer(number) for number in range(len(self.layers))]

    def _layer(self, number: int) -> QFormerLayer:
        layer = self.layers[number]
        if not isinstance(layer, QFormerLayer):
            raise TypeError("a layer of another kind")
        return layer

    def embed(self, ids: Tensor, position: Tensor) -> Tensor:
        """Tokens (L,) at positions (L,), before the LayerNorm: float (L, width)."""
        if self.word is None or self.position is None:
            raise ValueError("this Q-Former was made without a text side; give it a vocabulary")
        out: Tensor = self.word(ids) + self.position(position)
        return out

    def load_bert(self, state: Mapping[str, Tensor]) -> None:
        """Start from a BERT: its weights by the names of transformers' `BertModel`.

        The feed-forward of the queries starts as a copy of that of the text, and the reading of
        the context stays as it is. Rows of tokens beyond those of the BERT stay as they are.

        Raises:
            KeyError: a weight is missing.
            ValueError: a weight has another shape.
        """
        state = {k.removeprefix("bert."): v for k, v in state.items()}
        todo: list[tuple[Tensor, Tensor]] = []

        def copy(module: nn.Linear | nn.LayerNorm, name: str) -> None:
            todo.append((module.weight, state[f"{name}.weight"]))
            if module.bias is not None:
                todo.append((module.bias, state[f"{name}.bias"]))

        copy(self.norm, "embeddings.LayerNorm")
        for number in range(len(self.layers)):
            layer = self._layer(number)
            name = f"encoder.layer.{number}"
            for ours in ("query", "key", "value"):
                copy(getattr(layer.attention, ours), f"{name}.attention.self.{ours}")
            copy(layer.attention.out, f"{name}.attention.output.dense")
            copy(layer.norm, f"{name}.attention.output.LayerNorm")
            for block in (layer.query_block, layer.text_block):
                if block is not None:
                    copy(block.ffn.up, f"{name}.intermediate.dense")
                    copy(block.ffn.down, f"{name}.output.dense")
                    copy(block.norm, f"{name}.output.LayerNorm")
        if self.word is not None and self.position is not None:
            words = state["embeddings.word_embeddings.weight"]
            # Every token is of the first kind, whose vector joins the word's.
            words = words + state["embeddings.token_type_embeddings.weight"][:1]
            todo.append((self.word.weight[: len(words)], words))
            places = state["embeddings.position_embeddings.weight"][: len(self.position.weight)]
            todo.append((self.position.weight[: len(places)], places))
        for target, source in todo:
            if target.shape != source.shape:
                raise ValueError(f"a weight is {tuple(source.shape)}, not {tuple(target.shape)}")
        with torch.no_grad():
            for target, source in todo:
                target.copy_(source)


def _as_bert(module: nn.Module) -> None:
    """Weights from N(0, 0.02) at BERT's width, no bias.

    Linear maps of another width have the same gain as there: with 0.02 a narrow network would pass
    hardly anything of what it reads beside its own queries, and learn nothing for long.
    """
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=BERT_STD)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=BERT_STD * (BERT_WIDTH / module.in_features) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
