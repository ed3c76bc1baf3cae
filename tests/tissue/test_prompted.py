"""What a network is told, and what is done with its answer."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tissue import pictures as p
from tests.tissue.tiny_sam import Scripted, by_colour, picture
from wsiprep.core.errors import DeviceError
from wsiprep.testing.segmenter import blob_thumbnail
from wsiprep.tissue.segmenters import otsu, sam
from wsiprep.tissue.segmenters._prompted import PromptedSegmenter

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_clear_tissue_with_points_alone():
    image, truth = blob_thumbnail()
    segmenter = PromptedSegmenter(sam.Config(box=False), "SAM", Scripted(by_colour))
    assert p.iou(segmenter.segment(image, 8.0).tissue, truth) > 0.85
