"""PathFLIP's Q-Former, one network for the slide and for its regions.

The queries read all patches of a bag, and again, with the same weights, the patches of each
region, all regions at once. Their mean through one head is a vector of the slide and of each
region; a small transformer mixes them. Sources: PathFLIP (first version), BLIP-2 (arXiv
2301.12597).

Patches have no place here beyond their region: within it their order does not matter, and without
regions or a mixer it does not matter for the slide at all. A bag
without patches gives what the queries say by themselves, and has no region.

Not as published: regions are cells of the lattice of the store, not runs of 256 rows; all patches
are read, none is repeated to fill a rectangle; text has an attention mask that is exact, not
-10000.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wsiprep.core.config import Settings
from wsiprep.models.attention import Attention, Context, FeedForward
from wsiprep.models.bags import PackedBags, SlideOut
from wsiprep.models.encoders._parts import check_width, lead
from wsiprep.models.encoders._qformer_network import QFormerNetwork
from wsiprep.models.ragged import Plan, by_chunks, even_starts

__all__ = ["Config", "QFormerEncoder", "create"]


class Config(Settings):
    """Sizes; the defaults are PathFLIP's."""

    dim: int = Field(default=256, ge=1)
    """Width of the vectors of slides and regions, and of the patches as they are read."""
    queries: int = Field(default=8, ge=1)
    """Learned queries."""
    width: int = Field(default=768, ge=1)
    """Width of the network."""
    layers: int = Field(default=12, ge=1)
    """Layers of the network."""
    heads: int = Field(default=12, ge=1)
    """Heads of its attention."""
    hidden: int = Field(default=3072, ge=1)
    """Width inside its feed-forward layers."""
    cross_every: int = Field(default=2, ge=1)
    """Every so many layers one reads the patches, beginning with the first."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of rows and attention weights."""
    regions: bool = True
    """Whether regions are encoded too."""
    mixer_layers: int = Field(default=2, ge=0)
    """Layers that mix slide and regions; 0 leaves them as they are."""
    mixer_heads: int = Field(default=8, ge=1)
    """Heads of the mixer."""
    mixer_hidden: int = Field(default=1024, ge=1)
    """Width inside the mixer's feed-forward layers."""
    tokens: Literal["regions", "queries"] = "regions"
    """What a language model is shown: the slide's vector and then its regions', or the queries
    after reading the slide, each through the head (BLIP-2, PathAlign)."""
    vocabulary: int = Field(default=0, ge=0)
    """Tokens of the text side that shares the network; 0 makes none."""
    text_length: int = Field(default=512, ge=1)
    """Longest text of that side, in tokens."""


def create(cfg: Config, input_dim: int) -> QFormerEncoder:
    """Make the encoder with fresh weights from PyTorch's global random numbers."""
    return QFormerEncoder(cfg, input_dim)


class QFormerEncoder(nn.Module):
    """See the module."""

    def __init__(self, cfg: Config, input_dim: int) -> None:
        super().__init__()
        self.cfg, self.input_dim, self.dim = cfg, input_dim, cfg.dim
        self.adapter = nn.Linear(input_dim, cfg.dim)
        self.queries = nn.Parameter(torch.randn(cfg.queries, cfg.width) * 0.02)
        self.network = QFormerNetwork(
            cfg.width,
            cfg.layers,
            cfg.heads,
            cfg.hidden,
            context_dim=cfg.dim,
            cross_every=cfg.cross_every,
            dropout=cfg.dropout,
            vocabulary=cfg.vocabulary,
            positions=cfg.text_length,
        )
        self.head = nn.Linear(cfg.width, cfg.dim)
        self.mixer = nn.ModuleList(
            _MixerLayer(cfg.dim, cfg.mixer_heads, cfg.mixer_hidden, cfg.dropout)
            for _ in range(cfg.mixer_layers)
        )
        self.text_head = nn.Linear(cfg.width, cfg.dim) if cfg.vocabulary else None

    def forward(self, bags: PackedBags) -> SlideOut:
        """Vectors of bags and regions.

        `SlideOut.attention` is that of the last layer that reads, on the whole slide, the mean
        over heads and queries; `region_attention` tells that within regions.
        """
        check_width(bags, self.input_dim)
        x, adapter = self._rows(bags)
        read, share = self.network.read_each(self.queries, x, bags.starts, adapter)
        said = self.head(read)
        count = self.cfg.queries
        slide = torch.unflatten(said, 0, (len(bags), count)).mean(1)
        region = None
        if self.cfg.regions:
            around, _ = self.network.read_each(
                self.queries, x, bags.region_starts, adapter, share=False
            )
            around = self.head(around)
            region = torch.unflatten(around, 0, (len(bags.region_bag), count)).mean(1)
        owner = bags.region_bag if region is not None else bags.region_bag[:0]
        mixed, starts, place = lead(slide, slide[:0] if region is None else region, owner)
        plan = Plan(starts, starts)
        for layer in self.mixer:
            mixed = layer(mixed, plan)
        slide = mixed[place[: len(bags)]]
        if region is not None:
            region = mixed[place[len(bags) :]]
        if self.cfg.tokens == "queries":
            mixed, starts = said, even_starts(len(bags), count, said.device)
        return SlideOut(slide, region, mixed, starts, share)

    def region_attention(self, bags: PackedBags) -> Tensor:
        """How the queries of each region spread over its patches: float32 (T,), no gradient.

        Sums to 1 over each region.
        """
        with torch.no_grad():
            x, adapter = self._rows(bags)
            share = self.network.read_each(self.queries, x, bags.region_starts, adapter)[1]
        if share is None:
            raise ValueError("no layer reads patches")
        return share

    def text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors of texts by the text side: the first token's, through a head of its own.

        Args:
            ids: int64 (P, L).
            mask: bool (P, L), True on tokens; the first of each text must be there.

        Returns:
            float (P, dim).
        """
        if self.text_head is None:
            raise ValueError("this Q-Former was made without a text side; give it a vocabulary")
        rows, starts = self._embedded(ids, mask)
        out: Tensor = self.text_head(self.network(rows, Plan(starts, starts), None)[starts[:-1]])
        return out

    def together(self, bags: PackedBags, pick: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Queries that read a slide and see a text, as matching needs them.

        Args:
            bags: The slides.
            pick: int64 (P,), the bag of each pair.
            ids: int64 (P, L), its text.
            mask: bool (P, L).

        Returns:
            float (P, queries, width).
        """
        pairs, count = len(pick), self.cfg.queries
        many = bags.lengths[pick]
        starts = torch.cat([many.new_zeros(1), many.cumsum(0)])
        back = torch.arange(int(starts[-1]), device=many.device)
        back = back + torch.repeat_interleave(bags.starts[pick] - starts[:-1], many)
        text, text_starts = self._embedded(ids, mask)
        words = text_starts[1:] - text_starts[:-1]
        both = torch.cat([many.new_zeros(1), (words + count).cumsum(0)])
        step = torch.arange(count, device=many.device)
        front = (both[:-1, None] + step).flatten()
        queries = torch.zeros(int(both[-1]), dtype=torch.bool, device=many.device)
        queries[front] = True
        rows = torch.cat([self.queries.repeat(pairs, 1), text])
        place = torch.cat([front, (~queries).nonzero()[:, 0]])
        context = Context(
            self.adapter(bags.features)[back],
            Plan(even_starts(pairs, count, many.device), starts),
        )
        out = self.network(rows[place.argsort()], Plan(both, both), context, queries)
        return torch.unflatten(out[front], 0, (pairs, count))

    def load_bert(self, state: Mapping[str, Tensor]) -> None:
        """Start from a BERT; see `QFormerNetwork.load_bert`."""
        self.network.load_bert(state)

    def _rows(self, bags: PackedBags) -> tuple[Tensor, nn.Linear | None]:
        """Patches, and the adapter where it is not applied to them yet.

        Few queries read patches as they come, through the adapter: a row after it is never written
        down. Where patches are much wider than that, it would be more work.
        """
        if self.input_dim <= 2 * self.dim and self.network.folds(self.cfg.queries):
            return bags.features, self.adapter
        return by_chunks(self.adapter, bags.features), None

    def _embedded(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        there = mask.bool()
        position = (there.cumsum(1) - 1)[there]
        starts = torch.cat([position.new_zeros(1), there.sum(1).cumsum(0)])
        return self.network.embed(ids[there], position), starts


class _MixerLayer(nn.Module):
    """Post-LN transformer layer with ReLU, as `nn.TransformerEncoderLayer`, on packed rows."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout=dropout)
        self.norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, hidden, activation="relu", dropout=dropout)
        self.ffn_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        x = self.norm(x + self.dropout(self.attention(x, plan)))
        out: Tensor = self.ffn_norm(x + self.dropout(self.ffn(x)))
        return out
