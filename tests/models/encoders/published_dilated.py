"""What the published dilated attention gives, as numbers to compare with.

Its code needs a GPU kernel. With that one function replaced by dense attention it runs anywhere,
and what it gave on random inputs lies in `published_dilated.npz`. To make the file again, with a
copy of github.com/microsoft/torchscale (commit 11e745e; it needs einops):

    python -m tests.models.encoders.published_dilated PATH_OF_TORCHSCALE
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

FILE: Final = Path(__file__).with_suffix(".npz")
WIDTH: Final = 5
PAIRS: Final = {
    "nested": [(8, 1), (16, 2), (40, 4)],
    "more phases than heads": [(5, 1), (1_000_000, 16)],
    "one": [(12, 3)],
    "long first": [(32, 8), (7, 1)],
}
"""Segment lengths and ratios."""
CASES: Final = [(name, heads, length) for name in PAIRS for heads in (4, 6) for length in (7, 33)]


def inputs(name: str, heads: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values float32 (length, heads, WIDTH)."""
    rng = np.random.default_rng([list(PAIRS).index(name), heads, length])
    q, k, v = rng.normal(size=(3, length, heads, WIDTH)).astype(np.float32)
    return torch.from_numpy(q), torch.from_numpy(k), torch.from_numpy(v)


def key(name: str, heads: int, length: int) -> str:
    """Name of a case in the file."""
    return f"{name}, {heads} heads, {length} rows"


def _dense(q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    """What the kernel computes: (B, L, H, E) thrice to (B, L, H, E), and (B, H, L)."""
    scores = torch.einsum("blhe,bmhe->bhlm", q, k) / q.shape[-1] ** 0.5
    found = torch.einsum("bhlm,bmhe->blhe", scores.softmax(-1), v)
    return found, scores.logsumexp(-1)


def _published(name: str, heads: int, length: int) -> np.ndarray:
    from torchscale.component import (  # type: ignore[import-not-found]
        dilated_attention,
        multihead_attention,
    )

    multihead_attention.flash_attn_func = _dense
    width = heads * WIDTH
    args = SimpleNamespace(
        multiway=False, xpos_rel_pos=False, layernorm_eps=1e-5, flash_attention=True,
        seq_parallel=False, segment_length=[w for w, _ in PAIRS[name]],
        dilated_ratio=[r for _, r in PAIRS[name]],
    )  # fmt: skip
    layer = dilated_attention.DilatedAttention(args, width, heads, self_attention=True)
    for part in (layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj):
        nn.init.eye_(part.weight)
        nn.init.zeros_(part.bias)
    with torch.no_grad():
        found, _ = layer(*(x.flatten(1)[None] for x in inputs(name, heads, length)))
    return found[0].unflatten(1, (heads, WIDTH)).numpy()


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    np.savez_compressed(FILE, **{key(*case): _published(*case) for case in CASES})
