"""What of a model learns, and what is saved of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models.language.made_hf import load, logits, talk_batch, transformers
from wsiprep.core.errors import ConfigError, WeightsError


# peft asks transformers by a name that is going; wsiprep's own calls are quiet by themselves.
@pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")
def test_adapters_learn_and_come_back(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = load(folder, "lora", lora_rank=4, lora_dropout=0.0)
    base = logits(load(folder))
    torch.testing.assert_close(logits(model), base)  # adapters begin as nothing
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    assert {name.split(".")[-3] for name in model.trainable_state()} == {"lora_A", "lora_B"}
    optimiser = torch.optim.AdamW(learning, lr=1e-2)
    losses = []
    for _ in range(30):
        batch = talk_batch(model)
        loss = model(batch.inputs_embeds, batch.attention_mask, labels=batch.labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    trained = logits(model)
    assert (trained - base).abs().max() > 0.1
    fresh = load(folder, "lora", lora_rank=4, lora_dropout=0.0, seed=5)
    assert fresh.fingerprint() == model.fingerprint()
    fresh.load_trainable(model.trainable_state())
    assert torch.equal(logits(fresh), trained)
    with pytest.raises(WeightsError, match="of another shape"):
        load(folder, "lora", lora_rank=8).load_trainable(model.trainable_state())
    with pytest.raises(WeightsError, match="unknown"):
        load(folder).load_trainable(model.trainable_state())
    # And outside wsiprep, as peft reads them.
    model.save_adapter(tmp_path / "adapter")
    outside = transformers.AutoModelForCausalLM.from_pretrained(folder)
    outside = peft.PeftModel.from_pretrained(outside, str(tmp_path / "adapter")).eval()
    batch = talk_batch(model)
    mask = batch.attention_mask
    with torch.no_grad():
        theirs = outside(
            inputs_embeds=batch.inputs_embeds,
            attention_mask=mask.long(),
            position_ids=batch.position_ids,
        ).logits[mask]
    torch.testing.assert_close(theirs, trained, atol=1e-5, rtol=1e-5)


def test_adapters_begin_by_their_seed_alone(folder: Path) -> None:
    pytest.importorskip("peft")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load(folder, "lora").trainable_state()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = load(folder, "lora").trainable_state(), load(folder, "lora", seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[n], value) for n, value in other.trainable_state().items())


def test_layers_for_adapters_must_be_there(folder: Path) -> None:
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match="adapters do not fit"):
        load(folder, "lora", lora_targets=("c_attn",))
    named = load(folder, "lora").trainable_state().keys()
    assert load(folder, "lora", lora_targets="all-linear").trainable_state().keys() == named


def test_what_learns_is_what_is_saved(folder: Path) -> None:
    frozen, full = load(folder), load(folder, "full")
    assert frozen.trainable_state() == {}
    assert not any(weight.requires_grad for weight in frozen.parameters())
    assert full.trainable_state().keys() == dict(full.named_parameters()).keys()
    with torch.no_grad():
        full.network.lm_head.weight.mul_(2)
    other = load(folder, "full")
    other.load_trainable(full.trainable_state())
    assert torch.equal(logits(other), logits(full))
    assert not torch.equal(logits(frozen), logits(full))
    with pytest.raises(ConfigError, match="no adapters"):
        frozen.save_adapter(folder / "adapter")
