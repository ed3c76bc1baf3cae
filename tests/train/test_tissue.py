"""What tissue segmenters learn from, and by which loss: real pairs are read strictly."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from tests.train.tissue_pairs import outlined, pictures, table
from wsiprep.core.errors import ManifestError
from wsiprep.synth.thumbnails.labels import CLASSES
from wsiprep.train.tissue.data import Thumbnails, read_pairs, read_textures
from wsiprep.train.tissue.framing import Pieces
from wsiprep.train.tissue.losses import class_bits, masked_loss

pytestmark = pytest.mark.usefixtures("one_thread")

PEN = 1 << CLASSES.index("pen")


# -- data -------------------------------------------------------------------------------------


def test_thumbnail_i_is_always_the_same():
    one, two = (Thumbnails(3, 10, Pieces(64), ["he", "pas"]) for _ in range(2))
    for a, b in zip(one[4], two[4], strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(one[4][0], one[5][0])
    with pytest.raises(IndexError):
        one[10]


def test_what_a_pair_does_not_say_is_unknown(tmp_path):
    pictures(tmp_path)
    rows = [
        {"image": "a.png", "tissue": "t.png", "pen": "p.png", "edge": "none", "split": "train"},
        {"image": "a.png", "pen": "p.png", "split": "val"},
    ]
    both, ink_alone = read_pairs(table(tmp_path, *rows))
    assert both.thumbnail.mask("tissue").mean() == 0.5
    assert both.thumbnail.known_of("edge").all()
    assert not both.thumbnail.mask("edge").any()
    assert not both.thumbnail.known_of("fold").any()
    # Whether there is tissue under ink is not asked for.
    np.testing.assert_array_equal(both.thumbnail.known_of("tissue"), ~both.thumbnail.mask("pen"))
    assert ink_alone.split == "val"
    assert not ink_alone.thumbnail.known_of("tissue").any()


def test_outlines_are_masks_too(tmp_path):
    pictures(tmp_path)
    ring = [[0, 0], [45, 0], [45, 90], [0, 90], [0, 0]]
    shape = {"type": "Polygon", "coordinates": [ring]}
    (tmp_path / "t.geojson").write_text(json.dumps(shape))
    (pair,) = read_pairs(table(tmp_path, {"image": "a.png", "tissue": "t.geojson"}))
    assert pair.thumbnail.mask("tissue")[:, :45].all()
    assert not pair.thumbnail.mask("tissue")[:, 45:].any()


@pytest.mark.parametrize("name", ["tissue", "pen", "edge", "fold"])
def test_outlines_with_classes_are_what_they_say(tmp_path, name):
    pictures(tmp_path)
    classes = {name.title(): (20, 40), "Ignore*": (50, 60)}
    outlined(tmp_path / "q.geojson", **classes)
    (pair,) = read_pairs(table(tmp_path, {"image": "a.png", name: "q.geojson"}))
    found = pair.thumbnail.mask(name)
    assert found[:, 20:40].all()
    assert found.sum() == found[:, 20:40].size


def test_one_file_of_outlines_serves_every_column(tmp_path):
    pictures(tmp_path)
    outlined(tmp_path / "q.geojson", Tissue=(0, 20), Pen=(20, 40), Edge=(40, 60))
    row = dict.fromkeys(("tissue", "pen", "edge"), "q.geojson")
    (pair,) = read_pairs(table(tmp_path, {"image": "a.png", **row}))
    for at, name in enumerate(row):
        found = np.flatnonzero(pair.thumbnail.mask(name)[0])
        assert (found[0], found[-1] + 1) == (20 * at, 20 * at + 20)


def test_a_file_for_every_column_says_what_is_not_there(tmp_path):
    pictures(tmp_path)
    for boxes in ({"Tissue": (0, 20), "Edge": (40, 60)}, {"Tissue": (0, 20)}):
        outlined(tmp_path / "q.geojson", **boxes)
        row = dict.fromkeys(("tissue", "pen"), "q.geojson")
        (pair,) = read_pairs(table(tmp_path, {"image": "a.png", **row, "ignore": "none"}))
        assert pair.thumbnail.mask("tissue")[:, :20].all()
        assert not pair.thumbnail.mask("pen").any()
        assert pair.thumbnail.known_of("pen").all()
        assert pair.thumbnail.known_of("tissue").all()


def test_images_that_mark_nothing_say_that_there_is_none(tmp_path):
    pictures(tmp_path)
    cv2.imwrite(str(tmp_path / "zero.png"), np.zeros((90, 90), np.uint8))
    row = {"image": "a.png", "pen": "zero.png", "ignore": "zero.png"}
    (pair,) = read_pairs(table(tmp_path, row))
    assert pair.thumbnail.known_of("pen").all()
    assert not pair.thumbnail.mask("pen").any()


def test_outlines_of_something_else_are_no_word_that_there_is_none(tmp_path):
    pictures(tmp_path)
    outlined(tmp_path / "p.geojson", Pen=(0, 20))
    with pytest.raises(ManifestError, match=r"line 2.*no tissue"):
        read_pairs(table(tmp_path, {"image": "a.png", "tissue": "p.geojson"}))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"image": "none.png"}, "missing"),
        ({"image": "a.png", "tissue": "none.png"}, "line 2"),
        ({"image": "a.png", "mpp": "fine"}, "no number"),
        ({"image": "a.png", "split": "test"}, "neither train nor val"),
        ({"image": "a.png", "tisue": "t.png"}, "tisue"),
        ({"picture": "a.png"}, "image"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, row, says):
    pictures(tmp_path)
    with pytest.raises(ManifestError, match=says):
        read_pairs(table(tmp_path, row))


def test_real_pairs_come_up_as_often_as_asked(tmp_path):
    pictures(tmp_path)
    pairs = read_pairs(table(tmp_path, {"image": "a.png", "tissue": "t.png"}))
    series = Thumbnails(1, 60, Pieces(64), ["he"], pairs, real_share=0.5)
    known = [bool((series[k][2] & 0b1000).any()) for k in range(60)]  # folds: unknown in pairs
    assert 15 < sum(known) < 45
    assert all(series[k][0].shape == (3, 64, 64) for k in range(20))


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="no pictures"):
        read_textures(tmp_path)
    pictures(tmp_path)
    assert len(read_textures(tmp_path)) == 3


# -- loss -------------------------------------------------------------------------------------


def test_loss_of_certainty_is_nothing_and_of_its_contrary_much():
    label = torch.zeros(1, 8, 8, dtype=torch.uint8)
    label[:, :, :4] = 1
    known = torch.full((1, 8, 8), 15, dtype=torch.uint8)
    target = class_bits(label, 4)[:, :, ::2, ::2]
    sure = (target * 2 - 1) * 60
    right, wrong = (float(masked_loss(x, label, known)) for x in (sure, -sure))
    assert right < 1.5  # but for the border, which is interpolated
    assert wrong > 20


def test_what_is_unknown_costs_nothing():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 8, 8, generator=generator)
    label = torch.randint(0, 16, (2, 16, 16), generator=generator, dtype=torch.uint8)
    known = torch.full((2, 16, 16), 15, dtype=torch.uint8)
    known[:, :, 8:] = 0
    other = label.clone()
    other[:, :, 8:] ^= 15
    left, right = (masked_loss(logits, some, known) for some in (label, other))
    torch.testing.assert_close(left, right)
    assert float(masked_loss(logits, label, torch.zeros_like(known))) == 0


def test_a_thin_core_weighs_as_much_as_a_resection():
    label = torch.zeros((2, 32, 32), dtype=torch.uint8)
    label[0, :, :24], label[1, 4:28, 15] = 15, 15
    known = torch.full_like(label, 15)
    logits = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    alone = [masked_loss(*(x[k : k + 1] for x in (logits, label, known))) for k in (0, 1)]
    torch.testing.assert_close(masked_loss(logits, label, known), torch.stack(alone).mean())


def test_tissue_taken_for_ink_or_an_edge_costs_more_than_ink_beside_it():
    label = torch.zeros((1, 32, 32), dtype=torch.uint8)
    label[:, :, :16] = 1
    known = torch.full_like(label, 15)
    sure = (class_bits(label, 4)[:, :, ::2, ::2] * 2 - 1) * 4

    def wrong(taken_for, columns):
        logits = sure.clone()
        logits[:, taken_for, :, columns] = 4
        return float(masked_loss(logits, label, known))

    for taken_for in (1, 2):
        assert wrong(taken_for, slice(2, 6)) > wrong(taken_for, slice(10, 14)) + 0.02


def test_bits_are_planes():
    planes = class_bits(torch.tensor([[[0b0101]]], dtype=torch.uint8), 4)
    assert planes[0, :, 0, 0].tolist() == [1, 0, 1, 0]


def test_areas_classified_to_be_ignored_are_not_learnt(tmp_path):
    pictures(tmp_path)
    outlined(tmp_path / "both.geojson", **{"Tissue": (0, 60), "Ignore*": (20, 40)})
    outlined(tmp_path / "only.geojson", **{"Ignore*": (20, 40)})
    outlined(tmp_path / "other.geojson", Dirt=(20, 40))
    outlined(tmp_path / "tissue.geojson", Tissue=(0, 60))
    for row in (
        {"tissue": "both.geojson"},
        {"tissue": "both.geojson", "ignore": "both.geojson"},
        {"tissue": "tissue.geojson", "ignore": "only.geojson"},
        {"tissue": "tissue.geojson", "ignore": "other.geojson"},
    ):
        (pair,) = read_pairs(table(tmp_path, {"image": "a.png", **row}))
        known, label = pair.thumbnail.known & 1, pair.thumbnail.label & 1
        assert not known[:, 20:40].any(), row
        assert known[:, np.r_[:20, 40:90]].all(), row
        assert label[:, np.r_[:20, 40:60]].all(), row
        assert not label[:, 60:].any(), row
    row = {"image": "a.png", "tissue": "tissue.geojson", "ignore": "tissue.geojson"}
    with pytest.raises(ManifestError, match="nothing to ignore"):
        read_pairs(table(tmp_path, row))


def test_thumbnails_without_ink_are_given_some_when_asked():
    usual, some, always = (
        Thumbnails(4, 24, Pieces(64), ["he"], more_ink=chance) for chance in (0.0, 0.5, 1.0)
    )

    def inked(series):
        return {k for k in range(len(series)) if (series[k][1] & PEN).any()}

    assert inked(usual) < inked(some) < inked(always)
    for k in inked(usual):  # they stay as they are
        assert all(map(torch.equal, usual[k], always[k]))
