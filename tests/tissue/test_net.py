"""The segmenter `net`: its contract, tiles without seams, weights that are checked."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.tissue import pictures as p
from wsiprep.core.errors import WeightsError
from wsiprep.synth.thumbnails.stains import HELD_OUT
from wsiprep.testing.segmenter import SegmenterContract
from wsiprep.tissue.network import CLASSES, MULTIPLE, TissueNet, network_bytes, read_network
from wsiprep.tissue.segmenters import net

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def segmenter():
    return net.create(net.Config())


class TestContract(SegmenterContract):
    @pytest.fixture
    def segmenter(self):
        return net.create(net.Config())


# -- what it is for ---------------------------------------------------------------------------


PALE = (226, 196, 214)
"""An optical density of 0.09 in green; `pictures.FAINT` has half of that."""


@pytest.mark.parametrize(("stain", "least"), [(PALE, 0.95), (p.FAINT, 0.78)])
def test_pale_tissue_is_kept(segmenter, stain, least):
    image = p.glass()
    truth = p.ellipse(image.shape[:2])
    p.stain(image, truth, stain)
    found = segmenter.segment(p.finish(image), p.MPP)
    assert p.iou(found.tissue, truth) > least


@pytest.mark.parametrize("stain", [p.EOSIN, p.BROWN, p.COUNTERSTAIN])
def test_stains(segmenter, stain):
    image = p.glass()
    truth = p.ellipse(image.shape[:2])
    p.stain(image, truth, stain)
    assert p.iou(segmenter.segment(p.finish(image), p.MPP).tissue, truth) > 0.96


@pytest.mark.parametrize("pen", sorted(p.PENS))
def test_pen_beside_tissue_is_pen(segmenter, pen):
    image = p.glass()
    truth = p.ellipse(image.shape[:2], (0.35, 0.5), (0.25, 0.3))
    p.stain(image, truth)
    ink = p.stroke(image, [(0.7, 0.1), (0.9, 0.5), (0.75, 0.9)], pen)
    found = segmenter.segment(p.finish(image), p.MPP)
    assert p.recall(found.pen, ink) > 0.97
    assert (found.tissue & ink & ~found.pen).sum() < 0.01 * ink.sum()
    assert p.recall(found.tissue, truth) > 0.97


def test_fat_is_tissue(segmenter):
    """Thin septa round cells as pale as glass."""
    image = p.glass()
    truth = p.ellipse(image.shape[:2])
    p.fat(image, truth)
    found = segmenter.segment(p.finish(image), p.MPP)
    inner = cv2.erode(truth.astype(np.uint8), np.ones((15, 15))) > 0
    assert p.recall(found.tissue, inner) > 0.95
    assert p.iou(found.tissue, truth) > 0.9


def test_black_frames_are_neither_ink_nor_tissue(segmenter):
    image = p.glass()
    truth = p.ellipse(image.shape[:2], (0.55, 0.5), (0.25, 0.25))
    p.stain(image, truth)
    frame = np.zeros(truth.shape, bool)
    frame[:, :50] = frame[-30:] = True
    image[frame] = 6
    found = segmenter.segment(p.finish(cv2.GaussianBlur(image, (0, 0), 1.0)), p.MPP)
    for seen in (found.tissue, found.pen, found.edge):
        assert not (seen & frame).any()
    assert p.iou(found.tissue, truth) > 0.93
    whole = cv2.copyMakeBorder(p.finish(image), 0, 0, 0, 3, cv2.BORDER_REPLICATE)
    finer = segmenter.segment(cv2.resize(whole, None, fx=2, fy=2), p.MPP / 2)
    assert not finer.pen[:, :90].any()


@pytest.mark.parametrize("rgb", [(241, 240, 242), (255, 255, 255), (228, 226, 215)])
def test_glass_is_empty(segmenter, rgb):
    found = segmenter.segment(p.finish(p.glass(rgb=rgb)), p.MPP)
    assert found.tissue.mean() < 1e-3
    assert found.pen.mean() < 1e-3


def test_fluorescence_is_refused_in_words(segmenter):
    found = segmenter.segment(np.full((200, 300, 3), 12, np.uint8), p.MPP)
    assert not found.tissue.any()
    assert "fluorescence" in found.notes[0]


# -- how it is done ---------------------------------------------------------------------------


def test_tiles_answer_as_the_whole_does(segmenter, monkeypatch):
    image = p.glass(1300, 1700)
    p.stain(image, p.ellipse((1300, 1700), axes=(0.4, 0.4)))
    p.stroke(image, [(0.1, 0.2), (0.9, 0.8)], "blue")
    picture = p.finish(image)
    monkeypatch.setattr(net, "TILE_PX", 10_000)
    whole = segmenter._logits(picture)
    monkeypatch.setattr(net, "TILE_PX", 384)
    near = segmenter._logits(picture)
    np.testing.assert_allclose(near, whole, atol=1e-4)
    monkeypatch.setattr(net, "FAR_TILE_PX", 832)
    np.testing.assert_allclose(segmenter._logits(picture), whole, atol=1e-3)


@pytest.mark.parametrize(("h", "w"), [(10, 10), (1440, 1441), (3000, 1600), (4000, 20)])
@pytest.mark.parametrize(("most", "margin"), [(1440, 32), (2816, 192)])
def test_every_pixel_is_answered_by_one_tile_that_sees_around_it(h, w, most, margin):
    owners = np.zeros((h, w), int)
    for read, own, kept in net._tiles((h, w), most, margin):
        owners[own] += 1
        for side, whole, mine, of_read in zip((h, w), read, own, kept, strict=True):
            assert whole.stop - whole.start <= most
            assert whole.start == max(0, mine.start - margin)
            assert whole.stop == min(side, mine.stop + margin)
            assert whole.start + of_read.start == mine.start
            assert whole.start + of_read.stop == mine.stop
            assert whole.start % 32 == 0
    assert (owners == 1).all()


def test_fine_thumbnails_are_shrunk_to_what_the_network_knows(segmenter):
    image = p.glass(400, 400)
    truth = p.ellipse((400, 400))
    p.stain(image, truth)
    fine = cv2.resize(p.finish(image), (1600, 1600), interpolation=cv2.INTER_CUBIC)
    found = segmenter.segment(fine, p.MPP / 4)
    assert found.tissue.shape == (1600, 1600)
    large = cv2.resize(truth.astype(np.uint8), (1600, 1600), interpolation=cv2.INTER_NEAREST) > 0
    assert p.iou(found.tissue, large) > 0.9


# -- weights ----------------------------------------------------------------------------------


def small_network():
    torch.manual_seed(0)
    return TissueNet((4, 4, 8, 8, 8))


def test_a_network_is_read_back(tmp_path):
    network = small_network()
    for module in network.modules():  # statistics that are not those of a new network
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    path = tmp_path / "n.safetensors"
    path.write_bytes(network_bytes(network, {"why": "test"}))
    again, words = read_network(path)
    assert words["why"] == "test"
    assert words["classes"] == list(CLASSES)
    pixels = torch.randint(0, 256, (1, 3, 2 * MULTIPLE, MULTIPLE), dtype=torch.uint8)
    with torch.inference_mode():
        wanted, got = network.eval()(pixels), again.eval()(pixels)
    assert got.shape == (1, 4, MULTIPLE, MULTIPLE // 2)
    torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02)  # half precision


def test_weights_that_are_compared_are_read_once_each(tmp_path):
    options = []
    for name in "ab":
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(network_bytes(small_network(), {"name": name}))
        options.append(net.Config(weights=path))
    net._network.cache_clear()
    slides = [[net.create(cfg)._network for cfg in options] for _ in range(3)]
    assert net._network.cache_info().misses == 2
    assert slides[0][0] is not slides[0][1]
    assert all(
        one is two for again in slides[1:] for one, two in zip(again, slides[0], strict=True)
    )


def said(words, **other):
    return {"wsiprep": json.dumps({**words, **other})}


def test_weights_enter_the_key_by_content(tmp_path):
    one, two, three = (tmp_path / f"{n}.safetensors" for n in "abc")
    data = network_bytes(small_network(), {})
    one.write_bytes(data)
    two.write_bytes(data)
    three.write_bytes(network_bytes(small_network(), {"other": "words"}))
    keys = [net.Config(weights=path).canonical() for path in (one, two, three)]
    assert keys[0] == keys[1] != keys[2]
    assert str(one) not in str(keys[0])


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), (b"nonsense", "safetensors"), ("classes", "classes are"),
     ("shape", "do not fit"), ("missing", "missing")],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, content, says):
    from safetensors.torch import save

    path = tmp_path / "w.safetensors"
    state = {k: v for k, v in small_network().state_dict().items() if "tracked" not in k}
    words = {"widths": [4, 4, 8, 8, 8], "classes": list(CLASSES)}
    if content == "classes":
        content = save(state, said(words, classes=["cats", "dogs"]))
    elif content == "shape":
        content = save({**state, "head.weight": torch.zeros(4, 5, 1, 1)}, said(words))
    elif content == "missing":
        content = save({k: v for k, v in state.items() if k != "head.bias"}, said(words))
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=says) as caught:
        net.create(net.Config(weights=path))
    assert "wsiprep train tissue" in caught.value.hint


def test_the_network_that_ships_is_small():
    path = Path(net.Config().network_file())
    assert path.stat().st_size < 8e6
    network, words = read_network(path)
    assert sum(value.numel() for value in network.parameters()) < 2e6
    made_of = words.get("mean_of", [words])
    assert made_of
    assert all(set(HELD_OUT) <= set(one["settings"]["leave_out"]) for one in made_of)


# -- real thumbnails --------------------------------------------------------------------------


def _real(folder, name):
    return np.ascontiguousarray(cv2.imread(str(folder / name))[..., ::-1])


def test_real_prostate(shared_data, segmenter):
    import tifffile

    with tifffile.TiffFile(shared_data / "slides" / "hs2p_test-mask.tif") as tiff:
        truth = tiff.pages[0].asarray() > 0
    found = segmenter.segment(_real(shared_data / "masks", "hs2p_slide-visu.jpg"), 16.0)
    assert p.iou(found.tissue, truth) > 0.9  # the mask counts the lumens of glands as tissue


def test_real_red_pen(shared_data, segmenter):
    folder = shared_data / "masks"
    ink = cv2.imread(str(folder / "hqc_pen_red_mask.png"), cv2.IMREAD_GRAYSCALE) > 128
    found = segmenter.segment(_real(folder, "hqc_pen_red.png"), 16.0)
    assert p.recall(found.pen, ink) > 0.87


@pytest.mark.parametrize("name", ["dhp_purple-slide.png", "dhp_pink-and-purple-slide.png"])
def test_real_slides_without_pen(shared_data, segmenter, name):
    found = segmenter.segment(_real(shared_data / "masks", name), 40.0)
    assert found.pen.mean() < 2e-3
    assert 0.2 < found.tissue.mean() < 0.6
