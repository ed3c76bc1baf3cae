from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.tissue import pictures as p
from tests.tissue.slides import FakeSlide, make_info
from tests.tissue.tiny_sam import SIDE, DiscMasks, DiscPrompts, Scripted, by_colour, tiny_sam
from wsiprep.core.errors import ConfigError, DeviceError, WeightsError
from wsiprep.testing.segmenter import SegmenterContract, blob_thumbnail
from wsiprep.tissue import TissueConfig, detect_tissue
from wsiprep.tissue.detect import check_segmenter, tissue_key
from wsiprep.tissue.segmenters import _checkpoint, otsu, sam
from wsiprep.tissue.segmenters._prompted import PromptedSegmenter
from wsiprep.tissue.segmenters._prompts import Prompts
from wsiprep.tissue.segmenters._sam_names import is_transformers_sam, original_names
from wsiprep.tissue.segmenters._sam_network import SamNetwork


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(monkeypatch):
    """The tiny network in place of vit_b, and no network left from another test."""
    from segment_anything import sam_model_registry

    monkeypatch.setitem(sam_model_registry, "vit_b", tiny_sam)
    sam._network.cache_clear()
    yield
    sam._network.cache_clear()


def picture(h=300, w=400):
    image = p.glass(h, w)
    truth = p.ellipse((h, w))
    p.stain(image, truth)
    return p.finish(image), truth


def noise(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def no_points():
    return np.empty((0, 2), np.float32), np.empty(0, np.int32)


# --- what is done with a network's answer


class TestWithANetworkThatKnows(SegmenterContract):
    """Segmenter `sam` with a network that goes by colour."""

    @pytest.fixture
    def segmenter(self):
        return PromptedSegmenter(sam.Config(), "SAM", Scripted(by_colour))


class TestWithANetworkThatDoubts(SegmenterContract):
    """Segmenter `sam` with the real modules, random weights, and too little trust in itself."""

    @pytest.fixture
    def segmenter(self):
        network = SamNetwork(tiny_sam(side=64))
        return PromptedSegmenter(sam.Config(min_iou=1.0), "SAM", network)


def test_the_mask_of_highest_estimate_is_taken():
    image, _ = picture()
    h, w = image.shape[:2]

    def three(image, prompt):
        logits = np.full((3, h, w), -1.0)
        for index in range(3):
            logits[index, : 10 * (index + 1)] = 1
        return logits, [0.7, np.nan, 0.8]

    network = Scripted(three)
    found = PromptedSegmenter(sam.Config(), "SAM", network).segment(image, 8.0)
    assert found.tissue.sum() == 30 * w
    assert network.asked[0][2] is True
    assert "agree on" in found.notes[0], "it has little to do with the classical mask"


def test_low_estimates_fall_back_and_say_so():
    image, _ = picture()
    classical = otsu.create(otsu.Config()).segment(image, 8.0)
    for estimate in (0.49, np.nan):
        network = Scripted(lambda image, _, e=estimate: (np.ones((1, *image.shape[:2])), [e]))
        found = PromptedSegmenter(sam.Config(), "SAM", network).segment(image, 8.0)
        np.testing.assert_array_equal(found.tissue, classical.tissue)
        assert "classical" in found.notes[0]
        assert "min_iou 0.5" in found.notes[0]
    trusting = PromptedSegmenter(sam.Config(min_iou=0.4), "SAM", Scripted(
        lambda image, _: (np.ones((1, *image.shape[:2])), [0.49])))  # fmt: skip
    assert trusting.segment(image, 8.0).tissue.all()


def test_what_the_network_is_told():
    image, truth = picture(900, 2000)
    drawn = p.glass(900, 2000)
    p.stain(drawn, truth)
    ink = p.stroke(drawn, [(0.05, 0.1), (0.3, 0.1)], "green")
    image = p.finish(drawn)
    network = Scripted(by_colour)
    found = PromptedSegmenter(sam.Config(points=4), "SAM", network).segment(image, 8.0)
    shown, prompt, multimask = network.asked[0]
    assert shown.shape == (461, 1024, 3), "shrunk to the input of the network"
    np.testing.assert_array_equal(prompt.box, [0, 0, 1024, 461])
    assert multimask
    x, y = (prompt.points * (2000 / 1024)).round().astype(int).T
    on = prompt.labels == 1
    assert on.any()
    assert truth[y[on], x[on]].all()
    assert not truth[y[~on], x[~on]].any()
    assert ink[y[~on], x[~on]].sum() == 2, "half of them"
    assert p.recall(found.pen, ink) > 0.95
    assert found.tissue.shape == (900, 2000)
    assert p.recall(found.tissue, truth) > 0.98


def test_without_box_and_points_there_is_nothing_to_ask():
    with pytest.raises(ValueError, match="box=false"):
        sam.Config(box=False, points=0)
    network = Scripted(by_colour)
    segmenter = PromptedSegmenter(sam.Config(box=False, points=3), "SAM", network)
    found = segmenter.segment(np.full((50, 60, 3), 200, np.uint8), 8.0)
    assert not network.asked
    assert "not asked" in found.notes[0]


def test_a_slide_the_classical_segmenter_cannot_read_is_the_networks():
    dark = np.zeros((200, 300, 3), np.uint8)
    dark[50:80, 50:90] = (0, 20, 60)
    network = Scripted(lambda image, _: ((image[None, :, :, 2] > 30) - 0.5, [0.9]))
    found = PromptedSegmenter(sam.Config(), "SAM", network).segment(dark, 8.0)
    assert found.tissue.sum() == 1200
    assert not any("fluorescence" in note for note in found.notes)
    assert "agree on 0%" in found.notes[0]


def test_many_slides_share_passes():
    images = [picture(300, 400)[0], picture(200, 333)[0], np.full((40, 30, 3), 255, np.uint8)]
    images += [picture(120, 90)[0]] * 3
    network = Scripted(by_colour)
    segmenter = PromptedSegmenter(sam.Config(), "SAM", network)
    together = segmenter.segment_many(images, [8.0] * 6)
    assert network.batches == [3, 2], "four slides at a time, of which one is blank"
    for image, found in zip(images, together, strict=True):
        alone = segmenter.segment(image, 8.0)
        np.testing.assert_array_equal(found.tissue, alone.tissue)
        np.testing.assert_array_equal(found.pen, alone.pen)
        assert found.notes == alone.notes


def test_too_many_for_the_memory_are_asked_in_parts():
    images = [picture(30 + 10 * n, 60)[0] for n in range(3)]
    network = Scripted(by_colour, room_for=1)
    segmenter = PromptedSegmenter(sam.Config(), "SAM", network)
    found = segmenter.segment_many(images, [8.0] * 3)
    assert network.batches == [3, 1, 2, 1, 1]
    assert [one.tissue.shape[0] for one in found] == [30, 40, 50]
    none = PromptedSegmenter(sam.Config(), "SAM", Scripted(by_colour, room_for=0))
    with pytest.raises(DeviceError):
        none.segment_many(images, [8.0] * 3)


# --- the real modules


@pytest.fixture(scope="module")
def disc_network():
    network = tiny_sam()
    network.prompt_encoder, network.mask_decoder = DiscPrompts(SIDE), DiscMasks(SIDE, 10.0)
    return network


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 300), st.integers(20, 300), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_a_mask_lands_where_it_was_asked_for(disc_network, h, w, fx, fy):
    """The network draws a disc around its point; it must lie there on the image too."""
    side, radius, network = SIDE, 10.0, disc_network
    at = np.array([[round(fx * (w - 1)), round(fy * (h - 1))]], np.float32)
    box = np.array([0, 0, w, h], np.float32)
    (answer,) = SamNetwork(network).predict(
        [noise(h, w)], [Prompts(box, at, np.ones(1, np.int32))], False
    )
    assert answer.logits.shape == (1, h, w)
    y, x = np.mgrid[:h, :w]
    scale = side / max(h, w)
    away = np.hypot(x - at[0, 0], y - at[0, 1]) * scale
    # Logits are linear in the distance but for interpolation at quarter resolution.
    inner = (away > 4) & (x > 4 / scale) & (y > 4 / scale)
    inner &= (x < w - 4 / scale) & (y < h - 4 / scale)
    np.testing.assert_allclose(answer.logits[0][inner], (radius - away)[inner], atol=0.8)
    told = network.prompt_encoder.told[-1][1][0].numpy()
    np.testing.assert_allclose(told, [0, 0, *(np.round(np.array([w, h]) * scale))], atol=1.0)


@pytest.mark.parametrize("multimask", [False, True])
def test_it_says_what_the_projects_own_predictor_says(multimask):
    """On images that need no resizing, whose pixels both give to the network as they are."""
    from segment_anything import SamPredictor

    network = tiny_sam()
    own = SamPredictor(network)
    image = noise(96, 128)
    own.set_image(image)
    points, labels = np.array([[5, 7], [100, 60]], np.float32), np.array([1, 0], np.int32)
    box = np.array([0, 0, 128, 96], np.float32)
    logits, iou, _ = own.predict(points, labels, box, None, multimask, return_logits=True)
    (answer,) = SamNetwork(network).predict([image], [Prompts(box, points, labels)], multimask)
    np.testing.assert_allclose(answer.logits, logits, atol=1e-5)
    np.testing.assert_allclose(answer.iou, iou, atol=1e-5)
    assert answer.logits.shape == (3 if multimask else 1, 96, 128)


def test_batches_say_what_single_images_say():
    network = SamNetwork(tiny_sam())
    assert network.batch == 1, "on a CPU"
    shapes = [(128, 37), (64, 128), (10, 11), (128, 128)]
    images = [noise(h, w, seed) for seed, (h, w) in enumerate(shapes)]
    prompts = [Prompts(np.array([0, 0, w, h], np.float32), *no_points()) for h, w in shapes]
    prompts[1] = Prompts(None, np.array([[3, 4]], np.float32), np.array([1], np.int32))
    together = network.predict(images, prompts, True)
    for image, prompt, answer in zip(images, prompts, together, strict=True):
        (alone,) = network.predict([image], [prompt], True)
        assert answer.logits.shape == (3, *image.shape[:2])
        np.testing.assert_allclose(answer.logits, alone.logits, atol=1e-5)
        np.testing.assert_allclose(answer.iou, alone.iou, atol=1e-5)


def test_prompts_matter():
    network = SamNetwork(tiny_sam())
    image = noise(100, 128)
    box = np.array([0, 0, 128, 100], np.float32)
    point, one = np.array([[20, 20]], np.float32), np.ones(1, np.int32)
    said = [
        network.predict([image], [Prompts(*told)], False)[0].logits
        for told in (
            (box, *no_points()), (box, point, one), (box, point, 1 - one), (box, point + 50, one)
        )
    ]  # fmt: skip
    for index, one_said in enumerate(said):
        for other in said[index + 1 :]:
            assert np.abs(one_said - other).max() > 1e-4


# --- weights


def options(*more):
    return TissueConfig(segmenter="sam", segmenter_option=more)


def test_from_the_file_to_the_tissue(tiny, tmp_path):
    path = tmp_path / "sam.pth"
    torch.save(tiny_sam(seed=5).state_dict(), path)
    image = picture(120, 170)[0]
    slide = FakeSlide(cv2.resize(image, None, fx=4, fy=4), mpp=2.0)
    cfg = options(f"checkpoint={path}", "device=cpu", "min_iou=0")
    cfg = cfg.model_copy(update={"min_tissue_area": 0.0})
    check_segmenter(cfg)
    one, two = detect_tissue(slide, cfg).mask, detect_tissue(slide, cfg).mask
    np.testing.assert_array_equal(one.mask, two.mask)
    assert one.method == "sam"
    assert sam._network.cache_info().misses == 1, "weights are read once for all slides"
    doubting = detect_tissue(slide, options(f"checkpoint={path}", "device=cpu", "min_iou=1"))
    classical = detect_tissue(slide, TissueConfig(segmenter="otsu"))
    np.testing.assert_array_equal(doubting.mask.mask, classical.mask.mask)
    assert "below min_iou" in doubting.mask.notes[0]


@pytest.mark.parametrize("wrapped", ["pth", "model", "safetensors"])
def test_saved_weights_come_back(tiny, tmp_path, wrapped):
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


def test_the_key_knows_weights_by_content(tmp_path):
    info = make_info()
    first, copy = tmp_path / "a.pth", tmp_path / "b.pth"
    first.write_bytes(b"weights")
    shutil.copy(first, copy)
    key = tissue_key(info, options(f"checkpoint={first}"))
    assert tissue_key(info, options(f"checkpoint={copy}")) == key
    assert tissue_key(info, options(f"checkpoint={first}", "device=cpu")) == key
    assert tissue_key(info, options(f"checkpoint={first}", "points=3")) != key
    assert tissue_key(info, options(f"checkpoint={first}", "model=vit_h")) != key
    copy.write_bytes(b"others!")
    assert tissue_key(info, options(f"checkpoint={copy}")) != key


def test_missing_weights_say_what_to_get(tmp_path, monkeypatch):
    for model, file in (("vit_b", "sam_vit_b_01ec64.pth"), ("vit_h", "sam_vit_h_4b8939.pth")):
        cfg = options(f"checkpoint={tmp_path / 'none.pth'}", f"model={model}")
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


def test_weights_of_another_network_are_refused(tiny, tmp_path):
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


def test_unknown_devices_and_options(tmp_path, tiny):
    path = tmp_path / "sam.pth"
    torch.save(tiny_sam().state_dict(), path)
    with pytest.raises(DeviceError, match="cuda:77"):
        sam.create(sam.Config(checkpoint=str(path), device="cuda:77"))
    with pytest.raises(ConfigError, match="vit_b"):
        check_segmenter(options("model=vit_x"))
    assert _checkpoint.pick_device("auto").type in {"cpu", "cuda", "mps"}


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


def test_clear_tissue_with_points_alone():
    image, truth = blob_thumbnail()
    segmenter = PromptedSegmenter(sam.Config(box=False), "SAM", Scripted(by_colour))
    assert p.iou(segmenter.segment(image, 8.0).tissue, truth) > 0.85
