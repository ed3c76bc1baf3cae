"""The segmenter `sam`: its contract, and the real modules of SAM at a tiny size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tissue.slides import FakeSlide
from tests.tissue.tiny_sam import (
    SIDE,
    DiscMasks,
    DiscPrompts,
    Scripted,
    by_colour,
    no_points,
    noise,
    picture,
    sam_options,
    tiny_sam,
)
from wsiprep.core.errors import ConfigError, DeviceError
from wsiprep.testing.segmenter import SegmenterContract
from wsiprep.tissue import TissueConfig, detect_tissue
from wsiprep.tissue.detect import check_segmenter
from wsiprep.tissue.segmenters import _checkpoint, sam
from wsiprep.tissue.segmenters._prompted import PromptedSegmenter
from wsiprep.tissue.segmenters._prompts import Prompts
from wsiprep.tissue.segmenters._sam_network import SamNetwork

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_from_the_file_to_the_tissue(tiny_vit_b, tmp_path):
    path = tmp_path / "sam.pth"
    torch.save(tiny_sam(seed=5).state_dict(), path)
    image = picture(120, 170)[0]
    slide = FakeSlide(cv2.resize(image, None, fx=4, fy=4), mpp=2.0)
    cfg = sam_options(f"checkpoint={path}", "device=cpu", "min_iou=0")
    cfg = cfg.model_copy(update={"min_tissue_area": 0.0})
    check_segmenter(cfg)
    one, two = detect_tissue(slide, cfg).mask, detect_tissue(slide, cfg).mask
    np.testing.assert_array_equal(one.mask, two.mask)
    assert one.method == "sam"
    assert sam._network.cache_info().misses == 1, "weights are read once for all slides"
    doubting = detect_tissue(slide, sam_options(f"checkpoint={path}", "device=cpu", "min_iou=1"))
    classical = detect_tissue(slide, TissueConfig(segmenter="otsu"))
    np.testing.assert_array_equal(doubting.mask.mask, classical.mask.mask)
    assert "below min_iou" in doubting.mask.notes[0]


def test_unknown_devices_and_options(tmp_path, tiny_vit_b):
    path = tmp_path / "sam.pth"
    torch.save(tiny_sam().state_dict(), path)
    with pytest.raises(DeviceError, match="cuda:77"):
        sam.create(sam.Config(checkpoint=str(path), device="cuda:77"))
    with pytest.raises(ConfigError, match="vit_b"):
        check_segmenter(sam_options("model=vit_x"))
    assert _checkpoint.pick_device("auto").type in {"cpu", "cuda", "mps"}
