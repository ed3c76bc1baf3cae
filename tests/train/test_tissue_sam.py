"""Segment Anything, tuned from end to end: the real modules at a tiny size, on whole thumbnails."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from segment_anything import sam_model_registry

from tests.tissue.tiny_sam import SIDE, tiny_sam
from wsiprep.core.errors import DeviceError, ManifestError
from wsiprep.synth.thumbnails.labels import Thumbnail
from wsiprep.tissue.sam_frame import fit_to_frame
from wsiprep.tissue.segmenters import sam as segmenter
from wsiprep.train.tissue import TissueTraining, train_tissue
from wsiprep.train.tissue.data import Pair, Thumbnails
from wsiprep.train.tissue.framing import Wholes
from wsiprep.train.tissue.sam import SamStudent

pytestmark = pytest.mark.usefixtures("one_thread")

TISSUE, ALL = 1, 0b1111
SHAPES = {
    "train": ((96, 128), (128, 50), (70, 64), (260, 150), (60, 128), (100, 110)),
    "val": ((110, 80), (64, 128)),
}
"""(h, w) of planted thumbnails: upright and lying, smaller and larger than the frame."""


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    count = {"net": 2, "sam": 2}
    monkeypatch.setattr("wsiprep.train.tissue.validate.VALIDATION_COUNT", count)
    monkeypatch.setitem(sam_model_registry, "vit_b", tiny_sam)
    segmenter._network.cache_clear()
    yield
    segmenter._network.cache_clear()


@pytest.fixture
def base(tmp_path):
    """Weights to begin with."""
    path = tmp_path / "base.safetensors"
    save_file(tiny_sam().state_dict(), path)
    return path


def config(folder, base, **own):
    settings = {"model": "sam", "checkpoint": base, "steps": 4, "batch_size": 2, "workers": 0,
                "validate_every": 2, "learning_rate": 3e-3, "device": "cpu",
                "leave_out": ("silver",)}  # fmt: skip
    return TissueTraining(output=folder, **{**settings, **own})


def planted(h, w, seed):
    """A purple ellipse on noisy glass, and where it is."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((h, w), np.uint8)
    centre = (int(w * rng.uniform(0.3, 0.7)), int(h * rng.uniform(0.3, 0.7)))
    axes = (int(w * rng.uniform(0.15, 0.3)), int(h * rng.uniform(0.15, 0.3)))
    cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    image = np.where(mask[..., None] > 0, (170, 90, 160), (240, 238, 242))
    return np.clip(image + rng.normal(0, 4, (h, w, 3)), 0, 255).astype(np.uint8), mask > 0


def planted_table(folder):
    """A CSV of planted pairs; one row more knows pen alone."""
    folder.mkdir()
    rows = []
    for split, shapes in SHAPES.items():
        for number, shape in enumerate(shapes):
            name = f"{split}{number}.png"
            image, mask = planted(*shape, seed=number + 100 * (split == "val"))
            cv2.imwrite(str(folder / name), image[..., ::-1])
            cv2.imwrite(str(folder / f"mask_{name}"), mask.astype(np.uint8) * 255)
            rows.append({"image": name, "tissue": f"mask_{name}", "pen": "", "split": split})
    rows.append({"image": "train0.png", "tissue": "", "pen": "none", "split": "train"})
    path = folder / "pairs.csv"
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


def as_printed(use):
    """The segmenter that the printed flags make."""
    words = use.split()
    assert words[:2] == ["--segmenter", "sam"]
    assert set(words[2::2]) == {"--segmenter-option"}
    options = dict(option.split("=", 1) for option in words[3::2])
    return segmenter.create(segmenter.Config(**options, device="cpu"))


@pytest.fixture
def said(monkeypatch):
    """What the network in training said last of each thumbnail, by its bytes."""
    own, answers = SamStudent.masks, {}

    def masks(self, pixels):
        found = own(self, pixels)
        answers[np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()).tobytes()] = found[0].numpy()
        return found

    monkeypatch.setattr(SamStudent, "masks", masks)
    return answers


# -- what it is shown ---------------------------------------------------------------------------


def test_scenes_are_drawn_as_whole_thumbnails_of_many_shapes():
    series = Thumbnails(5, 60, Wholes(256), ["he"])
    shapes = np.array([series[k][1].shape for k in range(60)])
    longer, shorter = shapes.max(1), shapes.min(1)
    assert 15 < (longer == 256).sum() < 45
    assert longer.max() == 256
    assert 0.4 * 256 - 1 < longer.min() < 150
    ratio = shorter / longer
    assert ratio.min() < 0.5
    assert ratio.max() > 0.9
    assert shorter.min() >= 64
    assert (shapes[:, 0] > shapes[:, 1]).any()
    assert (shapes[:, 0] < shapes[:, 1]).any()
    for pixels, label, known in (series[k] for k in range(5)):
        assert pixels.shape[1:] == label.shape == known.shape


def test_real_thumbnails_are_shown_whole_in_other_light():
    image, mask = planted(90, 60, 1)
    label = mask.astype(np.uint8)
    pair = Pair("a", Thumbnail(image, label, np.full_like(label, ALL), 8.0), "train")
    series = Thumbnails(2, 30, Wholes(128), ["he"], [pair], real_share=1.0)
    ways = [np.rot90(flipped, k) for flipped in (label, label[:, ::-1]) for k in range(4)]
    met = set()
    for pixels, seen, known in (series[k] for k in range(30)):
        (way,) = [k for k, turned in enumerate(ways) if np.array_equal(turned, seen.numpy())]
        met.add(way)
        assert (known == ALL).all()
        tissue = pixels.float()[:, seen == 1].mean()
        assert tissue < pixels.float()[:, seen == 0].mean() - 30
    assert len(met) == 8
    assert not torch.equal(series[0][0].float().mean((1, 2)), series[1][0].float().mean((1, 2)))


def test_what_is_too_large_is_shrunk_as_the_segmenter_shrinks_it():
    image, mask = planted(400, 200, 3)
    known = np.full((400, 200), ALL, np.uint8)
    known[:100] = ALL ^ TISSUE
    made = Wholes(128).validated(Thumbnail(image, mask.astype(np.uint8), known, 4.0))
    np.testing.assert_array_equal(made.pixels, fit_to_frame(image, 128))
    assert made.label.shape == made.known.shape == (128, 64)
    share = fit_to_frame(mask.astype(np.uint8) * np.uint8(255), 128) / 255
    np.testing.assert_array_equal(made.label, share > 0.5)
    assert (made.known[:32] == ALL ^ TISSUE).all()
    assert (made.known[32:] == ALL).all()
    assert made.mpp == 4.0 * 400 / 128


# -- what is taken where nothing is said ----------------------------------------------------------


def test_each_model_has_defaults_of_its_own(tmp_path):
    net, sam = (TissueTraining(output=tmp_path, model=model) for model in ("net", "sam"))
    assert (net.peak_rate, net.thumbnails_a_step, net.share_of_real) == (3e-3, 16, 0.1)
    assert (sam.peak_rate, sam.thumbnails_a_step, sam.share_of_real) == (1e-4, 4, 1.0)
    own = TissueTraining(output=tmp_path, model="sam", real_share=0, batch_size=5)
    assert (own.thumbnails_a_step, own.share_of_real) == (5, 0)
    for cfg in (net, sam, own):
        kept = cfg.canonical()
        assert kept["learning_rate"] == cfg.peak_rate
        assert kept["batch_size"] == cfg.thumbnails_a_step
        assert kept["real_share"] == cfg.share_of_real
    said = TissueTraining.model_fields["real_share"].description
    assert "0.1 for net and 1 for sam" in said


# -- from end to end ------------------------------------------------------------------------------


def test_it_learns_real_pairs_and_what_is_kept_says_what_it_said(tmp_path, base, said):
    table = planted_table(tmp_path / "real")
    cfg = config(tmp_path / "out", base, data=table, steps=80, validate_every=10, batch_size=3,
                 learning_rate=1e-2)  # fmt: skip
    done = train_tissue(cfg)

    rows = list(csv.DictReader((tmp_path / "out" / "training.csv").read_text().splitlines()))
    first, last = rows[0], rows[-1]
    assert float(last["loss"]) < 0.6 * float(first["loss"])
    assert done.scores["real/tissue"] > max(0.75, float(first["real/tissue"]) + 0.3)
    assert set(done.scores) == {"drawn/tissue", "unseen/tissue", "real/tissue"}

    before, after = load_file(base), load_file(done.network)
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"image_encoder.blocks.0.norm1.weight", "mask_decoder.mask_tokens.weight"} <= changed
    assert not [n for n in changed if ".attn." in n or "patch_embed" in n or "prompt" in n]
    with safe_open(done.network, framework="pt") as file:
        facts = json.loads(file.metadata()["wsiprep"])
    # All real, and of the rows those that say where tissue is.
    assert facts["settings"]["real_share"] == 1
    assert facts["pairs"] == [f"train{k}.png" for k in range(len(SHAPES["train"]))]

    use = as_printed(done.use)
    both = either = 0
    for number, shape in enumerate(SHAPES["val"]):
        image, mask = planted(*shape, seed=number + 100)
        found = use.segment(image, 8.0)
        assert not any("classical segmenter." in note for note in found.notes)
        np.testing.assert_array_equal(found.tissue, said[image.tobytes()])
        both += (found.tissue & mask).sum()
        either += (found.tissue | mask).sum()
    assert both / either == pytest.approx(done.scores["real/tissue"], abs=1e-4)


def test_only_drawn_thumbnails_are_not_taken_for_real_ones(tmp_path, base):
    listed = planted_table(tmp_path / "real")
    rows = listed.read_text().splitlines()
    listed.write_text("\n".join([rows[0], rows[-1]]) + "\n")  # pen alone
    with pytest.raises(ManifestError, match="mask of tissue, and only real"):
        train_tissue(config(tmp_path / "a", base, data=listed))
    notes = []
    train_tissue(config(tmp_path / "b", base, data=listed, real_share=0.5), on_note=notes.append)
    assert len(notes) == 1


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_resumed_it_ends_with_the_same_weights_to_the_bit(tmp_path, base, lora_rank):
    if lora_rank:
        pytest.importorskip("peft", reason="the peft package is not installed")
    own = {"data": planted_table(tmp_path / "real"), "real_share": 0.5, "lora_rank": lora_rank}
    whole = train_tissue(config(tmp_path / "a", base, **own))

    class Stopped(Exception):
        pass

    def stop(step):
        if step.step == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train_tissue(config(tmp_path / "b", base, **own), stop)
    again = train_tissue(config(tmp_path / "b", base, **own, resume=True))
    assert again.network.read_bytes() == whole.network.read_bytes()
    assert again.scores == whole.scores


def test_lora_is_merged_into_a_file_that_says_the_same(tmp_path, base, said):
    pytest.importorskip("peft", reason="the peft package is not installed")
    table = planted_table(tmp_path / "real")
    own = {"data": table, "lora_rank": 2, "learning_rate": 1e-2}
    done = train_tissue(config(tmp_path / "out", base, **own, steps=60, validate_every=60))
    before, after = load_file(base), load_file(done.network)
    assert set(after) == set(before)
    name = "image_encoder.blocks.1.attn.qkv.weight"
    assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) == 2
    image, _ = planted(*SHAPES["val"][0], seed=100)
    found = as_printed(done.use).segment(image, 8.0)
    assert not any("classical segmenter." in note for note in found.notes)
    # A product of sums in another order: pixels on the border alone may differ.
    assert (found.tissue != said[image.tobytes()]).mean() < 0.002


def test_thumbnails_of_many_shapes_come_from_other_processes_as_well(tmp_path, base):
    here = train_tissue(config(tmp_path / "a", base, steps=2))
    there = train_tissue(config(tmp_path / "b", base, steps=2, workers=1))
    assert there.network.read_bytes() == here.network.read_bytes()


def test_no_memory_for_a_step_says_what_to_do(tmp_path, base, monkeypatch):
    def full(self, batch, step):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(SamStudent, "loss", full)
    with pytest.raises(DeviceError, match="2 thumbnails") as err:
        train_tissue(config(tmp_path / "out", base))
    assert "--batch-size" in err.value.hint


def test_it_is_shown_the_side_of_its_own_frame(tmp_path, base):
    from wsiprep.train.tissue.sam import sam_student

    student = sam_student(config(tmp_path, base), torch.device("cpu"))
    assert student.framing == Wholes(SIDE)
