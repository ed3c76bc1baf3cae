"""The network of the segmenter `net`, learning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsiprep.core.errors import WeightsError
from wsiprep.store.disk import write_whole
from wsiprep.tissue.network import CLASSES, WIDTHS, TissueNet, network_bytes, read_network
from wsiprep.train.tissue.data import Sample
from wsiprep.train.tissue.framing import Framing, Pieces
from wsiprep.train.tissue.losses import masked_loss
from wsiprep.train.tissue.widen import widened

__all__ = ["NetStudent"]


class NetStudent:
    """`TissueNet`, from scratch or from where an earlier training ended.

    Args:
        device: Where it learns.
        piece_px: Side of what it learns from.
        start: Network to begin with.
        widths: Channels of its levels; empty for those of `start`, else the usual ones.

    Raises:
        WeightsError: it cannot be used, or not with those widths.
    """

    classes = CLASSES

    def __init__(
        self,
        device: torch.device,
        piece_px: int,
        start: Path | None = None,
        widths: tuple[int, ...] = (),
    ) -> None:
        self._device = device
        self.framing: Framing = Pieces(piece_px)
        network = TissueNet(widths or WIDTHS)
        if start is not None:
            try:
                network = read_network(start)[0]
                network = widened(network, widths or network.widths)
            except (OSError, ValueError) as err:
                raise WeightsError(
                    f"network {start} cannot be used: {err}.", hint="Correct --checkpoint."
                ) from err
        self.module: nn.Module = network.to(device).to(memory_format=torch.channels_last)

    def loss(self, batch: Sequence[Sample], step: int) -> Tensor:
        """See `Student.loss`."""
        pixels, label, known = (torch.stack(parts) for parts in zip(*batch, strict=True))
        kind = self._device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind != "mps"):
            logits = self.module(self._there(pixels))
        return masked_loss(logits, label.to(self._device), known.to(self._device))

    def masks(self, pixels: Tensor) -> Tensor:
        """See `Student.masks`."""
        logits = self.module(self._there(pixels[None]))
        full = functional.interpolate(logits, scale_factor=2.0, mode="bilinear")
        return (full[0] > 0).cpu()

    def save(self, folder: Path, facts: dict[str, Any]) -> tuple[Path, str]:
        """See `Student.save`."""
        path = folder / "network.safetensors"
        assert isinstance(self.module, TissueNet)  # noqa: S101 - made above
        write_whole(path, network_bytes(self.module, facts))
        return path, f"--segmenter net --segmenter-option weights={path}"

    def _there(self, pixels: Tensor) -> Tensor:
        return pixels.to(self._device).contiguous(memory_format=torch.channels_last)
