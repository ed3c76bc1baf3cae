"""Weights that learn are held in float32, whatever the files they came from.

A number in bfloat16 has eight bits: a step of AdamW, of about the learning rate, is lost where it
is below 2^-9 of the weight, which with the small rates of tuning is nearly everywhere. So weights
that learn are float32, with their gradients and moments, and matrix products round them (autocast);
what is frozen stays as it was loaded.

Source: Micikevicius et al., Mixed Precision Training, ICLR 2018. Deviation: float16 there, with
scaled losses; bfloat16 has the range of float32 and needs none.
"""

from __future__ import annotations

from typing import Final

import torch

from wsiprep.models.language.interface import LanguageModel

__all__ = ["hold_in_float32"]

_HALVES: Final = (torch.bfloat16, torch.float16)


def hold_in_float32(language: LanguageModel) -> None:
    """Turn those parameters that learn and are of 16 bits into float32, in place.

    If there is one, the model computes in bfloat16 from now on (`LanguageModel.rounds_to`), also
    where it was loaded in float16, whose range is too small for gradients.

    Args:
        language: What learns in it must be settled, and no parameter have a gradient yet.
    """
    halves = [p for p in language.parameters() if p.requires_grad and p.dtype in _HALVES]
    for parameter in halves:
        parameter.data = parameter.data.float()
    if halves:
        language.rounds_to = torch.bfloat16
