from __future__ import annotations

import pytest
import timm
import torch

from wsiprep.encoders.pooling import ClassAndMean
from wsiprep.encoders.weights import seeded


@pytest.mark.parametrize("registers", [0, 4])
def test_class_token_and_mean_of_patch_tokens(registers: int) -> None:
    with seeded():
        network = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=32,
            depth=2,
            num_classes=0,
            global_pool="",
            reg_tokens=registers,
        ).eval()
        x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        tokens = network(x)  # with global_pool="" the network's own output is its tokens
        got = ClassAndMean(network)(x)
    assert tokens.shape == (2, 1 + registers + 4, 192)
    torch.testing.assert_close(got[:, :192], tokens[:, 0])
    torch.testing.assert_close(got[:, 192:], tokens[:, -4:].mean(dim=1))
