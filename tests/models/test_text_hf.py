"""Encoders of transformers, by a small BERT with random weights and a vocabulary made here."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from wsiprep.core.errors import ConfigError, PluginUnavailableError, WeightsError
from wsiprep.models.text.encoder import TextEncoder
from wsiprep.models.text.hf import HFTextConfig, HFTextEncoder

torch.set_num_threads(1)

TEXTS = ["ductal carcinoma", "no", "ductal carcinoma with necrosis no no no"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += ["ductal", "carcinoma", "with", "necrosis", "no", "text"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def make(folder: Path, **changes: Any) -> HFTextEncoder:
    return HFTextEncoder(HFTextConfig(model=str(folder), max_tokens=16, **changes))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pools_tokens_and_no_padding(bert: Path, pooling: Any) -> None:
    made = make(bert, tuning="frozen", pooling=pooling)
    assert isinstance(made, TextEncoder)
    assert made.dim == 16
    together = made.encode_tokens(TEXTS)
    assert together.mask.sum(dim=1).tolist() == [4, 3, 9]
    for index, text in enumerate(TEXTS):
        torch.testing.assert_close(
            together.text[index], made.encode([text])[0], atol=1e-5, rtol=1e-5
        )
    direct = made.model(**made.tokenizer([TEXTS[0]], return_tensors="pt")).last_hidden_state[0]
    expected = direct.mean(dim=0) if pooling == "mean" else direct[0]
    torch.testing.assert_close(together.text[0], expected, atol=1e-5, rtol=1e-5)


def test_a_frozen_encoder_has_no_gradient_and_no_dropout(bert: Path) -> None:
    made = make(bert, tuning="frozen").train()
    assert not any(module.training for module in made.modules())
    assert torch.equal(made.encode(TEXTS), made.encode(TEXTS))
    assert not made.encode(TEXTS).requires_grad
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_full_tuning_moves_all_but_the_pooler(bert: Path) -> None:
    made = make(bert, tuning="full")
    assert made.training
    made.encode(TEXTS).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert (parameter.grad is None) == ("pooler" in name), name


def test_long_texts_and_empty_ones(bert: Path) -> None:
    made = make(bert, tuning="frozen")
    out = made.encode_tokens(["", "no " * 100])
    assert out.mask.sum(dim=1).tolist() == [2, 16]
    assert out.text.isfinite().all()
    with pytest.raises(ValueError, match="no text"):
        made.encode([])


def test_what_does_not_fit_is_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="24 positions"):
        HFTextEncoder(HFTextConfig(model=str(bert), tuning="frozen"))
    with pytest.raises(WeightsError, match="cannot be loaded"):
        make(tmp_path, tuning="frozen")
    transformers = pytest.importorskip("transformers")
    other = tmp_path / "without-cls"
    made = make(bert, tuning="frozen")
    made.model.save_pretrained(other)
    from tokenizers import Tokenizer, models, pre_tokenizers

    unknown: dict[str, Any] = {"unk_token": "<>"}
    bare = Tokenizer(models.WordLevel({"<>": 0, "no": 1, "text": 2}, **unknown))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, padding_side="left", **unknown
    ).save_pretrained(other)
    with pytest.raises(ConfigError, match="do not begin with"):
        make(other, tuning="frozen", pooling="cls")
    plain = make(other, tuning="frozen")
    out = plain.encode_tokens(["no no no", "text"])
    assert out.mask.tolist() == [[True] * 3, [True, False, False]]
    with pytest.raises(ConfigError, match="no token of an empty text"):
        plain.encode([""])


def test_fingerprint_is_of_the_content(bert: Path, tmp_path: Path) -> None:
    import shutil

    made = make(bert, tuning="frozen").fingerprint
    assert made["pooling"] == "mean"
    moved = shutil.copytree(bert, tmp_path / "elsewhere" / bert.name)
    assert make(moved, tuning="frozen").fingerprint == made
    assert make(bert, tuning="frozen", pooling="cls").fingerprint != made
    assert make(bert, tuning="full").fingerprint["weights_sha256"] == made["weights_sha256"]
    network = make(moved, tuning="frozen")
    network.model.embeddings.word_embeddings.weight[6, 0] += 1
    network.model.save_pretrained(moved)
    assert make(moved, tuning="frozen").fingerprint["weights_sha256"] != made["weights_sha256"]


@pytest.fixture
def peft() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that peft looks for
        return pytest.importorskip("peft", reason="peft is not installed")


@pytest.mark.usefixtures("peft")
def test_lora_begins_as_the_model_and_moves_only_its_updates(bert: Path) -> None:
    made = make(bert, tuning="lora", lora_rank=2, lora_dropout=0.0)
    plain = make(bert, tuning="frozen")
    torch.testing.assert_close(made.eval().encode(TEXTS), plain.encode(TEXTS))
    tuned = {n for n, p in made.named_parameters() if p.requires_grad}
    layers = {name.split(".lora_")[0].partition("layer.0.")[2] for name in tuned} - {""}
    # The layers of PathFLIP's second version; nothing of the pooler.
    assert layers == {
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    }
    assert not any("pooler" in name for name in tuned)
    optimiser = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        made.encode(TEXTS).square().sum().backward()
        optimiser.step()
    assert {n for n, p in made.named_parameters() if p.grad is not None} == tuned
    assert (made.encode(TEXTS) - plain.encode(TEXTS)).abs().max() > 1e-3


@pytest.mark.usefixtures("peft")
def test_lora_has_targets_and_a_seed(bert: Path) -> None:
    cfg = HFTextConfig(model=str(bert), max_tokens=16, lora_targets=("query",))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (HFTextEncoder(cfg, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    names = [n for n, p in one.named_parameters() if p.requires_grad]
    assert len(names) == 4
    assert all(".query.lora_" in name for name in names)
    a = next(name for name in names if "lora_A" in name)
    assert torch.equal(one.state_dict()[a], same.state_dict()[a])
    assert not torch.equal(one.state_dict()[a], other.state_dict()[a])
    with pytest.raises(ConfigError, match="no linear layer called nothing"):
        make(bert, tuning="lora", lora_targets=("nothing",))
    with pytest.raises(ValueError, match="go with tuning: lora"):
        make(bert, tuning="full", lora_targets=("query",))


def test_without_transformers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PluginUnavailableError, match=r"needs the transformers package") as caught:
        HFTextEncoder(HFTextConfig(model="owner/name"))
    assert "wsiprep[language]" in str(caught.value)


def test_importing_the_module_imports_no_transformers() -> None:
    code = "import sys, wsiprep.models.text.hf; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
