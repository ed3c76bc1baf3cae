import json
import sys

import pytest

from wsiprep.core.errors import PluginUnavailableError, WeightsError
from wsiprep.metrics.judge import Unscored
from wsiprep.metrics.judges.hf import Config, LocalModel, create, folder_sha256

ENDS = {"eos_token": "<end>"}


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PluginUnavailableError, match="hf") as caught:
        create(Config(model="somewhere"))
    assert "wsiprep[language]" in caught.value.hint


def test_a_folder_is_known_by_its_contents(tmp_path):
    for name, text in (("config.json", "{}"), ("model.safetensors", "x"), ("note.md", "a")):
        (tmp_path / name).write_text(text)
    first = folder_sha256(tmp_path)
    folder_sha256.cache_clear()
    (tmp_path / "note.md").write_text("b")
    assert folder_sha256(tmp_path) == first
    folder_sha256.cache_clear()
    (tmp_path / "model.safetensors").write_text("y")
    assert folder_sha256(tmp_path) != first


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A causal language model of a few thousand weights, with a tokenizer of bytes."""
    transformers = pytest.importorskip("transformers", reason="transformers is not here")
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not here")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<end>", *alphabet])}
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **ENDS)
    wrapped.save_pretrained(path)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=4096, eos_token_id=0, bos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


def test_a_model_that_knows_nothing_leaves_items_unscored(folder):
    judge = create(Config(model=str(folder), max_tokens=16, again=0))
    assert judge.id.startswith(f"hf:{folder.name}:")
    assert isinstance(judge.extract("Which grade?", "Grade 2."), Unscored)


def test_replies_are_greedy_and_read(folder, monkeypatch):
    model = LocalModel(Config(model=str(folder), max_tokens=16))
    replies = []

    def generate(encoded, **how):
        torch = sys.modules["torch"]
        assert how["do_sample"] is False
        text = model._tokenizer.decode(encoded[0])
        assert "Grade 2." in text
        said = model._tokenizer('["a"]', return_tensors="pt").input_ids
        replies.append(text)
        return torch.cat([encoded, said], dim=1)

    monkeypatch.setattr(model._model, "generate", generate)
    assert json.loads(model.ask([{"role": "user", "content": "Grade 2."}])) == ["a"]
    assert replies[0].endswith("Assistant:")
    model._tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}>"
    model.ask([{"role": "user", "content": "Grade 2."}])
    assert replies[1] == "[Grade 2.]>"


def test_texts_that_are_too_long(folder):
    model = LocalModel(Config(model=str(folder), max_tokens=16))
    found = model.ask([{"role": "user", "content": "x" * 5000}])
    assert isinstance(found, Unscored)
    assert "too long" in found.reason


def test_no_model_there(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not here")
    with pytest.raises(WeightsError, match="does not load"):
        create(Config(model=str(tmp_path)))
