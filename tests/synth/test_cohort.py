from dataclasses import replace

import numpy as np
import pytest

from wsiprep.core.types import Box, Size
from wsiprep.synth.captions import NAMES, prompts
from wsiprep.synth.cohort import Cohort, CohortSlide
from wsiprep.synth.composition import GLASS, KINDS, compose

SMALL = Cohort(trained=6, tested=4, size=Size(1024, 1024), mpp=2.0)
SIDE_UM = 2048


def made(main, *lesser, seed=5):
    return CohortSlide("s", seed, main, lesser, SMALL.size, SMALL.mpp)


def test_test_slides_have_combinations_that_no_training_slide_has():
    cohort = Cohort(trained=200, tested=40)
    trained = {slide.kinds for slide in cohort.train}
    tested = {slide.kinds for slide in cohort.test}
    assert len(tested) == 40
    assert len(trained) == 96 - 40
    assert not trained & tested
    assert {kinds[0] for kinds in trained} == set(KINDS)
    seeds = [slide.seed for slide in (*cohort.train, *cohort.test)]
    assert len(set(seeds)) == 240


@pytest.mark.parametrize("fields", [{"tested": 49}, {"tested": 0}, {"trained": 0}])
def test_cohorts_that_cannot_be_are_refused(fields):
    with pytest.raises(ValueError, match="train on"):
        Cohort(**fields)


@pytest.mark.parametrize("main", KINDS)
def test_the_main_kind_fills_half_and_others_an_area_each(main):
    others = [kind for kind in KINDS if kind != main][:2]
    slide = made(main, *others, seed=KINDS.index(main))
    shares = slide.shares
    assert 0.42 < shares[main] < 0.56
    for kind in KINDS:
        if kind in others:
            assert 0.12 < shares[kind] < 0.18
        elif kind != main:
            assert shares[kind] == 0


@pytest.mark.parametrize("lesser", [("solid",), ("blood", "blood"), KINDS[:4]])
def test_kinds_that_contradict_each_other_are_refused(lesser):
    with pytest.raises(ValueError, match="all different"):
        compose(1, SMALL.size, 2.0, "solid", lesser)


def test_what_covers_a_patch_is_the_raster_under_it():
    slide = made("lymphoid", "adipose", "tubular")
    plan = compose(slide.seed, slide.size, slide.mpp, slide.main, slide.lesser)
    cell_px = 2 * plan.layout.step
    assert plan.kind.shape == (1024 // cell_px, 1024 // cell_px)
    origin = np.array([[0, 0], [256, 512], [512, 256], [960, 960]])
    cover = slide.cover(origin, 64)
    cells = 64 // cell_px
    for (x, y), found in zip(origin // cell_px, cover, strict=True):
        under = plan.kind[y : y + cells, x : x + cells]
        expected = [(under == kind).mean() for kind in range(len(KINDS))]
        assert found == pytest.approx(expected)
    every = np.stack(np.meshgrid(np.arange(0, 1024, 64), np.arange(0, 1024, 64)), -1).reshape(-1, 2)
    whole = slide.cover(every, 64).mean(axis=0)
    tissue = (plan.kind != GLASS).mean()
    for kind, share in slide.shares.items():
        assert whole[KINDS.index(kind)] == pytest.approx(share * tissue, abs=1e-6)
    assert slide.cover(np.array([[-32, -32]]), 64).sum() == 0  # beyond the corner there is glass


def test_pixels_do_not_depend_on_how_the_slide_is_cut():
    slide = made("cystic", "blood")
    whole = slide.render(Box(300, 300, 400, 400))
    part = slide.render(Box(420, 380, 50, 60))
    assert np.array_equal(part, whole[80:140, 120:170])
    assert whole.std() > 15
    other = replace(slide, seed=6).render(Box(300, 300, 400, 400))
    assert not np.array_equal(whole, other)


def test_each_kind_looks_as_it_should():
    # Adipose tissue and cysts are mostly light; lymphocytes, nests and blood are dark; of these
    # blood is red, and the others violet.
    colour = {}
    for kind in KINDS:
        slide = made(kind, seed=3)
        pixels = slide.render(Box(0, 0, 1024, 1024))
        plan = compose(3, slide.size, slide.mpp, kind, ())
        scale = 1024 // plan.kind.shape[0]
        inside = np.kron(plan.kind == KINDS.index(kind), np.ones((scale, scale), bool))
        colour[kind] = pixels[inside].mean(axis=0)
    light = {kind: value.mean() for kind, value in colour.items()}
    assert light["adipose"] > max(light[kind] for kind in ("tubular", "lymphoid", "solid", "blood"))
    assert light["cystic"] > light["tubular"]
    assert min(light["lymphoid"], light["solid"]) < light["tubular"]
    redness = {kind: value[0] - value[2] for kind, value in colour.items()}
    assert redness["blood"] == max(redness.values())


def test_texts_say_what_is_there():
    names = {kind: NAMES[kind].lower() for kind in KINDS}
    captions = set()
    for slide in Cohort().train:
        said = slide.caption.lower()
        assert {kind for kind in KINDS if names[kind] in said} == set(slide.kinds)
        sentences = said.split(".")
        mainly = [s for s in sentences if "most of" in s or "largely" in s or "predominantly" in s]
        assert len(mainly) == 1
        assert names[slide.main] in mainly[0]
        assert [s.lower().rstrip(".") for s in slide.sub_captions] == [
            names[k] for k in slide.kinds
        ]
        assert slide.caption == replace(slide).caption
        captions.add(slide.caption)
    assert len(captions) > 60
    wordings = {slide.wording(n) for n in range(8)}
    assert len(wordings) > 4
    assert all(NAMES["solid"] in text.lower() for text in prompts("solid"))


def test_questions_are_answered_by_what_is_there():
    answers = []
    for slide in (*Cohort().train, *Cohort().test):
        there = {NAMES[kind] for kind in slide.kinds}
        main, lesser, *presence = slide.questions
        assert main.answer == NAMES[slide.main]
        named = {name for name in NAMES.values() if name in lesser.answer}
        assert named == there - {main.answer}
        assert len({asked.text for asked in presence}) == 2 * len(there)
        for asked in presence:
            assert asked.task == "presence"
            name = next(name for name in NAMES.values() if name in asked.text)
            assert asked.answer == ("yes" if name in there else "no")
            answers.append(asked.answer)
    assert answers.count("yes") == answers.count("no")


def test_a_slide_is_written_as_a_pyramid(tmp_path):
    import tifffile

    slide = made("blood")
    slide.write(tmp_path / "s.tiff")
    with tifffile.TiffFile(tmp_path / "s.tiff") as tiff:
        assert tiff.pages[0].shape == (1024, 1024, 3)
        assert "MPP = 2" in tiff.pages[0].description
        assert "AppMag = 5" in tiff.pages[0].description
