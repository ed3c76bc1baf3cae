from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save, save_file
from torch import nn

from tests.encoders.conftest import PutRepo
from wsiprep.core.contracts import Encoder
from wsiprep.core.errors import ConfigError, UnknownPluginError, WeightsError
from wsiprep.encoders import EncoderConfig, load_encoder
from wsiprep.encoders.families import timm as family
from wsiprep.encoders.families._pathology import HUB_MODELS, HubModel
from wsiprep.encoders.weights import seeded
from wsiprep.testing.encoder import EncoderContract

RANDOM = EncoderConfig(encoder=("timm:x",), random_weights=True)
TINY_ARGS = {"img_size": 32, "depth": 2, "patch_size": 8, "init_values": 1e-5}


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """resnet10t with its classifier and random weights: stands for a published network."""
    with seeded(3):
        network: nn.Module = timm.create_model("resnet10t", pretrained=False).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
    return network


@pytest.fixture(scope="module")
def random_resnet() -> Encoder:
    return load_encoder("timm:resnet10t", RANDOM, "cpu")


def expected(network: nn.Module, pixels: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Pooled features of ImageNet-normalised patches of the network's own size."""
    assert pixels.shape[1] == side
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.inference_mode():
        features = network.forward_features(x)  # type: ignore[operator]
        got: NDArray[np.float32] = network.forward_head(features, pre_logits=True).numpy()  # type: ignore[operator]
    return got


class TestRandomResnet(EncoderContract):
    @pytest.fixture
    def encoder(self, random_resnet: Encoder) -> Encoder:
        return random_resnet


def test_facts_come_from_timm() -> None:
    spec = load_encoder("timm:vit_tiny_patch16_224", RANDOM, "cpu").spec
    assert spec.name == "timm:vit_tiny_patch16_224"
    assert (spec.dim, spec.input_px, spec.mean, spec.std) == (192, 224, (0.5,) * 3, (0.5,) * 3)
    assert spec.license == "apache-2.0"
    assert (spec.weights, spec.source) == ("random", "random (seed 0)")
    assert "Random" in spec.note


def test_dim_is_what_comes_out() -> None:
    # num_features of this network is 576, but its head widens to 1024 before the classifier
    assert load_encoder("timm:mobilenetv3_small_100", RANDOM, "cpu").spec.dim == 1024


def test_random_weights_are_seeded_and_only_by_flag(hub_cache: PutRepo) -> None:
    first, second = (load_encoder("timm:resnet10t", RANDOM, "cpu") for _ in range(2))
    assert first.spec.weights_sha256 == second.spec.weights_sha256
    with pytest.raises(WeightsError, match=r"'timm/resnet10t.c3_in1k' is not in the hub cache"):
        load_encoder("timm:resnet10t", device="cpu")


def test_unknown_models() -> None:
    with pytest.raises(UnknownPluginError, match=r"no model 'resnet5O'.*Did you mean.*resnet50"):
        load_encoder("timm:resnet5O", RANDOM, "cpu")
    with pytest.raises(UnknownPluginError, match=r"no weights 'resnet10t.best'.*resnet10t.c3_in1k"):
        load_encoder("timm:resnet10t.best", RANDOM, "cpu")
    with pytest.raises(UnknownPluginError, match="needs a model"):
        load_encoder("timm", RANDOM, "cpu")
    with pytest.raises(UnknownPluginError, match="'MahmoodLab' is no hub repository"):
        load_encoder("timm:hf-hub:MahmoodLab", RANDOM, "cpu")
    with pytest.raises(UnknownPluginError, match="no model 'MahmoodLab/UNI'"):
        load_encoder("timm:MahmoodLab/UNI", RANDOM, "cpu")


def test_a_model_without_published_weights(hub_cache: PutRepo) -> None:
    with pytest.raises(WeightsError, match=r"publishes no weights.*--weights PATH"):
        load_encoder("timm:vit_relpos_small_patch16_rpn_224", device="cpu")


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:resnet10t.c3_in1k"])
def test_published_weights_from_the_cache(hub_cache: PutRepo, resnet: nn.Module, name: str) -> None:
    hub_cache("timm/resnet10t.c3_in1k", {"model.safetensors": save(dict(resnet.state_dict()))})
    encoder = load_encoder(name, device="cpu")
    assert (encoder.spec.weights, encoder.spec.dim) == ("pretrained", 512)
    assert encoder.spec.source == "huggingface.co/timm/resnet10t.c3_in1k"
    side = encoder.spec.input_px
    assert side is not None
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    np.testing.assert_allclose(encoder(pixels), expected(resnet, pixels, side), atol=1e-4)


def test_published_weights_must_be_whole(hub_cache: PutRepo, resnet: nn.Module) -> None:
    state = dict(resnet.state_dict())
    del state["layer1.0.conv1.weight"]
    hub_cache("timm/resnet10t.c3_in1k", {"model.safetensors": save(state)})
    with pytest.raises(WeightsError, match=r"cannot be loaded.*layer1\.0\.conv1\.weight"):
        load_encoder("timm:resnet10t", device="cpu")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("head", [True, False])
def test_local_weights(tmp_path: Path, resnet: nn.Module, suffix: str, head: bool) -> None:
    path = tmp_path / f"mine{suffix}"
    state = {k: v for k, v in resnet.state_dict().items() if head or not k.startswith("fc.")}
    if suffix == ".pth":
        torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        save_file(state, path)
    cfg = EncoderConfig(encoder=("timm:resnet10t",), weights=path)
    encoder = load_encoder("timm:resnet10t", cfg, "cpu")
    side = encoder.spec.input_px
    assert side is not None
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    np.testing.assert_allclose(encoder(pixels), expected(resnet, pixels, side), atol=1e-4)
    assert encoder.spec.source == f"file mine{suffix}"
    assert encoder.spec.weights == "pretrained"


def test_local_weights_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    with seeded():
        save_file(dict(timm.create_model("resnet18").state_dict()), path)
    cfg = EncoderConfig(encoder=("timm:resnet10t",), weights=path)
    with pytest.raises(WeightsError, match=r"mine\.safetensors do not fit.*missing.*unexpected"):
        load_encoder("timm:resnet10t", cfg, "cpu")


def tiny_vit(**arguments: object) -> nn.Module:
    with seeded(4):
        network: nn.Module = timm.create_model(
            "vit_tiny_patch16_224", num_classes=0, **(TINY_ARGS | arguments)
        ).eval()
    return network


def hub_config(**changes: object) -> bytes:
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "global_pool": "token",
        "model_args": TINY_ARGS,
        "pretrained_cfg": {
            "input_size": [3, 32, 32],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "classifier": "head",
            "license": "mit",
        },
    }
    return json.dumps(config | changes).encode()


def test_any_hub_repository_in_timms_format(hub_cache: PutRepo) -> None:
    network = tiny_vit()
    hub_cache(
        "acme/tiny",
        {"config.json": hub_config(), "model.safetensors": save(dict(network.state_dict()))},
    )
    encoder = load_encoder("timm:hf-hub:acme/tiny", device="cpu")
    assert (encoder.spec.dim, encoder.spec.input_px, encoder.spec.license) == (192, 32, "mit")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_allclose(encoder(pixels), expected(network, pixels, 32), atol=1e-4)


def test_hub_weights_must_fit(hub_cache: PutRepo) -> None:
    state = dict(tiny_vit().state_dict())
    del state["norm.bias"]
    hub_cache("acme/tiny", {"config.json": hub_config(), "model.safetensors": save(state)})
    with pytest.raises(WeightsError, match=r"1 missing: norm\.bias"):
        load_encoder("timm:hf-hub:acme/tiny", device="cpu")


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (b"{", WeightsError, "not JSON"),
        (b'{"model_type": "dinov2"}', WeightsError, "names no architecture"),
        (hub_config(architecture="vit_of_mine"), WeightsError, "vit_of_mine"),
        (hub_config(model_args={"no_such_argument": 1}), WeightsError, "no_such_argument"),
        (hub_config(pretrained_cfg={"input_size": [3, 32, 32]}), WeightsError, "mean and std"),
        (hub_config(global_pool=""), ConfigError, r"one vector for a patch, but \(1, 17, 192\)"),
        (
            hub_config(
                pretrained_cfg={"input_size": [1, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
            ),
            ConfigError,
            "not square RGB",
        ),
    ],
)
def test_hub_configurations_that_do_not_do(
    hub_cache: PutRepo, config: bytes, error: type[Exception], message: str
) -> None:
    hub_cache("acme/odd", {"config.json": config})
    with pytest.raises(error, match=message):
        load_encoder("timm:hf-hub:acme/odd", RANDOM, "cpu")


# Millions of parameters, as the model cards and papers give them.
PARAMETERS = {
    "mahmoodlab/uni": 303,
    "mahmoodlab/uni2-h": 681,
    "paige-ai/virchow": 631,
    "paige-ai/virchow2": 631,
    "prov-gigapath/prov-gigapath": 1135,
    "bioptimus/h-optimus-0": 1135,
    "bioptimus/h-optimus-1": 1135,
    "1aurent/vit_small_patch8_224.kaiko_ai_towards_large_pathology_fms": 21.7,
    "1aurent/vit_small_patch16_224.kaiko_ai_towards_large_pathology_fms": 21.7,
    "1aurent/vit_base_patch8_224.kaiko_ai_towards_large_pathology_fms": 85.8,
    "1aurent/vit_base_patch16_224.kaiko_ai_towards_large_pathology_fms": 85.8,
}


@pytest.mark.parametrize("row", HUB_MODELS.values(), ids=lambda row: row.repo)
def test_known_networks_are_as_described(row: HubModel) -> None:
    from wsiprep.encoders.pooling import ClassAndMean

    assert row.spec in family.SPECS
    with torch.device("meta"), warnings.catch_warnings():
        network = family._network(family._hub_plan(f"hf-hub:{row.repo}"), row.repo)
        count = sum(p.numel() for p in network.parameters()) / 1e6
        if row.pooling == "class+mean":
            network = ClassAndMean(network)
        out = network(torch.zeros(1, 3, 224, 224))
    assert count == pytest.approx(PARAMETERS[row.repo.lower()], rel=0.005)
    assert out.shape == (1, row.spec.dim)


def test_a_known_network_loads_and_pools(
    hub_cache: PutRepo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A row with the pooling of Virchow2, at a size that a test can hold."""
    from dataclasses import replace

    real = HUB_MODELS["paige-ai/virchow2"]
    spec = replace(real.spec, name="timm:hf-hub:acme/Tiny2", dim=384, input_px=32)
    arguments = {**TINY_ARGS, "reg_tokens": 4, "global_pool": "", "act_layer": "SiLU"}
    row = HubModel(spec, "vit_tiny_patch16_224", arguments, real.pooling)
    monkeypatch.setattr(family, "HUB_MODELS", {"acme/tiny2": row})
    network = tiny_vit(reg_tokens=4, global_pool="", act_layer=nn.SiLU)
    path = tmp_path / "pytorch_model.bin"
    torch.save(network.state_dict(), path)
    hub_cache("acme/Tiny2", {"pytorch_model.bin": path.read_bytes()})

    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    tokens = expected(network, pixels, 32)
    wanted = np.concatenate([tokens[:, 0], tokens[:, 5:].mean(axis=1)], axis=1)
    cached = load_encoder("timm:hf-hub:acme/Tiny2", device="cpu")
    cfg = EncoderConfig(encoder=("timm:hf-hub:acme/Tiny2",), weights=path)
    local = load_encoder("timm:hf-hub:acme/Tiny2", cfg, "cpu")
    for encoder in (cached, local):
        assert encoder.spec.name == spec.name
        assert encoder.spec.mpp == (0.25, 0.5, 1.0, 2.0)
        np.testing.assert_allclose(encoder(pixels), wanted, atol=1e-4)
    assert cached.spec.weights_sha256 == local.spec.weights_sha256
