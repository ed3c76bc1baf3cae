"""Weights of SAM: found, known by their content, refused where they do not fit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.tissue.slides import make_info
from tests.tissue.tiny_sam import no_points, noise, sam_options, tiny_sam
from wsiprep.core.errors import WeightsError
from wsiprep.tissue.detect import tissue_key
from wsiprep.tissue.segmenters import sam
from wsiprep.tissue.segmenters._prompts import Prompts
from wsiprep.tissue.segmenters._sam_names import is_transformers_sam, original_names
from wsiprep.tissue.segmenters._sam_network import SamNetwork

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("wrapped", ["pth", "model", "safetensors"])
def test_saved_weights_come_back(tiny_vit_b, tmp_path, wrapped):
    state = tiny_sam(seed=7).state_dict()
    path = tmp_path / f"sam.{'safetensors' if wrapped == 'safetensors' else 'pth'}"
    if wrapped == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state} if wrapped == "model" else state, path)
    segmenter = sam.create(sam.Config(checkpoint=str(path), device="cpu"))
    image, box = noise(100, 128), np.array([0, 0, 128, 100], np.float32)
    asked = ([image], [Prompts(box, *no_points())], True)
    (loaded,) = segmenter.predictor.predict(*asked)
    (wanted,) = SamNetwork(tiny_sam(seed=7)).predict(*asked)
    (other,) = SamNetwork(tiny_sam(seed=0)).predict(*asked)
    np.testing.assert_array_equal(loaded.logits, wanted.logits)
    assert np.abs(loaded.logits - other.logits).max() > 1e-3


def test_weights_that_are_compared_are_read_once_each(tiny_vit_b, tmp_path):
    options = []
    for seed in (0, 1):
        path = tmp_path / f"{seed}.safetensors"
        save_file(tiny_sam(seed).state_dict(), path)
        options.append(sam.Config(checkpoint=str(path), device="cpu"))
    slides = [[sam.create(cfg).predictor for cfg in options] for _ in range(3)]
    assert sam._network.cache_info().misses == 2
    assert slides[0][0] is not slides[0][1]
    assert slides[0] == slides[1] == slides[2]


def test_the_key_knows_weights_by_content(tmp_path):
    info = make_info()
    first, copy = tmp_path / "a.pth", tmp_path / "b.pth"
    first.write_bytes(b"weights")
    shutil.copy(first, copy)
    key = tissue_key(info, sam_options(f"checkpoint={first}"))
    assert tissue_key(info, sam_options(f"checkpoint={copy}")) == key
    assert tissue_key(info, sam_options(f"checkpoint={first}", "device=cpu")) == key
    assert tissue_key(info, sam_options(f"checkpoint={first}", "points=3")) != key
    assert tissue_key(info, sam_options(f"checkpoint={first}", "model=vit_h")) != key
    copy.write_bytes(b"others!")
    assert tissue_key(info, sam_options(f"checkpoint={copy}")) != key


def test_missing_weights_say_what_to_get(tmp_path, monkeypatch):
    for model, file in (("vit_b", "sam_vit_b_01ec64.pth"), ("vit_h", "sam_vit_h_4b8939.pth")):
        cfg = sam_options(f"checkpoint={tmp_path / 'none.pth'}", f"model={model}")
        with pytest.raises(WeightsError, match=r"none\.pth is not there") as caught:
            tissue_key(make_info(), cfg)
        assert file in str(caught.value)
        assert "checkpoint=PATH" in caught.value.hint
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"facebook/sam-vit-base.*sam_vit_b_01ec64"):
        sam.Config(device="cpu").canonical()
    with pytest.raises(WeightsError, match="no hub repository"):
        sam.Config(checkpoint="hf-hub:a b/c").canonical()


def test_without_a_network_nothing_is_tried_again(tmp_path, monkeypatch):
    asked = []

    class NoNetwork:
        def head(self, url, timeout):
            asked.append(url)
            raise RuntimeError("Name or service not known")

    def download(*args, **more):
        raise AssertionError("which tries for half a minute")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_session", NoNetwork)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(WeightsError, match=r"cannot be downloaded.*sam_vit_b_01ec64"):
        sam.Config(device="cpu").canonical()
    assert len(asked) == 1


def test_the_hub_cache_is_enough(tmp_path, monkeypatch):
    held = tmp_path / "model.safetensors"
    held.write_bytes(b"weights")
    asked = []

    def cached(repo, name, revision=None):
        asked.append((repo, name, revision))
        return str(held) if name == held.name else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert sam.Config(model="vit_l").checkpoint_file() == held
    assert sam.Config(checkpoint="hf-hub:me/mine@v2").checkpoint_file() == held
    assert asked == [
        ("facebook/sam-vit-large", held.name, None),
        ("me/mine", held.name, "v2"),
    ]


def test_weights_of_another_network_are_refused(tiny_vit_b, tmp_path):
    path = tmp_path / "sam.pth"
    state = tiny_sam().state_dict()

    def refused(state, match):
        torch.save(state, path)
        with pytest.raises(WeightsError, match=match) as caught:
            sam.create(sam.Config(checkpoint=str(path), device="cpu"))
        return str(caught.value)

    refused(tiny_sam(side=64).state_dict(), "of another shape")
    refused({k: v for k, v in state.items() if "iou" not in k}, "missing.*iou")
    refused({**state, "more": torch.zeros(1)}, "unexpected: more")
    patches = "image_encoder.patch_embed.proj.weight"
    assert "use --segmenter-option model=vit_l" in refused(
        {**state, patches: torch.zeros(1024, 3, 16, 16)}, "holds a vit_l"
    )
    refused({"epoch": 3}, "no state dict")
    refused([1, 2], "no state dict")
    refused({"model": state, "args": print}, "could run code")
    path.write_bytes(b"\x00garbage")
    with pytest.raises(WeightsError, match=r"sam\.pth"):
        sam.create(sam.Config(checkpoint=str(path), device="cpu"))
    damaged = tmp_path / "sam.safetensors"
    damaged.write_bytes(b"garbage")
    with pytest.raises(WeightsError, match="cannot be read"):
        sam.create(sam.Config(checkpoint=str(damaged), device="cpu"))


def test_real_size_is_not_passed_off(tmp_path):
    """The tiny network is none of the published ones."""
    path = tmp_path / "tiny.pth"
    torch.save(tiny_sam().state_dict(), path)
    sam._network.cache_clear()
    with pytest.raises(WeightsError, match="do not fit"):
        sam.create(sam.Config(checkpoint=str(path), device="cpu"))


def transformers_name(name):
    """A weight of segment-anything as the transformers library names it, written out by hand."""
    pairs = {
        "image_encoder.pos_embed": "vision_encoder.pos_embed",
        "image_encoder.patch_embed.proj.bias": "vision_encoder.patch_embed.projection.bias",
        "image_encoder.blocks.1.norm1.weight": "vision_encoder.layers.1.layer_norm1.weight",
        "image_encoder.blocks.1.norm2.weight": "vision_encoder.layers.1.layer_norm2.weight",
        "image_encoder.blocks.0.attn.qkv.bias": "vision_encoder.layers.0.attn.qkv.bias",
        "image_encoder.blocks.0.attn.rel_pos_h": "vision_encoder.layers.0.attn.rel_pos_h",
        "image_encoder.blocks.0.mlp.lin1.bias": "vision_encoder.layers.0.mlp.lin1.bias",
        "image_encoder.neck.0.weight": "vision_encoder.neck.conv1.weight",
        "image_encoder.neck.1.weight": "vision_encoder.neck.layer_norm1.weight",
        "image_encoder.neck.2.weight": "vision_encoder.neck.conv2.weight",
        "image_encoder.neck.3.bias": "vision_encoder.neck.layer_norm2.bias",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix":
            "shared_image_embedding.positional_embedding",
        "prompt_encoder.point_embeddings.2.weight": "prompt_encoder.point_embed.2.weight",
        "prompt_encoder.not_a_point_embed.weight": "prompt_encoder.not_a_point_embed.weight",
        "prompt_encoder.mask_downscaling.0.bias": "prompt_encoder.mask_embed.conv1.bias",
        "prompt_encoder.mask_downscaling.1.bias": "prompt_encoder.mask_embed.layer_norm1.bias",
        "prompt_encoder.mask_downscaling.3.bias": "prompt_encoder.mask_embed.conv2.bias",
        "prompt_encoder.mask_downscaling.4.bias": "prompt_encoder.mask_embed.layer_norm2.bias",
        "prompt_encoder.mask_downscaling.6.bias": "prompt_encoder.mask_embed.conv3.bias",
        "mask_decoder.output_upscaling.0.bias": "mask_decoder.upscale_conv1.bias",
        "mask_decoder.output_upscaling.1.bias": "mask_decoder.upscale_layer_norm.bias",
        "mask_decoder.output_upscaling.3.bias": "mask_decoder.upscale_conv2.bias",
        "mask_decoder.iou_prediction_head.layers.0.bias":
            "mask_decoder.iou_prediction_head.proj_in.bias",
        "mask_decoder.iou_prediction_head.layers.1.bias":
            "mask_decoder.iou_prediction_head.layers.0.bias",
        "mask_decoder.iou_prediction_head.layers.2.bias":
            "mask_decoder.iou_prediction_head.proj_out.bias",
        "mask_decoder.output_hypernetworks_mlps.3.layers.1.weight":
            "mask_decoder.output_hypernetworks_mlps.3.layers.0.weight",
        "mask_decoder.transformer.layers.1.norm4.bias":
            "mask_decoder.transformer.layers.1.layer_norm4.bias",
        "mask_decoder.transformer.norm_final_attn.bias":
            "mask_decoder.transformer.layer_norm_final_attn.bias",
        "mask_decoder.transformer.layers.0.self_attn.q_proj.bias":
            "mask_decoder.transformer.layers.0.self_attn.q_proj.bias",
        "mask_decoder.iou_token.weight": "mask_decoder.iou_token.weight",
    }  # fmt: skip
    return pairs[name] if name else pairs


def test_names_of_the_transformers_library():
    real = tiny_sam().state_dict()
    pairs = transformers_name("")
    assert set(pairs) <= set(real)
    theirs = {new: old for old, new in pairs.items()}
    assert is_transformers_sam(theirs)
    assert not is_transformers_sam(real)
    assert original_names(theirs) == {old: old for old in pairs}
