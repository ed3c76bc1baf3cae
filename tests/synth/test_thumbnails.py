"""Drawn thumbnails: the same from the same seed, labels that tell the truth, variety."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.synth.thumbnails import CLASSES, Scene, draw_scene, sample_scene
from wsiprep.synth.thumbnails.ink import INKS, ink_density
from wsiprep.synth.thumbnails.layouts import LAYOUTS
from wsiprep.synth.thumbnails.noise import field, grains, web
from wsiprep.synth.thumbnails.stains import HELD_OUT, STAINS

PLAIN = Scene(
    seed=5, mpp=8.0, layout="resection", stain="he", share=0.3, softness_px=1.0, strength=1.0,
    patchiness=0.3, colourfulness=1.0, fat=0.0, holes=0.0, real=0.0, inks=0, edges=0, bubbles=0,
    dust=0, folds=0, border=False,
)  # fmt: skip


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**40), st.sampled_from([(96, 128), (128, 96), (97, 131)]))
def test_any_seed_gives_a_thumbnail(seed, shape):
    scene = sample_scene(seed)
    made = draw_scene(scene, shape)
    assert made.pixels.shape == (*shape, 3)
    assert made.pixels.dtype == made.label.dtype == made.known.dtype == np.uint8
    assert made.label.shape == made.known.shape == shape
    assert not (made.label >> len(CLASSES)).any()
    assert not (made.mask("fold") & ~made.mask("tissue")).any()
    assert made.mpp == scene.mpp


def test_the_same_scene_gives_the_same_thumbnail():
    scene = sample_scene(11)
    one, two = draw_scene(scene, (128, 128)), draw_scene(scene, (128, 128))
    np.testing.assert_array_equal(one.pixels, two.pixels)
    np.testing.assert_array_equal(one.label, two.label)
    np.testing.assert_array_equal(one.known, two.known)
    other = draw_scene(replace(scene, seed=12), (128, 128))
    assert (other.pixels != one.pixels).any()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_layouts_cover_about_what_is_asked_for(layout):
    shares = [
        draw_scene(replace(PLAIN, layout=layout, seed=s), (256, 256)).mask("tissue").mean()
        for s in range(8)
    ]
    if layout == "empty":
        assert max(shares) == 0
    elif layout == "filled":
        assert 0.4 < np.mean(shares) < 0.9
    else:
        assert 0.05 < np.mean(shares) < 0.5


@pytest.mark.parametrize("stain", sorted(STAINS))
def test_tissue_absorbs_and_glass_does_not(stain):
    made = draw_scene(replace(PLAIN, stain=stain), (256, 256))
    tissue = made.mask("tissue") & made.known_of("tissue")
    glass = ~made.mask("tissue") & made.known_of("tissue")
    strongest = made.pixels.min(axis=2)
    assert np.median(strongest[tissue]) < np.median(strongest[glass]) - 8


def test_pale_stain_is_paler():
    light = [
        draw_scene(replace(PLAIN, strength=s), (256, 256)).pixels[..., 1].mean()
        for s in (0.2, 1.0, 2.0)
    ]
    assert light[0] > light[1] > light[2]


def test_ink_is_labelled_where_it_absorbs_and_hides_tissue():
    clean = draw_scene(PLAIN, (256, 256))
    inked = [draw_scene(replace(PLAIN, inks=2, seed=s), (256, 256)) for s in range(6)]
    assert not clean.mask("pen").any()
    assert sum(made.mask("pen").any() for made in inked) >= 5
    hidden = [made.known_of("tissue")[made.mask("pen")].mean() for made in inked
              if made.mask("pen").any()]  # fmt: skip
    assert np.mean(hidden) < 0.5
    assert all(made.known_of("pen").all() for made in inked)


@pytest.mark.parametrize("ink", sorted(INKS))
def test_every_ink_is_dark_in_some_colour(ink):
    assert max(INKS[ink]) > 0.7


@pytest.mark.parametrize(("name", "number"), [("edges", 2), ("bubbles", 2), ("dust", 30)])
def test_marks_are_labelled_as_edges(name, number):
    made = draw_scene(replace(PLAIN, **{name: number}), (256, 256))
    assert 0.0005 < made.mask("edge").mean() < 0.4


def test_folds_lie_on_tissue_and_are_darker():
    made = [draw_scene(replace(PLAIN, folds=4, seed=s, share=0.6), (256, 256)) for s in range(5)]
    found = [m for m in made if m.mask("fold").any()]
    assert found
    for m in found:
        plain = m.mask("tissue") & ~m.mask("fold")
        assert m.pixels[m.mask("fold")].mean() < m.pixels[plain].mean()


def test_real_colours_are_used_where_the_scene_asks_for_them():
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[...] = (40, 200, 40)  # a green that no stain has
    made = draw_scene(replace(PLAIN, real=1.0), (256, 256), [photo])
    green = made.pixels[..., 1].astype(int) - made.pixels[..., 0] > 40
    assert green[made.mask("tissue")].mean() > 0.5
    without = draw_scene(PLAIN, (256, 256), [photo])
    assert np.array_equal(without.pixels, draw_scene(PLAIN, (256, 256)).pixels)


def test_seeds_span_what_laboratories_send():
    scenes = [sample_scene(s) for s in range(400)]
    assert {s.layout for s in scenes} == set(LAYOUTS)
    assert {s.stain for s in scenes} == set(STAINS)
    assert min(s.share for s in scenes) < 0.05
    assert max(s.share for s in scenes) > 0.7
    assert min(s.strength for s in scenes) < 0.5
    assert max(s.strength for s in scenes) > 1.5
    assert min(s.softness_px for s in scenes) < 1 < max(s.softness_px for s in scenes)
    for name in ("inks", "edges", "bubbles", "dust", "folds", "border", "fat", "holes", "real"):
        assert 0.02 < np.mean([bool(getattr(s, name)) for s in scenes]) < 0.9


def test_stains_that_are_held_out_are_not_drawn_for_training():
    seen = [name for name in STAINS if name not in HELD_OUT]
    assert set(HELD_OUT) < set(STAINS)
    assert {sample_scene(s, seen).stain for s in range(300)} == set(seen)


def test_a_scene_names_what_there_is():
    with pytest.raises(ValueError, match="no layout"):
        replace(PLAIN, layout="nowhere")


@pytest.mark.parametrize("wave", [1.5, 4.0, 30.0, 120.0])
def test_noise_has_about_unit_variance(wave):
    rng = np.random.default_rng(3)
    made = np.stack([field(rng, (256, 256), wave, kind=k) for k in (0, 1, 2, 3) for _ in range(3)])
    assert 0.6 < made.std() < 1.4


def test_cells_of_a_web_have_their_size():
    middle, own = web(np.random.default_rng(4), (200, 200), 20.0)
    assert middle.min() == 0
    assert 0.6 < middle.max() < 2.0
    assert 60 < len(np.unique(own)) < 220


def test_grains_are_noise():
    assert 0.8 < grains(np.random.default_rng(1), (200, 200), 2.0).std() < 1.2


def test_where_all_is_ink_or_tissue_nothing_overflows():
    rng = np.random.default_rng(0)
    for _ in range(30):
        density, cover = ink_density(rng, (64, 64), np.ones((64, 64), np.float32), 64.0)
        assert np.isfinite(density).all()
        assert 0 <= cover.min() <= cover.max() < 1.001
