from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from tests.tissue.tiny_sam import noise, tiny_sam
from wsiprep.core.errors import PluginUnavailableError
from wsiprep.tissue.segmenters import sam as segmenter
from wsiprep.tissue.segmenters._prompts import Prompts
from wsiprep.tissue.segmenters._sam_network import SamNetwork
from wsiprep.train.sam_files import merged_state, save_merged
from wsiprep.train.sam_tuning import (
    Target,
    Tuning,
    choose_parameters,
    compute_anew,
    dice_bce,
    forward,
    iou_error,
    target_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NORMS = Tuning()


def whole(h, w):
    return np.array([0, 0, w, h], np.float32)


def square(share, valid=1.0, side=8):
    """A target of which the top rows are tissue."""
    cover = torch.zeros(1, 1, side, side)
    cover[:, :, : round(share * side)] = 1
    seen = torch.zeros_like(cover)
    seen[..., : round(valid * side)] = 1
    return Target(cover, seen)


# --- what is tuned


def test_norms_and_decoder_are_tuned_and_nothing_else():
    sam = tiny_sam()
    chosen = choose_parameters(sam, NORMS)
    decoder = {f"mask_decoder.{name}" for name, _ in sam.mask_decoder.named_parameters()}
    encoder = set(chosen) - decoder
    assert decoder <= set(chosen)
    norms = {f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2)} | {"neck.1", "neck.3"}
    kinds = ("weight", "bias")
    assert encoder == {f"image_encoder.{norm}.{kind}" for norm in norms for kind in kinds}
    assert {n for n, q in sam.named_parameters() if q.requires_grad} == set(chosen)


def test_gradients_reach_what_is_tuned_alone():
    sam = tiny_sam()
    chosen = choose_parameters(sam, NORMS)
    images = [noise(100, 128), noise(64, 30, 1)]
    points = [(np.array([[3, 4]], np.float32), np.array([1], np.int32)), None]
    logits, iou = forward(sam, images, [whole(100, 128), whole(64, 30)], points, multimask=True)
    assert logits.shape == (2, 3, 32, 32)
    assert iou.shape == (2, 3)
    truth = target_of(sam, [np.ones((100, 128), bool), np.zeros((64, 30), bool)])
    (dice_bce(logits, truth).mean() + iou_error(iou, logits, truth).mean()).backward()
    for name, parameter in sam.named_parameters():
        if name not in chosen:
            assert parameter.grad is None
    # The mask of an unambiguous prompt has a token of its own, which three masks do not use.
    unused = {n for n, q in chosen.items() if q.grad is None}
    assert all("output_hypernetworks_mlps.0." in name for name in unused)
    assert all(torch.isfinite(q.grad).all() for n, q in chosen.items() if n not in unused)
    assert chosen["image_encoder.blocks.0.norm1.weight"].grad.abs().max() > 0


def gradients(sam, *, bfloat16=False):
    """Of a loss over two thumbnails, by name; and the loss."""
    chosen = choose_parameters(sam, NORMS)
    images = [noise(100, 128), noise(64, 30, 1)]
    boxes = [whole(100, 128), whole(64, 30)]
    logits, iou = forward(sam, images, boxes, [None, None], bfloat16=bfloat16)
    assert logits.dtype == iou.dtype == torch.float32
    truth = target_of(sam, [np.ones((100, 128), bool), np.zeros((64, 30), bool)])
    loss = dice_bce(logits, truth).mean() + iou_error(iou, logits, truth).mean()
    loss.backward()
    return {n: q.grad for n, q in chosen.items() if q.grad is not None}, loss.item()


def test_blocks_computed_anew_give_the_same_gradients_to_the_bit():
    plain, sparing = tiny_sam(), tiny_sam()
    compute_anew(sparing)
    wanted, loss = gradients(plain)
    found, again = gradients(sparing)
    assert again == loss
    assert found.keys() == wanted.keys()
    assert "image_encoder.blocks.0.norm1.weight" in found
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert list(sparing.state_dict()) == list(plain.state_dict())


def test_blocks_computed_anew_keep_little():
    def kept(sam):
        """Elements of the activations that wait for the way back."""
        own = {p.data_ptr() for p in sam.parameters()}
        held = {}

        def keep(tensor):
            if tensor.data_ptr() not in own:
                held[tensor.data_ptr()] = tensor.numel()
            return tensor

        choose_parameters(sam, NORMS)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            sam.image_encoder(torch.ones(1, 3, 128, 128)).sum()
        return sum(held.values())

    sparing = tiny_sam()
    compute_anew(sparing)
    assert kept(sparing) < 0.4 * kept(tiny_sam())


def test_in_bfloat16_the_encoder_learns_nearly_the_same():
    exact, loss = gradients(tiny_sam())
    rough, near = gradients(tiny_sam(), bfloat16=True)
    assert near != loss
    assert near == pytest.approx(loss, rel=0.02)
    for name in ("image_encoder.neck.3.weight", "mask_decoder.iou_token.weight"):
        assert torch.isfinite(rough[name]).all()
        likeness = torch.cosine_similarity(rough[name].flatten(), exact[name].flatten(), 0)
        assert likeness > 0.98


def test_the_network_is_asked_as_the_segmenter_asks_it():
    sam = tiny_sam()
    images = [noise(90, 200), noise(128, 31, 1), noise(10, 12, 2)]
    told = [(np.array([[7, 9], [60, 50]], np.float32), np.array([1, 0], np.int32)), None, None]
    boxes = [whole(*image.shape[:2]) for image in images]
    nothing = (np.empty((0, 2), np.float32), np.empty(0, np.int32))
    with torch.no_grad():
        logits, iou = forward(sam, images, boxes, told)
    prompts = [Prompts(box, *(at or nothing)) for box, at in zip(boxes, told, strict=True)]
    said = SamNetwork(sam).predict(images, prompts, False)
    for index, (image, answer) in enumerate(zip(images, said, strict=True)):
        side = max(image.shape[:2])
        shape = tuple(int(n * 128 / side + 0.5) for n in image.shape[:2])
        with torch.no_grad():
            full = sam.postprocess_masks(logits[index : index + 1], shape, image.shape[:2])
        np.testing.assert_allclose(full[0].numpy(), answer.logits, atol=1e-5)
        np.testing.assert_allclose(iou[index].numpy(), answer.iou, atol=1e-5)


def test_targets_lie_as_logits_do():
    sam = tiny_sam()
    mask = np.zeros((200, 400), bool)
    mask[100:, :200] = True
    target = target_of(sam, [mask, np.ones((400, 390), bool)])
    # 400 px become 128, and four of those one logit: 32 x 16 logits are image.
    assert target.cover.shape == target.valid.shape == (2, 1, 32, 32)
    wanted = torch.zeros(32, 32)
    wanted[8:16, :16] = 1
    torch.testing.assert_close(target.cover[0, 0], wanted)
    assert target.valid[0, 0, :16].min() == 1
    assert target.valid[0, 0, 16:].max() == 0
    # 390 px become 125, which is 31 logits and a quarter of one: all of that quarter is tissue.
    assert target.valid[1, 0, 0, 31] == 0.25
    assert target.cover[1, 0, 0, 31] == pytest.approx(1)


# --- losses, in closed form


def test_cross_entropy_of_no_opinion_is_log_2():
    loss = dice_bce(torch.zeros(1, 2, 8, 8), square(0.5), dice_share=0)
    torch.testing.assert_close(loss, torch.full((1, 2), math.log(2)))


def test_dice_of_no_opinion():
    # p = 1/2 on 64 pixels, t = 1 on 32: 1 - (2 * 16 + 1) / (32 + 32 + 1)
    loss = dice_bce(torch.zeros(1, 1, 8, 8), square(0.5), dice_share=1)
    torch.testing.assert_close(loss, torch.full((1, 1), 1 - 33 / 65))


def test_both_are_nothing_when_right_and_much_when_wrong():
    target = square(0.25)
    right = (target.cover * 2 - 1) * 50
    assert dice_bce(right, target).item() == pytest.approx(0, abs=1e-6)
    wrong = dice_bce(-right, target, dice_share=0.5).item()
    assert wrong == pytest.approx(0.5 * (1 - 1 / 65) + 0.5 * 50, rel=1e-5)


def test_padding_does_not_count():
    target = square(0.5, valid=0.5)
    logits = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    other = logits.clone()
    other[..., 4:] = 77
    torch.testing.assert_close(dice_bce(logits, target), dice_bce(other, target))
    iou = torch.zeros(1, 1)
    torch.testing.assert_close(iou_error(iou, logits, target), iou_error(iou, other, target))
    narrow = Target(target.cover[..., :4], target.valid[..., :4])
    torch.testing.assert_close(dice_bce(logits, target), dice_bce(logits[..., :4], narrow))


def test_error_of_the_predicted_iou():
    target = square(0.5)
    logits = torch.full((1, 1, 8, 8), -1.0)
    logits[:, :, :2] = 1  # a half of the tissue, and nothing else
    iou = torch.tensor([[0.8]], requires_grad=True)
    error = iou_error(iou, logits, target)
    assert error.item() == pytest.approx(0.3**2)
    error.backward()
    assert iou.grad.item() == pytest.approx(0.6)
    nothing = iou_error(torch.ones(1, 1), torch.full((1, 1, 8, 8), -1.0), square(0))
    assert nothing.item() == 0


def test_tuning_learns_a_slide_by_heart():
    sam = tiny_sam()
    image = np.full((100, 128, 3), 240, np.uint8)
    mask = np.zeros((100, 128), bool)
    mask[30:80, 20:70] = True
    image[mask] = (190, 120, 170)
    chosen = choose_parameters(sam, NORMS)
    frozen = {n: q.clone() for n, q in sam.named_parameters() if n not in chosen}
    target = target_of(sam, [mask])
    optimiser = torch.optim.AdamW(chosen.values(), lr=3e-3)
    losses = []
    for _ in range(40):
        logits, iou = forward(sam, [image], [whole(100, 128)], [None])
        loss = dice_bce(logits, target).mean() + iou_error(iou, logits, target).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]
    assert all(torch.equal(q, frozen[n]) for n, q in sam.named_parameters() if n in frozen)
    (answer,) = SamNetwork(sam).predict([image], [Prompts(whole(100, 128), *_none())], False)
    found = answer.logits[0] > 0
    assert (found & mask).sum() / (found | mask).sum() > 0.8


def _none():
    return np.empty((0, 2), np.float32), np.empty(0, np.int32)


# --- files


def shaken(sam, tuning, seed=3):
    """Tuned at random."""
    chosen = choose_parameters(sam, tuning)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in chosen.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return sam


def asked(sam):
    with torch.no_grad():
        return forward(sam, [noise(100, 128)], [whole(100, 128)], [None])[0]


def test_the_merged_file_is_a_checkpoint_of_the_segmenter(tmp_path, monkeypatch):
    from segment_anything import sam_model_registry

    monkeypatch.setitem(sam_model_registry, "vit_b", tiny_sam)
    path = tmp_path / "whole.safetensors"
    sam = shaken(tiny_sam(), NORMS)
    save_merged(path, sam, NORMS, {"epoch": "3"})
    segmenter._network.cache_clear()
    made = segmenter.create(segmenter.Config(checkpoint=str(path), device="cpu"))
    segmenter._network.cache_clear()
    prompt = Prompts(whole(100, 128), *_none())
    (loaded,) = made.predictor.predict([noise(100, 128)], [prompt], False)
    (wanted,) = SamNetwork(sam).predict([noise(100, 128)], [prompt], False)
    np.testing.assert_array_equal(loaded.logits, wanted.logits)


def test_lora_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PluginUnavailableError, match=r"wsiprep\[lora\]"):
        choose_parameters(tiny_sam(), Tuning(lora_rank=2))


def test_lora_starts_from_the_base_and_merges():
    pytest.importorskip("peft", reason="the peft package is not installed")
    tuning = Tuning(lora_rank=2, lora_alpha=6)
    base, sam = tiny_sam(), tiny_sam()
    chosen = choose_parameters(sam, tuning)
    lora = {name for name in chosen if ".lora_" in name}
    assert len(lora) == 4, "two matrices for the attention of each of two blocks"
    torch.testing.assert_close(asked(sam), asked(base))
    assert set(chosen) - lora == set(choose_parameters(base, NORMS))

    sam = shaken(tiny_sam(), tuning)
    plain = tiny_sam()
    plain.load_state_dict(merged_state(sam, tuning))
    torch.testing.assert_close(asked(plain), asked(sam), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(asked(plain), asked(tiny_sam()), atol=1e-3)
