from __future__ import annotations

import pytest
import torch

from tests.models.language.fakes import PieceTokenizer, small_model
from wsiprep.core.errors import ConfigError, WeightsError
from wsiprep.models.language import IGNORE, TinyConfig, TinyLanguageModel

TOKENIZER = PieceTokenizer()


def random_batch(model: TinyLanguageModel) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(0, TOKENIZER.vocab_size, (3, 12), generator=generator)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[0, :5] = False
    mask[1, :1] = False
    return model.embed(ids).detach(), mask


def test_it_is_the_llama_architecture() -> None:
    transformers = pytest.importorskip("transformers")
    model = small_model(TOKENIZER)
    cfg = model.cfg
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=TOKENIZER.vocab_size,
            hidden_size=cfg.width,
            intermediate_size=cfg.hidden,
            num_hidden_layers=cfg.layers,
            num_attention_heads=cfg.heads,
            rms_norm_eps=1e-6,
        )
    ).eval()
    names = {
        "table": "model.embed_tokens",
        "norm": "model.norm",
        "head": "lm_head",
        "attention_norm": "input_layernorm",
        "feed_norm": "post_attention_layernorm",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "out": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
    state = {}
    for name, value in model.state_dict().items():
        *block, layer, kind = name.split(".")
        where = f"model.layers.{block[1]}." if block else ""
        state[f"{where}{names[layer]}.{kind}"] = value
    llama.load_state_dict(state, strict=True)
    embeds, mask = random_batch(model)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        theirs = llama(inputs_embeds=embeds, attention_mask=mask.long(), position_ids=positions)
        ours = model(embeds, mask)
    torch.testing.assert_close(ours.logits[mask], theirs.logits[mask], atol=1e-4, rtol=1e-4)


def test_no_token_sees_a_later_one() -> None:
    model = small_model(TOKENIZER)
    embeds, _ = random_batch(model)
    mask = torch.ones(3, 12, dtype=torch.bool)
    before = model(embeds, mask).logits
    changed = embeds.clone()
    changed[:, 7] += 1
    after = model(changed, mask).logits
    torch.testing.assert_close(before[:, :7], after[:, :7], atol=0, rtol=0)
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=-1).min() > 1e-4


def test_a_pass_in_parts_is_a_pass() -> None:
    model = small_model(TOKENIZER)
    embeds, mask = random_batch(model)
    whole = model(embeds, mask).logits
    cache = model.new_cache()
    parts = []
    at = 0
    for size in (5, 1, 4, 2):
        part = embeds[:, at : at + size]
        parts.append(model(part, mask[:, : at + size], cache=cache).logits)
        at += size
    assert cache.get_seq_length() == 12
    torch.testing.assert_close(torch.cat(parts, dim=1)[mask], whole[mask], atol=1e-5, rtol=1e-5)


def test_the_loss_is_that_of_the_formula_and_only_needs_labelled_columns() -> None:
    model = small_model(TOKENIZER)
    embeds, mask = random_batch(model)
    labels = torch.full((3, 12), IGNORE)
    labels[0, 7], labels[2, 3], labels[2, 11] = 9, 30, 40
    out = model(embeds, mask, labels=labels)
    assert out.columns.tolist() == [2, 6, 10]
    full = model(embeds, mask).logits.log_softmax(dim=-1)
    expected = -(full[0, 6, 9] + full[2, 2, 30] + full[2, 10, 40]) / 3
    torch.testing.assert_close(out.loss, expected, atol=1e-6, rtol=1e-6)
    assert int(out.tokens) == 3
    nothing = model(embeds, mask, labels=torch.full((3, 12), IGNORE))
    assert nothing.loss.item() == 0
    assert int(nothing.tokens) == 0


def test_seeds_decide_on_the_first_weights_and_nothing_else_does() -> None:
    cfg = TinyConfig(width=16, layers=1, heads=2, hidden=16, seed=3)
    torch.manual_seed(0)
    first = TinyLanguageModel(cfg, TOKENIZER).state_dict()
    torch.manual_seed(1)
    again = TinyLanguageModel(cfg, TOKENIZER).state_dict()
    other = TinyLanguageModel(cfg.model_copy(update={"seed": 4}), TOKENIZER).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["table.weight"], other["table.weight"])


def test_its_state_comes_back_and_another_is_refused() -> None:
    model, other = small_model(TOKENIZER), small_model(TOKENIZER, seed=1)
    embeds, mask = random_batch(model)
    other.load_trainable(model.trainable_state())
    assert torch.equal(model(embeds, mask).logits, other(embeds, mask).logits)
    state = model.trainable_state()
    del state["norm.weight"]
    state["head.weight"] = state["head.weight"][:, :3]
    state["extra"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"1 missing .*1 unknown .*1 of another shape"):
        other.load_trainable(state)
    wider = TinyLanguageModel(model.cfg.model_copy(update={"width": 64}), TOKENIZER)
    assert model.fingerprint() == other.fingerprint() != wider.fingerprint()


def test_a_frozen_one_does_not_learn_but_is_saved() -> None:
    model = TinyLanguageModel(TinyConfig(tuning="frozen"), TOKENIZER)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert model.trainable_state().keys() == model.state_dict().keys()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="3 heads do not divide"):
        TinyLanguageModel(TinyConfig(width=32, heads=3), TOKENIZER)
