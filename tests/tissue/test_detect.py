from __future__ import annotations

import sys
import types

import cv2
import numpy as np
import pytest

from tests.tissue import pictures as p
from tests.tissue.slides import FakeSlide, make_info
from wsiprep.core.errors import (
    ConfigError,
    PluginUnavailableError,
    TissueInputError,
    UnknownPluginError,
)
from wsiprep.core.types import Segmentation
from wsiprep.tissue import TissueConfig, detect_tissue
from wsiprep.tissue.detect import segmenters, tissue_key
from wsiprep.tissue.presets import PRESETS


@pytest.fixture(scope="module")
def slide():
    image = p.glass(500, 700)
    p.stain(image, p.ellipse(image.shape[:2]))
    p.stain(image, p.ellipse(image.shape[:2], (0.07, 0.1), (0.03, 0.04)))
    hole = p.ellipse(image.shape[:2], axes=(0.08, 0.1))
    image[hole] = p.GLASS
    pixels = cv2.resize(p.finish(image), None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    return FakeSlide(pixels, mpp=2.0)


def classical(**given):
    """Settings of the classical segmenter, whose parts these tests replace."""
    return TissueConfig(segmenter="otsu", **given)


def test_the_network_is_the_default(slide):
    assert detect_tissue(slide, TissueConfig()).mask.method == "net"


def test_otsu_is_listed():
    assert "otsu" in segmenters.names()
    assert not any(name.startswith("_") for name in segmenters.names())


def test_detects_on_the_thumbnail(slide):
    mask, thumbnail = detect_tissue(slide, classical())
    assert thumbnail.shape == (500, 700, 3)
    assert mask.mask.shape == (500, 700)
    assert mask.mpp == pytest.approx(8.0)
    assert mask.method == "otsu"
    assert mask.size0 == slide.info.size0
    assert not mask.mask[250, 350], "the hole is kept"
    assert mask.mask[250, 200]


def test_holes_and_smallest_area(slide):
    filled = detect_tissue(slide, classical(holes="remove")).mask.mask
    assert filled[250, 350]
    assert filled[50, 50]
    large = detect_tissue(slide, classical(min_tissue_area=1.0)).mask.mask
    assert not large[50, 50]
    assert large[250, 200]
    nothing = detect_tissue(slide, classical(min_tissue_area=100.0)).mask
    assert nothing.empty
    assert "--min-tissue-area" in nothing.notes[-1]


def test_resolution(slide):
    found = detect_tissue(slide, classical(tissue_mpp=16))
    assert found.mask.mask.shape == (250, 350)
    assert found.mask.mpp == pytest.approx(16)


def test_a_given_mask_wins_and_keeps_its_resolution(slide, tmp_path):
    given = np.zeros((50, 70), np.uint8)
    given[3:7, 3:7] = 1
    cv2.imwrite(str(tmp_path / "m.png"), given)
    found = detect_tissue(slide, classical(mask=tmp_path / "m.png", min_tissue_area=9.0))
    np.testing.assert_array_equal(found.mask.mask, given > 0)
    assert found.mask.method == "mask:m.png"
    assert found.thumbnail.shape == (500, 700, 3)
    with pytest.raises(TissueInputError):
        detect_tissue(slide, classical(mask=tmp_path / "none.png"))


def test_ink_is_never_filled_as_a_hole():
    image = p.glass(500, 700)
    p.stain(image, p.ellipse(image.shape[:2]))
    ink = p.stroke(image, [(0.4, 0.5), (0.6, 0.5)], "green")
    found = detect_tissue(FakeSlide(p.finish(image), mpp=8.0), classical(holes="remove"))
    assert p.recall(found.mask.pen, ink) > 0.95
    assert not (found.mask.pen & found.mask.mask).any()


def test_options(slide):
    def key(*options):
        return tissue_key(slide.info, classical(segmenter_option=options))

    assert key() == key("close_um=80") == key("close-um = 80.0", "pen=true")
    assert key() != key("close_um=81")
    with pytest.raises(ConfigError, match=r"nope.*close_um"):
        key("nope=1")
    with pytest.raises(ConfigError, match=r"close_um.*number"):
        key("close_um=wide")
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        key("close_um")
    with pytest.raises(ConfigError, match="twice"):
        key("pen=true", "pen=false")
    with pytest.raises(UnknownPluginError, match="otsu"):
        tissue_key(slide.info, TissueConfig(segmenter="otzu"))


def test_key_depends_on_all_that_decides(slide, tmp_path, monkeypatch):
    base = classical()
    info = make_info()
    keys = {
        tissue_key(info, base),
        tissue_key(make_info(fingerprint="0" * 64), base),
        tissue_key(make_info(mpp=0.25), base),
        tissue_key(info, classical(tissue_mpp=4)),
        tissue_key(info, classical(min_tissue_area=0.1)),
        tissue_key(info, classical(holes="remove")),
        tissue_key(info, classical(min_hole_area=0.1)),
        tissue_key(info, classical(smooth=8)),
        tissue_key(info, classical(exclude="pen")),
        tissue_key(info, classical(exclude="fold")),
        tissue_key(info, classical(section_gap=100)),
    }
    assert len(keys) == 11
    spelled = tissue_key(info, classical(exclude=("edge", "pen"), smooth=0))
    assert spelled == tissue_key(info, base)
    preset = tissue_key(info, classical(preset="tma"))
    assert preset == tissue_key(info, classical(**PRESETS["tma"]))
    assert preset not in keys
    assert tissue_key(make_info(name="renamed"), base) == tissue_key(info, base)
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    one.write_bytes(b"a")
    two.write_bytes(b"a")
    first = tissue_key(info, classical(mask=one))
    assert first not in keys
    assert tissue_key(info, classical(mask=two)) == first
    two.write_bytes(b"b")
    assert tissue_key(info, classical(mask=two)) != first
    monkeypatch.setattr("wsiprep.tissue.segmenters.otsu.VERSION", 99)
    assert tissue_key(info, base) not in keys


def _plug_in(monkeypatch, **parts):
    from wsiprep.tissue.segmenters import otsu

    module = types.ModuleType("wsiprep.tissue.segmenters.otsu")
    for name, value in {"Config": otsu.Config, "VERSION": 1, **parts}.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_segmenters_that_break_the_contract_are_named(slide, monkeypatch):
    _plug_in(monkeypatch)
    with pytest.raises(PluginUnavailableError, match="defines no 'create'"):
        detect_tissue(slide, classical())

    class Wrong:
        def segment(self, thumbnail, mpp):
            return Segmentation(np.zeros((2, 2), bool), np.zeros((2, 2), bool))

    _plug_in(monkeypatch, create=lambda cfg: Wrong())
    with pytest.raises(PluginUnavailableError, match="returned tissue as bool"):
        detect_tissue(slide, classical())


class Seeing:
    """A segmenter that sees everything, one thing over the other."""

    def segment(self, thumbnail, mpp):
        h, w = thumbnail.shape[:2]
        tissue, pen, edge, fold = np.zeros((4, h, w), bool)
        tissue[100:400, 100:600] = True
        pen[200:220, 50:650] = True
        edge[:, 590:595] = True
        fold[300:320, 150:250] = True
        return Segmentation(tissue, pen, edge, fold)


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ({}, ("pen", "edge")),
        ({"exclude": "none"}, ()),
        ({"exclude": ("fold,edge", "pen")}, ("pen", "edge", "fold")),
        ({"exclude": "fold"}, ("fold",)),
    ],
)
def test_what_is_excluded(slide, monkeypatch, asked, taken):
    _plug_in(monkeypatch, create=lambda cfg: Seeing())
    mask = detect_tissue(slide, classical(**asked)).mask
    assert TissueConfig(**asked).exclude == taken
    seen = Seeing().segment(np.zeros((500, 700, 3)), 8.0)
    for name in ("pen", "edge", "fold"):
        np.testing.assert_array_equal(getattr(mask, name), getattr(seen, name), name)
        assert (mask.mask & getattr(seen, name)).any() == (name not in taken)
    assert mask.mask[150, 150]
    assert mask.sections == [1], "ink over a section does not cut it in two"


@pytest.mark.parametrize("wrong", ["ink", "none,pen", 3, "", " , ", ("",)])
def test_what_cannot_be_excluded(wrong):
    with pytest.raises(ValueError, match="exclude"):
        TissueConfig(exclude=wrong)


def test_presets_fill_what_is_open():
    cfg = TissueConfig(preset="biopsy", min_tissue_area=2.0)
    assert (cfg.tissue_mpp, cfg.min_tissue_area) == (4.0, 2.0)
    assert cfg.model_fields_set == {"preset", "min_tissue_area"}
    note = cfg.preset_note()
    assert "--tissue-mpp 4" in note
    assert "Set by you: --min-tissue-area 2" in note
    assert TissueConfig().preset_note() is None
    for name, values in PRESETS.items():
        made = TissueConfig(preset=name)
        assert {k: getattr(made, k) for k in values} == values
        spelled = TissueConfig(**values).canonical()
        assert made.canonical() == {**spelled, "preset": name}
    with pytest.raises(ValueError, match="preset"):
        TissueConfig(preset="biopsies")
