import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.core.types import CHUNK_CELLS
from wsiprep.models.bags import Bag, pack
from wsiprep.synth.planted import BACKGROUND, FINDINGS, PlantedWorld, swap_captions


def test_the_same_world_gives_the_same_slides():
    one, two = PlantedWorld(seed=3).train(5)[4], PlantedWorld(seed=3).train(9)[4]
    assert one.caption == two.caption
    assert np.array_equal(one.features, two.features)
    assert not np.array_equal(one.features, PlantedWorld(seed=4).train(5)[4].features)


def test_held_out_combinations_are_in_no_training_slide():
    world = PlantedWorld()
    held_out, trained = world.held_out_combinations, world.train_combinations
    assert len(held_out) == len(set(held_out)) == 64
    assert len(held_out) + len(trained) == 28 + 56 + 70
    assert not set(held_out) & set(trained)
    assert {f for c in trained for f in c} == set(range(len(FINDINGS)))
    assert {s.findings for s in world.train(200)} == set(trained)
    assert [s.findings for s in world.test()] == list(held_out)
    assert not {s.id for s in world.train(5)} & {s.id for s in world.test(5)}


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    side=st.sampled_from([32, 48]),
    blob=st.integers(1, CHUNK_CELLS),
    share=st.floats(0, 0.5),
)
def test_findings_lie_whole_in_their_regions_and_nowhere_else(seed, side, blob, share):
    world = PlantedWorld(seed=seed, side_cells=side, blob_cells=blob, hole_share=share)
    slide = world.test(1)[0]
    assert set(slide.truth[slide.truth != BACKGROUND]) == set(slide.findings)
    assert len(set(slide.regions)) == len(slide.findings)
    for finding, region in zip(slide.findings, slide.regions, strict=True):
        cells = slide.cell[slide.truth == finding]
        assert len(cells) == blob**2
        assert (cells // CHUNK_CELLS == region).all()
        assert (np.ptp(cells, axis=0) == blob - 1).all()


def test_the_patches_are_a_bag_of_the_store():
    slide = PlantedWorld().train(1)[0]
    bag = Bag(
        torch.from_numpy(slide.features),
        torch.from_numpy(slide.cell),
        torch.zeros(len(slide.cell), dtype=torch.int64),
    )
    packed = pack([bag])  # refuses any other order
    assert len(packed.region_bag) == 4
    assert 600 < len(bag) < 32 * 32
    assert slide.features.dtype == np.float32


def test_features_are_noise_and_the_vectors_of_findings():
    world = PlantedWorld()
    vectors = world.vectors
    assert np.allclose(vectors @ vectors.T, np.eye(len(FINDINGS)), atol=1e-5)
    slides = world.train(40)
    features = np.concatenate([s.features for s in slides])
    truth = np.concatenate([s.truth for s in slides])
    background = features[truth == BACKGROUND]
    assert background.std() == pytest.approx(0.3, abs=0.005)
    assert np.abs(background.mean(axis=0)).max() < 0.01
    for finding, vector in enumerate(vectors):
        assert np.allclose(features[truth == finding].mean(axis=0), vector, atol=0.06)


def test_the_caption_names_what_is_there_and_nothing_that_is_not():
    world = PlantedWorld()
    captions = [s.caption for s in world.train(90)]
    for slide in world.train(90):
        named = {i for i, name in enumerate(FINDINGS) if name in slide.caption.lower()}
        assert named == set(slide.findings)
        assert all(sentence in slide.caption for sentence in slide.sub_captions)
        for finding, said in zip(slide.findings, slide.sub_captions, strict=True):
            assert said in PlantedWorld.prompts(finding)
    assert any(c.count(".") > 4 for c in captions), "there are distractors"
    first = {c.split(".")[0] for c in captions}
    assert len(first) > 30, "sentences come in any order"


def test_swapped_captions_are_the_same_captions_of_other_slides():
    slides = PlantedWorld().train(90)
    swapped = swap_captions(slides)
    assert sorted(s.caption for s in swapped) == sorted(s.caption for s in slides)
    assert sum(a.caption == b.caption for a, b in zip(slides, swapped, strict=True)) < 6
    assert all(a.features is b.features for a, b in zip(slides, swapped, strict=True))


def test_a_needle_is_one_patch_among_two_thousand():
    world = PlantedWorld(side_cells=48, blob_cells=1, counts=(1,), held_out=0)
    slides = world.test(8)
    assert {s.findings for s in slides} == {(i,) for i in range(8)}
    for slide in slides:
        assert (slide.truth != BACKGROUND).sum() == 1
        assert 1500 < len(slide.features) < 48 * 48
    with pytest.raises(ValueError, match="say how many"):
        world.test()


def test_one_who_knows_the_vectors_can_tell_held_out_combinations():
    # What is asked of models must be possible, with room to spare.
    world = PlantedWorld()
    right = 0
    for slide in world.test():
        along = np.sort(slide.features @ world.vectors.T, axis=0)[-20:].mean(axis=0)
        found = np.argsort(along)[::-1][: len(slide.findings)]
        right += set(found) == set(slide.findings)
    assert right >= 63


@pytest.mark.parametrize(
    "fields",
    [
        {"dim": 7},
        {"side_cells": 20},
        {"blob_cells": 17},
        {"counts": (5,)},
        {"counts": ()},
        {"held_out": 154},
        {"hole_share": 0.95},
    ],
)
def test_worlds_that_cannot_be_are_refused(fields):
    with pytest.raises(ValueError, match=r"findings|side|holes|combinations"):
        PlantedWorld(**fields)
