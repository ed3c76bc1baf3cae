from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from tests.tissue import pictures as p
from tests.tissue.slides import make_info
from tests.tissue.tiny_sam import DiscMasks, DiscPrompts, Scripted, all_of, by_colour, noise
from wsiprep.core.errors import PluginUnavailableError, WeightsError
from wsiprep.testing.segmenter import SegmenterContract
from wsiprep.tissue import TissueConfig
from wsiprep.tissue.detect import check_segmenter, tissue_key
from wsiprep.tissue.segmenters import _sam2_network, sam2
from wsiprep.tissue.segmenters._prompted import PromptedSegmenter
from wsiprep.tissue.segmenters._prompts import Prompts

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {
    "image_encoder__trunk__embed_dim": 8,
    "image_encoder__trunk__stages": [1, 1, 2, 1],
    "image_encoder__trunk__global_att_blocks": [],
    "image_encoder__neck__backbone_channel_list": [64, 32, 16, 8],
    "memory_attention__num_layers": 1,
}
SIDE = 1024
real_build = _sam2_network.build_sam2


def build_tiny(model="tiny", seed=0):
    """The real modules of SAM 2 at a small size, with random weights."""
    pytest.importorskip("sam2", reason="the sam2 package is not installed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return real_build("tiny", **TINY)


@pytest.fixture
def tiny(monkeypatch):
    """The small network in place of Hiera-tiny, and no network left from another test."""
    monkeypatch.setattr(_sam2_network, "build_sam2", build_tiny)
    sam2._network.cache_clear()
    yield
    sam2._network.cache_clear()


def options(*more):
    return TissueConfig(segmenter="sam2", segmenter_option=more)


class TestWithANetworkThatKnows(SegmenterContract):
    """Segmenter `sam2` with a network that goes by colour."""

    @pytest.fixture
    def segmenter(self):
        return PromptedSegmenter(sam2.Config(), "SAM 2", Scripted(by_colour))


def test_a_box_around_the_whole_is_all_that_it_is_told():
    image = p.glass(700, 1500)
    p.stain(image, p.ellipse((700, 1500)))
    network = Scripted(by_colour)
    PromptedSegmenter(sam2.Config(), "SAM 2", network).segment(p.finish(image), 8.0)
    shown, prompt, multimask = network.asked[0]
    assert shown.shape == (478, 1024, 3)
    np.testing.assert_array_equal(prompt.box, [0, 0, 1024, 478])
    assert not len(prompt.points)
    assert not multimask


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"weights")
    for package in ("hydra", "hydra.utils", "sam2"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    sam2._network.cache_clear()
    check_segmenter(options("model=large"))
    with pytest.raises(PluginUnavailableError, match=r"wsiprep\[sam2\]"):
        sam2.create(sam2.Config(checkpoint=str(path), device="cpu"))


def test_missing_weights_say_what_to_get(tmp_path, monkeypatch):
    cfg = options(f"checkpoint={tmp_path / 'none.pt'}", "model=base_plus")
    with pytest.raises(WeightsError, match=r"sam2\.1_hiera_base_plus\.pt.*AtlasPatch"):
        tissue_key(make_info(), cfg)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"facebook/sam2\.1-hiera-base-plus"):
        sam2.Config(model="base_plus").canonical()


def test_the_hub_files_asked_for(tmp_path, monkeypatch):
    asked = []
    held = tmp_path / "model.pth"
    held.write_bytes(b"weights")

    def cached(repo, name, revision=None):
        asked.append((repo, name, revision))
        return str(held) if name == held.name else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    cfg = sam2.Config(checkpoint="hf-hub:AtlasAnalyticsLab/AtlasPatch")
    assert cfg.checkpoint_file() == held
    assert asked[-1] == ("AtlasAnalyticsLab/AtlasPatch", "model.pth", None)


# --- the real modules


def test_a_mask_lands_where_it_was_asked_for():
    """The network draws a disc in its square; it must lie there on the image, stretched."""
    network = build_tiny()
    network.sam_prompt_encoder = prompts = DiscPrompts(SIDE)
    masks = DiscMasks(SIDE, 120.0)
    network.sam_mask_decoder = _Four(masks, network.sam_mask_decoder)
    predictor = _sam2_network.Sam2Network(network)
    for h, w, px, py in ((300, 1000, 720, 110), (640, 90, 20, 501), (1024, 1024, 333, 700)):
        box = np.array([0, 0, w, h], np.float32)
        at = np.array([[px, py]], np.float32)
        (answer,) = predictor.predict(
            [noise(h, w)], [Prompts(box, at, np.ones(1, np.int32))], False
        )
        assert answer.logits.shape == (1, h, w)
        y, x = np.mgrid[:h, :w]
        away = np.hypot((x - px) * SIDE / w, (y - py) * SIDE / h)
        inside = (away > 16) & (x > 5) & (x < w - 5) & (y > 5) & (y < h - 5)
        np.testing.assert_allclose(answer.logits[0][inside], (120.0 - away)[inside], atol=2.0)
        coords, labels = prompts.told[-1][0]
        assert labels.tolist() == [[2, 3, 1]], "the box is two points of their own kind"
        np.testing.assert_allclose(coords[0, :2].numpy(), [[0, 0], [SIDE, SIDE]], atol=1e-3)


class _Four(torch.nn.Module):
    """SAM 2's decoder returns two things more, and the encoder uses two of its layers."""

    def __init__(self, masks, decoder):
        super().__init__()
        self.masks = masks
        self.conv_s0, self.conv_s1 = decoder.conv_s0, decoder.conv_s1

    def forward(self, repeat_image, high_res_features, **given):
        return (*self.masks(**given), None, None)


def test_it_says_what_the_projects_own_predictor_says():
    network = build_tiny()
    ours = _sam2_network.Sam2Network(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        theirs = SAM2ImagePredictor(network)
    h, w = 200, 1024
    image = noise(h, w)
    theirs.set_image(image)
    logits, iou, _ = theirs.predict(
        box=np.array([0, 0, w, h]), multimask_output=False, return_logits=True
    )
    (answer,) = ours.predict([image], [all_of(h, w)], False)
    np.testing.assert_allclose(answer.logits, logits, atol=1e-4)
    np.testing.assert_allclose(answer.iou, iou, atol=1e-4)


def test_batches_say_what_single_images_say():
    network = _sam2_network.Sam2Network(build_tiny())
    shapes = [(700, 300), (40, 1), (1024, 1000)]
    images = [noise(h, w, seed) for seed, (h, w) in enumerate(shapes)]
    prompts = [all_of(h, w) for h, w in shapes]
    prompts[2] = Prompts(None, np.array([[5, 9]], np.float32), np.array([1], np.int32))
    together = network.predict(images, prompts, True)
    for image, prompt, answer in zip(images, prompts, together, strict=True):
        assert answer.logits.shape == (3, *image.shape[:2])
        (alone,) = network.predict([image], [prompt], True)
        np.testing.assert_allclose(answer.logits, alone.logits, atol=1e-4)
        np.testing.assert_allclose(answer.iou, alone.iou, atol=1e-4)


def test_saved_weights_come_back_as_atlaspatch_saves_them(tiny, tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": build_tiny(seed=4).state_dict()}, path)
    segmenter = sam2.create(sam2.Config(checkpoint=str(path), device="cpu", min_iou=0))
    image = noise(80, 100)
    (loaded,) = segmenter.predictor.predict([image], [all_of(80, 100)], False)
    wanted = _sam2_network.Sam2Network(build_tiny(seed=4))
    np.testing.assert_array_equal(
        loaded.logits, wanted.predict([image], [all_of(80, 100)], False)[0].logits
    )
    one, two = segmenter.segment(image, 8.0), segmenter.segment(image, 8.0)
    np.testing.assert_array_equal(one.tissue, two.tissue)
    assert one.tissue.shape == (80, 100)


def test_weights_that_are_compared_are_read_once_each(tiny, tmp_path):
    options = []
    for seed in (4, 5):
        path = tmp_path / f"{seed}.pth"
        torch.save({"model": build_tiny(seed=seed).state_dict()}, path)
        options.append(sam2.Config(checkpoint=str(path), device="cpu"))
    slides = [[sam2.create(cfg).predictor for cfg in options] for _ in range(3)]
    assert sam2._network.cache_info().misses == 2
    assert slides[0][0] is not slides[0][1]
    assert slides[0] == slides[1] == slides[2]


def test_weights_of_another_network_are_refused(tmp_path):
    """The real Hiera-tiny takes no tiny network, nor one that names things otherwise."""
    path = tmp_path / "model.pt"

    def refused(state, match):
        torch.save({"model": state}, path)
        sam2._network.cache_clear()
        with pytest.raises(WeightsError, match=match):
            sam2.create(sam2.Config(checkpoint=str(path), device="cpu"))

    state = build_tiny().state_dict()
    refused(state, "do not fit")
    refused({"vision_encoder.x": torch.zeros(1)}, "transformers library")
    large = {f"image_encoder.trunk.blocks.{i}.x": torch.zeros(1) for i in range(48)}
    large["image_encoder.trunk.patch_embed.proj.weight"] = torch.zeros(144, 3, 7, 7)
    refused(large, "holds a large: use --segmenter-option model=large")


def test_the_real_hiera_tiny_has_the_size_that_is_published():
    pytest.importorskip("sam2", reason="the sam2 package is not installed")
    network = real_build("tiny")
    assert sum(one.numel() for one in network.parameters()) / 1e6 == pytest.approx(38.9, abs=0.1)
    assert _sam2_network._model_of(network.state_dict()) == "tiny"
