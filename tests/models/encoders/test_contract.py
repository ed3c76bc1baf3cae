"""Every slide encoder keeps the contract."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from wsiprep.models import Bag, pack
from wsiprep.models.encoders import registry
from wsiprep.testing.slide_encoder import SlideEncoderContract

torch.set_num_threads(1)


class _Contract(SlideEncoderContract):
    bag = staticmethod(Bag)
    pack = staticmethod(pack)
    name = ""
    settings: ClassVar[dict] = {}

    @pytest.fixture
    def encoder(self):
        torch.manual_seed(0)
        module = registry.load(self.name)
        made = module.create(module.Config(**self.settings), 12)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.ndim == 1:
                    parameter += 0.1 * torch.randn_like(parameter)
        return made


QFORMER = {
    "dim": 16, "width": 24, "layers": 3, "heads": 4, "hidden": 32, "queries": 3,
    "mixer_heads": 4, "mixer_hidden": 20,
}  # fmt: skip


class TestQFormer(_Contract):
    name = "qformer"
    settings = QFORMER
    feels = "regions"
    empty_tokens = 1


class TestQFormerOfManyQueries(_Contract):
    """So many that keys and values are made."""

    name = "qformer"
    settings = QFORMER | {"queries": 20, "tokens": "queries"}
    feels = "regions"
    empty_tokens = 20


class TestQFormerWithoutRegions(_Contract):
    name = "qformer"
    settings = QFORMER | {"regions": False, "mixer_layers": 0}
    has_regions = False
    empty_tokens = 1


class TestPerceiver(_Contract):
    name = "perceiver"
    has_patches = True
    settings: ClassVar[dict] = {"dim": 16, "latents": 5, "heads": 4}
    empty_tokens = 4


class TestPerceiverTokensOfBoth(_Contract):
    name = "perceiver"
    has_patches = True
    settings: ClassVar[dict] = {"dim": 16, "latents": 5, "heads": 4, "layers": 2, "tokens": "both"}
    empty_tokens = 4


class TestPerceiverWithoutDecoder(_Contract):
    """As PRISM."""

    name = "perceiver"
    settings: ClassVar[dict] = {
        "dim": 16,
        "latents": 9,
        "heads": 2,
        "layers": 2,
        "self_blocks": 2,
        "decoder": False,
    }
    has_regions = False
    empty_tokens = 8


LONGNET = {
    "dim": 24, "layers": 2, "heads": 6, "hidden": 32, "segments": (8, 16, 64),
    "ratios": (1, 2, 4), "tokens": 6,
}  # fmt: skip


class TestLongNet(_Contract):
    name = "longnet"
    has_patches = True
    settings = LONGNET
    feels = "cells"
    without_gradient = ("attention.key.bias",)


class TestLongNetReference(_Contract):
    name = "longnet"
    has_patches = True
    settings = LONGNET | {"pad_mode": "reference", "tokens": None}
    feels = "cells"


class TestAlibi(_Contract):
    name = "alibi_vit"
    has_patches = True
    settings: ClassVar[dict] = {"dim": 24, "layers": 2, "heads": 6, "hidden": 32}
    feels = "cells"


class TestGatedAttention(_Contract):
    name = "gated_attention"
    has_patches = True
    settings: ClassVar[dict] = {"dim": 16, "gate": 8, "heads": 2}
    empty_tokens = 1


class TestIdentity(_Contract):
    name = "identity"
    has_patches = True

    def test_gradients_reach_everything(self, encoder):
        assert list(encoder.parameters()) == []


def test_all_are_tried():
    tried = {kind.name for kind in _Contract.__subclasses__()}
    assert tried == set(registry.names())


@pytest.mark.parametrize("name", registry.names())
def test_defaults_are_valid(name):
    assert registry.load(name).Config().canonical() is not None
