"""Models of the transformers library say what the library says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models.language.made_hf import (
    TALK,
    load,
    make_tokenizer,
    slide,
    talk_batch,
    transformers,
)
from wsiprep.models.language import (
    IGNORE,
    Decoding,
    Turn,
    encode_conversation,
    encode_prompt,
    splice_slides,
)


def test_texts_have_the_logits_and_loss_of_the_library(folder: Path) -> None:
    model = load(folder)
    encoded = encode_conversation([Turn("user", "a"), TALK[1]], model.tokenizer, "chatml")
    words = model.embed(torch.tensor(model.tokenizer.encode("the breast")))
    with_slide = encode_conversation([Turn("user", "<image>a"), TALK[1]], model.tokenizer, "chatml")
    same = encode_conversation([Turn("user", "the breasta"), TALK[1]], model.tokenizer, "chatml")
    place = int((with_slide.ids < 0).nonzero()[0, 0])
    spelled = torch.cat(
        [
            with_slide.ids[:place],
            torch.tensor(model.tokenizer.encode("the breast")),
            with_slide.ids[place + 1 :],
        ]
    )
    assert len(same.ids) > len(encoded.ids)
    batch = splice_slides(model, [with_slide], [[words]])
    ours = model(batch.inputs_embeds, batch.attention_mask, labels=batch.labels)
    theirs = model.network(input_ids=spelled[None], labels=batch.labels)
    torch.testing.assert_close(ours.logits, theirs.logits[:, ours.columns])
    torch.testing.assert_close(ours.loss, theirs.loss)
    assert int(ours.tokens) == int((with_slide.labels != IGNORE).sum())


def test_it_continues_prompts_as_the_library_does(folder: Path) -> None:
    model = load(folder)
    asked = [
        encode_prompt([Turn("user", text)], model.tokenizer, "chat")
        for text in ("a", "Which organ is seen, and of what grade?")
    ]
    batch = splice_slides(model, asked, [[], []], padding="left")
    ours = model.generate(batch.inputs_embeds, batch.attention_mask, Decoding(max_new_tokens=15))
    for encoded, found in zip(asked, ours, strict=True):
        theirs = model.network.generate(
            input_ids=encoded.ids[None],
            attention_mask=torch.ones(1, len(encoded.ids), dtype=torch.int64),
            max_new_tokens=15,
            do_sample=False,
            pad_token_id=2,
        )[0, len(encoded.ids) :]
        assert found == [id_ for id_ in theirs.tolist() if id_ != 2]
    beams = Decoding(max_new_tokens=8, beams=3)
    together = model.generate(batch.inputs_embeds, batch.attention_mask, beams)
    one = splice_slides(model, asked[:1], [[]], padding="left")
    assert model.generate(one.inputs_embeds, one.attention_mask, beams) == together[:1]


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_padding_does_not_matter(folder: Path, tuning: str) -> None:
    if tuning == "lora":
        pytest.importorskip("peft")
    model = load(folder, tuning).eval()
    encoded = [
        encode_conversation([Turn("user", "a"), Turn("assistant", text)], model.tokenizer, "chat")
        for text in ("No.", "Ductal carcinoma of the breast, grade 2.")
    ]
    alone = []
    for one in encoded:
        batch = splice_slides(model, [one], [[]])
        alone.append(model(batch.inputs_embeds, batch.attention_mask).logits[0])
    for padding in ("left", "right"):
        batch = splice_slides(model, encoded, [[], []], padding=padding)
        out = model(batch.inputs_embeds, batch.attention_mask)
        for found, mask, expected in zip(out.logits, batch.attention_mask, alone, strict=True):
            torch.testing.assert_close(found[mask], expected, atol=1e-4, rtol=1e-4)


def test_models_without_positions_or_chosen_logits_work_too(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    network = transformers.BloomForCausalLM(
        transformers.BloomConfig(
            vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=2, initializer_range=0.2
        )
    )
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert "position_ids" not in model._takes
    batch = talk_batch(model)
    kept = model(batch.inputs_embeds, batch.attention_mask, labels=batch.labels)
    whole = model(batch.inputs_embeds, batch.attention_mask)
    torch.testing.assert_close(kept.logits, whole.logits[:, kept.columns])
    model._takes = model._takes - {"logits_to_keep"}
    again = model(batch.inputs_embeds, batch.attention_mask, labels=batch.labels)
    torch.testing.assert_close(kept.logits, again.logits)
    torch.testing.assert_close(kept.loss, again.loss)


def test_slides_learn_through_a_frozen_model_with_activations_computed_twice(
    folder: Path,
) -> None:
    grads = []
    for twice in (False, True):
        model = load(folder, activation_checkpointing=twice).train()
        shown = slide().requires_grad_()
        encoded = encode_conversation(TALK, model.tokenizer, "chat")
        batch = splice_slides(model, [encoded], [[shown]])
        model(batch.inputs_embeds, batch.attention_mask, labels=batch.labels).loss.backward()
        assert shown.grad is not None
        grads.append(shown.grad)
    assert grads[0].abs().min() > 0
    torch.testing.assert_close(grads[0], grads[1])


def test_weights_are_of_the_dtype_asked_for(folder: Path) -> None:
    model = load(folder, dtype="bfloat16")
    batch = talk_batch(model)
    assert batch.inputs_embeds.dtype == torch.bfloat16
    out = model(batch.inputs_embeds, batch.attention_mask, labels=batch.labels)
    assert out.loss.dtype == torch.float32
    exact = load(folder)
    batch = talk_batch(exact)
    expected = exact(batch.inputs_embeds, batch.attention_mask, labels=batch.labels).loss
    torch.testing.assert_close(out.loss, expected, rtol=0.05, atol=0)
