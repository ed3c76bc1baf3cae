"""Starting from a BERT: its words and its weights, with ids of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wsiprep.core.errors import ConfigError, WeightsError
from wsiprep.models.aligned import Aligned, AlignedConfig
from wsiprep.models.text.bert import WordPieces, read_bert
from wsiprep.models.text.tokenizer import BOS, EOS, PAD, UNK, Tokenizer

transformers = pytest.importorskip("transformers", reason="needs transformers")

WORDS = ["tumour", "glan", "##d", "##s", "grade", "2", ".", ",", "-", "no", "neo", "##plasia", "Ki",
         "ki", "##67", "67", "e", "##dema", "[", "]", "cls", "癌"]  # fmt: skip
SPECIAL = ["[UNK]", "[CLS]", "[unused1]", "[SEP]", "[PAD]", "[MASK]"]
TEXTS = [
    "Tumour glands, grade 2.", "No neoplasia - Ki67", "\u00e9dema\u00a0癌 [CLS]", "xyz ta\u0301",
    "glands\x00glands\tgrade" + "g" * 120, "",
]  # fmt: skip


def write_bert(folder: Path, *, lower: bool) -> Path:
    """A random BERT of two layers with a vocabulary of word pieces, as transformers saves it."""
    vocab = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = transformers.BertTokenizer(vocab=vocab, do_lower_case=lower)
    config = transformers.BertConfig(
        vocab_size=len(vocab) + 3, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=40,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=[True, False], ids=["lower", "cased"])
def folder(request, tmp_path):
    return write_bert(tmp_path, lower=request.param)


def test_words_are_cut_as_theirs(folder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = read_bert(str(folder)).tokenizer
    names = {PAD: "[PAD]", BOS: "[CLS]", EOS: "[SEP]", UNK: "[UNK]"}
    for text in TEXTS:
        said = [names.get(n) or ours.words[n - 4] for n in ours.encode(text)]
        wanted = theirs.tokenize(text)
        if "[CLS]" not in text:  # which for them is a token where a text spells it
            assert said == wanted, text
    assert "[CLS]" not in [names.get(n) for n in ours.encode("a [CLS] b")]
    assert ours.decode(ours.encode("glands grade 2")) == "glands grade 2"
    again = Tokenizer.from_json(ours.to_json())
    assert isinstance(again, WordPieces)
    assert (again.encode(TEXTS[0]), again.sha256) == (ours.encode(TEXTS[0]), ours.sha256)


def config(folder, **slides):
    return AlignedConfig(
        slides={"encoder": "qformer", "options": {
            "dim": 8, "queries": 2, "width": 24, "layers": 2, "heads": 4, "hidden": 32,
            "mixer_layers": 0, "text_length": 30, **slides,
        }},
        texts={"encoder": "shared", "bert": str(folder)},
    )  # fmt: skip


def test_texts_are_read_as_by_the_bert(folder):
    bert = read_bert(str(folder))
    model = Aligned(config(folder), 5, bert.tokenizer).eval()
    model.start_from_bert(bert.state)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder).eval()
    texts = ["Tumour glands, grade 2.", "no"]
    with torch.no_grad():
        hidden = network(**theirs(texts, padding=True, return_tensors="pt")).last_hidden_state
        wanted = model.slides.encoder.text_head(hidden[:, 0])
        torch.testing.assert_close(model.texts(texts), wanted, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_had_or_does_not_fit(folder, tmp_path):
    with pytest.raises(WeightsError, match="cannot be loaded"):
        read_bert(str(tmp_path / "none" / "such"))
    bert = read_bert(str(folder))
    model = Aligned(config(folder, width=48), 5, bert.tokenizer)
    with pytest.raises(ConfigError, match="cannot start from this BERT"):
        model.start_from_bert(bert.state)
    with pytest.raises(ValueError, match="bert starts the shared text side"):
        AlignedConfig(texts={"encoder": "transformer", "bert": "x"})
    gpt = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=40)
    transformers.GPT2Model(gpt).save_pretrained(folder)
    with pytest.raises((ConfigError, WeightsError)):
        read_bert(str(folder))
