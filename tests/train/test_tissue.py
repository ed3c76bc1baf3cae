"""Training of tissue segmenters: it learns, it resumes to the bit, real pairs are read strictly."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from wsiprep.core.errors import ConfigError, ManifestError, WeightsError
from wsiprep.synth.thumbnails import CLASSES
from wsiprep.tissue.network import load_network, read_network
from wsiprep.tissue.segmenters.net import Config as NetConfig
from wsiprep.train.tissue import TissueTraining, train_tissue
from wsiprep.train.tissue.data import Thumbnails, read_pairs, read_textures
from wsiprep.train.tissue.framing import Pieces
from wsiprep.train.tissue.losses import class_bits, masked_loss
from wsiprep.train.tissue.net import NetStudent

pytestmark = pytest.mark.usefixtures("one_thread")


def shipped():
    return NetConfig().network_file()


@pytest.fixture(autouse=True)
def _few_to_validate(monkeypatch):
    monkeypatch.setattr("wsiprep.train.tissue.validate.VALIDATION_COUNT", {"net": 4, "sam": 4})


def config(folder, **own):
    settings = {"steps": 6, "batch_size": 2, "crop_px": 64, "validate_every": 3, "workers": 0,
                "device": "cpu", "leave_out": ("silver",)}  # fmt: skip
    return TissueTraining(output=folder, **{**settings, **own})


# -- data -------------------------------------------------------------------------------------


def test_thumbnail_i_is_always_the_same():
    one, two = (Thumbnails(3, 10, Pieces(64), ["he", "pas"]) for _ in range(2))
    for a, b in zip(one[4], two[4], strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(one[4][0], one[5][0])
    with pytest.raises(IndexError):
        one[10]


def pictures(folder, side=90):
    """A blue thumbnail with a tissue mask of its left half, and ink on a few rows."""
    image = np.full((side, side, 3), 240, np.uint8)
    image[:, : side // 2] = (160, 90, 200)
    tissue = np.zeros((side, side), np.uint8)
    tissue[:, : side // 2] = 255
    pen = np.zeros((side, side), np.uint8)
    pen[10:20] = 255
    for name, array in (("a.png", image), ("t.png", tissue), ("p.png", pen)):
        cv2.imwrite(str(folder / name), array)


def table(folder, *rows):
    path = folder / "pairs.csv"
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, list(dict.fromkeys(k for row in rows for k in row)))
        out.writeheader()
        out.writerows(rows)
    return path


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


def outlined(path, **boxes):
    """Outlines as QuPath exports them: a class, and the columns from and to which it reaches."""
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[a, 0], [b, 0], [b, 90], [a, 90], [a, 0]]],
            },
            "properties": {"classification": {"name": name}},
        }
        for name, (a, b) in boxes.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


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


# -- the loop ---------------------------------------------------------------------------------


def test_it_learns_and_leaves_what_it_says(tmp_path):
    seen = []
    done = train_tissue(config(tmp_path, steps=30, batch_size=4), seen.append)
    rows = list(csv.DictReader((tmp_path / "training.csv").read_text().splitlines()))
    assert float(rows[-1]["loss"]) < 0.97 * float(rows[0]["loss"])
    assert seen[-1].step == seen[-1].steps == 30
    assert seen[-1].scores == done.scores
    assert {"drawn/tissue", "unseen/tissue"} <= set(done.scores)
    _, words = load_network(done.network)
    assert words["settings"]["seed"] == 1
    assert all(picture.stat().st_size > 10_000 for picture in done.pictures)
    assert str(done.network) in done.use


def test_resumed_it_ends_with_the_same_network_to_the_bit(tmp_path):
    whole = train_tissue(config(tmp_path / "a"))

    class Stopped(Exception):
        pass

    def stop(step):
        if step.scores is not None and step.step == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train_tissue(config(tmp_path / "b"), stop)
    again = train_tissue(config(tmp_path / "b", resume=True))
    assert again.network.read_bytes() == whole.network.read_bytes()
    assert again.scores == whole.scores


def test_it_begins_where_another_ended(tmp_path):
    first = train_tissue(config(tmp_path / "a", steps=30, batch_size=4))
    more = train_tissue(config(tmp_path / "b", steps=1, checkpoint=first.network, seed=5))
    from_nothing = train_tissue(config(tmp_path / "c", steps=1, seed=5))
    losses = [
        float(list(csv.DictReader((done.network.parent / "training.csv").read_text().splitlines()))[
            -1]["loss"]) for done in (more, from_nothing)
    ]  # fmt: skip
    assert losses[0] < losses[1]
    (tmp_path / "d").mkdir()
    bad = tmp_path / "d" / "x.safetensors"
    bad.write_bytes(b"no")
    with pytest.raises(WeightsError, match="cannot be used"):
        train_tissue(config(tmp_path / "e", checkpoint=bad))


def test_a_wider_network_answers_as_the_narrow_one_until_it_learns(tmp_path):
    narrow = read_network(shipped())[0].eval()
    more = (3, 0, 5, 1, 8)
    widths = tuple(n + k for n, k in zip(narrow.widths, more, strict=True))
    student = NetStudent(torch.device("cpu"), 64, shipped(), widths)
    pixels = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(student.module.eval()(pixels), narrow(pixels))
    done = train_tissue(config(tmp_path / "a", checkpoint=shipped(), widths=widths, steps=2))
    wide = read_network(done.network)[0]
    assert wide.widths == widths
    heard = [wide.narrow[0].conv.weight[:, narrow.widths[1] :],
             wide.mix[0].conv.weight[: narrow.widths[0], narrow.widths[0] :]]  # fmt: skip
    assert sum(float(part.detach().abs().sum()) for part in heard) > 0
    with pytest.raises(WeightsError, match="cannot be made 8, 24"):
        train_tissue(config(tmp_path / "b", checkpoint=shipped(), widths=(8, 24, 48, 96, 160)))
    with pytest.raises(ValidationError, match="five numbers"):
        config(tmp_path, widths=(8, 16))


def test_resume_asks_for_a_checkpoint_of_the_same_settings(tmp_path):
    with pytest.raises(ConfigError, match="no checkpoint"):
        train_tissue(config(tmp_path, resume=True))
    train_tissue(config(tmp_path))
    with pytest.raises(ConfigError, match="other settings"):
        train_tissue(config(tmp_path, resume=True, seed=2))


def test_stains_that_there_are_not(tmp_path):
    with pytest.raises(ConfigError, match="no stain ink"):
        train_tissue(config(tmp_path, leave_out=("ink",)))
    from wsiprep.synth.thumbnails.stains import STAINS

    with pytest.raises(ConfigError, match="no stain to draw"):
        train_tissue(config(tmp_path, leave_out=tuple(STAINS)))


def test_sam_needs_weights(tmp_path):
    with pytest.raises(ConfigError, match="weights that exist"):
        train_tissue(config(tmp_path, model="sam"))


def test_classes_are_those_of_the_network():
    from wsiprep.tissue import network

    assert network.CLASSES == CLASSES


def test_the_goes_of_the_network_that_ships_are_settings_of_training():
    root = Path(__file__).parents[2]
    goes = yaml.safe_load((root / "examples/train_tissue/net.yaml").read_text())["goes"]
    names = [go["name"] for go in goes]
    assert names[-1] == "shipped"
    for at, go in enumerate(goes):
        for before in (*go.get("mean_of", ()), *([go["from"]] if "from" in go else ())):
            assert before in names[:at]
        if "settings" in go:
            TissueTraining(output="o", **go["settings"])
    shipped = root / "wsiprep/tissue/weights/net.safetensors"
    said = [made["settings"] for made in read_network(shipped)[1]["mean_of"]]
    of = {go["name"]: go.get("settings", {}) for go in goes}
    for settings, name in zip(said, goes[-1]["mean_of"], strict=True):
        assert settings.items() >= of[name].items()
