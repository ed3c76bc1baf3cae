"""The heat map is where the scores are, and reads as they order."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fakes import make_info
from wsiprep.core.types import Size, TissueMask
from wsiprep.views.heat_map import draw_heat_map, shown_share, tissue_silhouette

SIZE0 = Size(8000, 4000)


def boxes_of(cells):
    low = np.asarray(cells, float)[:, ::-1] * 500
    return np.concatenate([low, low + 500], axis=1)


CELLS = np.argwhere(np.ones((8, 16), bool))


def drawn(scores, **values):
    grey = np.full((400, 800, 3), 200, np.uint8)
    return draw_heat_map(grey, boxes_of(CELLS), scores, SIZE0, text="tumour", **values)


def test_share_is_between_the_quantiles():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(1000).astype(np.float32)
    share = shown_share(scores)
    assert share.min() == 0
    assert share.max() == 1
    order = np.argsort(scores)
    assert (np.diff(share[order]) >= 0).all()
    assert (shown_share(np.full(5, 3.0, np.float32)) == 0).all()
    needle = np.zeros(1000, np.float32)
    needle[7] = 1
    assert shown_share(needle).tolist() == needle.tolist()
    assert shown_share(np.zeros(0, np.float32)).shape == (0,)


def test_what_scores_high_is_bright_and_where_it_belongs():
    scores = np.zeros(len(CELLS), np.float32)
    hot = (CELLS == (2, 5)).all(axis=1)
    scores[hot] = 5
    picture = drawn(scores)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 800
    assert picture.shape[0] > 400
    inside = picture[100:150, 250:300].astype(int)
    outside = picture[:400].astype(int).copy()
    outside[100:150, 250:300] = 0
    # Yellow: much red and green, little blue; the rest is a violet veil over grey.
    assert (inside[..., 0] - inside[..., 2]).min() > 60
    assert (outside[..., 0] - outside[..., 2]).max() < 20
    marked = drawn(scores, marked=hot)
    assert (marked[:400] != picture[:400]).any(axis=2)[95:155, 245:305].any()
    changed = np.argwhere((marked[:400] != picture[:400]).any(axis=2))
    assert (changed >= (97, 247)).all()
    assert (changed <= (152, 302)).all()


def test_glass_keeps_its_colour_but_for_grey():
    thumbnail = np.full((400, 800, 3), (250, 240, 245), np.uint8)
    few = boxes_of([[0, 0]])
    picture = draw_heat_map(thumbnail, few, np.ones(1, np.float32), SIZE0, text="x")
    assert np.ptp(picture[300:400].astype(int), axis=(0, 1)).max() == 0
    assert picture[399, 799].mean() == pytest.approx(thumbnail[0, 0].mean(), abs=1)


def test_edges_many_patches_and_none():
    beyond = np.array([[7900.0, 3900, 8400, 4400], [-10, -10, 5, 5]])
    picture = draw_heat_map(
        np.full((400, 800, 3), 255, np.uint8), beyond, np.array([1, 0], np.float32), SIZE0,
        text="größer als µ", slide_id="s", method="cosine", slide_mpp=0.5,
        marked=np.array([True, False]),
    )  # fmt: skip
    assert (picture[395, 795] != 255).any()
    tiny = np.random.default_rng(1).uniform(0, 3990, (5000, 2))
    boxes = np.concatenate([tiny, tiny + 2], axis=1)
    draw_heat_map(np.full((40, 80, 3), 255, np.uint8), boxes, np.arange(5000, dtype=np.float32),
                  SIZE0, text="t")  # fmt: skip
    nothing = draw_heat_map(np.full((400, 800, 3), 255, np.uint8), np.zeros((0, 4)),
                            np.zeros(0, np.float32), SIZE0, text="t")  # fmt: skip
    assert (nothing[:400] == 255).all()
    with pytest.raises(ValueError, match="finite"):
        drawn(np.full(len(CELLS), np.nan, np.float32))
    with pytest.raises(ValueError, match="boxes for"):
        drawn(np.zeros(3, np.float32))


def test_silhouette():
    info = make_info(size0=(4000, 2000))
    mask = np.zeros((20, 40), bool)
    mask[5:10, 10:30] = True
    tissue = TissueMask(mask, np.zeros_like(mask), 50.0, info.size0, "t")
    picture = tissue_silhouette(tissue, 400)
    assert picture.shape == (200, 400, 3)
    assert (picture[0, 0] == 255).all()
    assert (picture[75, 200] < 220).all()
