"""The norm under autocast: no slow path, and the numbers of torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from wsiprep.models.norm import RMSNorm


@pytest.mark.parametrize("affine", [True, False])
def test_it_is_torchs(affine):
    torch.manual_seed(0)
    ours, x = RMSNorm(24, eps=1e-6, elementwise_affine=affine), torch.randn(3, 5, 24)
    theirs = nn.RMSNorm(24, eps=1e-6, elementwise_affine=affine)
    if affine:
        nn.init.normal_(ours.weight)
        theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


def test_under_autocast_it_takes_the_fused_kernel():
    torch.manual_seed(0)
    norm, x = RMSNorm(32, eps=1e-6), torch.randn(7, 32)
    nn.init.normal_(norm.weight)
    exact = norm(x.bfloat16().float())
    with torch.autocast("cpu", torch.bfloat16):  # whose warning would be an error here
        made = norm(x.bfloat16())
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), exact, rtol=2e-2, atol=2e-2)
    made.sum().backward()
    assert norm.weight.grad.dtype == torch.float32
