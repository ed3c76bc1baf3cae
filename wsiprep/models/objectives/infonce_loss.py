"""Contrast of slides and texts by cross-entropy, both ways.

Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, in
the symmetric form of CLIP (Radford et al., ICML 2021). PathFLIP's first version has a fixed
temperature of 0.1, label smoothing of 0.1, and gathers without gradient; here gathering always has
one, without which the loss of many processes is not that of one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsiprep.models.objectives.gather import gather_rows, processes, row_offset
from wsiprep.models.objectives.scale import LogScale, cosines

__all__ = ["InfoNCE", "infonce", "smoothed_cross_entropy"]


def smoothed_cross_entropy(
    logits: Tensor, target: Tensor, *, smoothing: float = 0.0, ignore: Tensor | None = None
) -> Tensor:
    """Cross-entropy of each row, over the columns that are not ignored.

    With n columns left, target y and p the softmax over these,
    -(1 - smoothing) log p_y - smoothing / n * sum over them of log p.

    Args:
        logits: float (b, n).
        target: int64 (b,).
        smoothing: 0 to 1.
        ignore: bool (b, n); never the target.

    Returns:
        float (b,).
    """
    if ignore is not None:
        logits = logits.masked_fill(ignore, -torch.inf)
    log_p = logits.log_softmax(dim=1)
    loss = -log_p.gather(1, target[:, None])[:, 0]
    if not smoothing:
        return loss
    if ignore is None:
        spread = -log_p.mean(dim=1)
    else:
        left = (~ignore).sum(dim=1)
        spread = -log_p.masked_fill(ignore, 0.0).sum(dim=1) / left
    return (1 - smoothing) * loss + smoothing * spread


def infonce(
    slide: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    label_smoothing: float = 0.0,
    ignore: Tensor | None = None,
) -> Tensor:
    """The mean of slide to text and text to slide; a share, see the package.

    Args:
        slide: float (b, d), or (b, q, d) for q vectors a slide, of which the best counts. Need not
            be normalised.
        text: float (b, d), the text of each.
        scale: Of the cosines, 1 / temperature.
        label_smoothing: Share of the target spread evenly over all columns.
        ignore: bool (b, B), pairs that are no negatives; see `false_negatives`.

    Returns:
        A float32 scalar; ln B where all vectors are equal.
    """
    if len(slide) != len(text):
        raise ValueError(f"{len(slide)} slides cannot go with {len(text)} texts")
    all_slide, all_text = gather_rows(slide), gather_rows(text)
    target = torch.arange(len(slide), device=slide.device) + row_offset(slide)
    to_text = scale * cosines(slide, all_text)
    to_slide = scale * cosines(all_slide, text).T
    ways = [
        smoothed_cross_entropy(logits, target, smoothing=label_smoothing, ignore=ignore).sum()
        for logits in (to_text, to_slide)
    ]
    return (ways[0] + ways[1]) / 2 * processes() / len(all_text)


class InfoNCE(nn.Module):
    """`infonce` with its temperature.

    Args:
        temperature: First, or fixed.
        learned: Whether the temperature is learned.
        label_smoothing: As of `infonce`.
        most: Highest scale, 1 / temperature.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        learned: bool = False,
        label_smoothing: float = 0.1,
        most: float = 100.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label smoothing is from 0 to below 1, not {label_smoothing}")
        self.scale = LogScale(1 / temperature, learned=learned, most=most)
        self.label_smoothing = label_smoothing

    def forward(self, slide: Tensor, text: Tensor, *, ignore: Tensor | None = None) -> Tensor:
        """A float32 scalar; arguments as of `infonce`."""
        return infonce(
            slide, text, self.scale(), label_smoothing=self.label_smoothing, ignore=ignore
        )
