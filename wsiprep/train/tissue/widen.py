"""A trained network with more channels, which answers as before until it learns on.

After Net2Net (Chen et al. 2016), but channels are not doubled: new ones begin as those of a fresh
network do, and nothing listens to them yet. What listens learns to.
"""

from __future__ import annotations

from itertools import zip_longest

from torch import Tensor

from wsiprep.tissue.network import TissueNet

__all__ = ["widened"]


def widened(network: TissueNet, widths: tuple[int, ...]) -> TissueNet:
    """A network of those widths that gives the logits of `network`.

    Args:
        network: The narrower one, which computes in floats.
        widths: Channels of its levels, finest first; none fewer than it has.

    Raises:
        ValueError: it has another number of levels, or a level would get narrower.
    """
    if any(
        new is None or old is None or new < old
        for old, new in zip_longest(network.widths, widths)
    ):  # fmt: skip
        raise ValueError(
            f"its levels have {_listed(network.widths)} channels: it cannot be made"
            f" {_listed(widths)}"
        )
    wide = TissueNet(widths)
    state = wide.state_dict()
    for name, old in network.state_dict().items():
        if old.shape != state[name].shape:
            state[name] = _within(state[name], old)
        else:
            state[name] = old.clone()
    wide.load_state_dict(state)
    return wide


def _within(fresh: Tensor, old: Tensor) -> Tensor:
    """`fresh`, with `old` in its first channels, whose answers do not depend on the new ones."""
    made = fresh.clone()
    if old.dim() > 1:
        made[: old.shape[0], old.shape[1] :] = 0
        made[: old.shape[0], : old.shape[1]] = old
    else:
        made[: old.shape[0]] = old
    return made


def _listed(widths: tuple[int, ...]) -> str:
    return ", ".join(map(str, widths))
