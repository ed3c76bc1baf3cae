"""A BERT to start the shared text side from: its tokenizer with ids of ours, and its weights.

Source: Devlin et al., BERT, NAACL 2019: words are cut at white space and signs, and each word into
the longest pieces of the vocabulary from its beginning on. Unlike there, no text gives a special
token, also not one that spells its name.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from wsiprep.core.errors import ConfigError
from wsiprep.models.text.hf import load_pretrained
from wsiprep.models.text.tokenizer import SPECIALS, UNK, Tokenizer

__all__ = ["Bert", "WordPieces", "read_bert"]

_CONTINUES: Final = "##"
_LONGEST: Final = 100
"""Characters of a word that is still cut into pieces; a longer one is unknown."""
_SIGNS: Final = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_CJK: Final = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
_SPECIAL_NAMES: Final = ("pad_token_id", "cls_token_id", "sep_token_id", "unk_token_id")
"""What stands at the ids of PAD, BOS, EOS and UNK."""


class WordPieces(Tokenizer):
    """The tokenizer of a BERT; `[CLS]` begins a text and `[SEP]` ends it.

    Args:
        words: The vocabulary without the four special tokens, with the ids 4, 5, ...
        lower: Whether case and accents are left out.
    """

    def __init__(self, words: Sequence[str], *, lower: bool) -> None:
        super().__init__("word", words=words)
        self.lower = lower
        self._cut: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens but `<unk>`."""
        return [number for word in _words(text, self.lower) for number in self._pieces(word)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: words with a space between them, as signs are too.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        return super().decode(ids).replace(f" {_CONTINUES}", "")

    def to_json(self) -> str:
        """All of it as a JSON string."""
        value = {**json.loads(super().to_json()), "kind": "wordpiece", "lower": self.lower}
        return json.dumps(value, ensure_ascii=False)

    def _pieces(self, word: str) -> tuple[int, ...]:
        found = self._cut.get(word)
        if found is None:
            found = self._cut[word] = self._longest(word)
        return found

    def _longest(self, word: str) -> tuple[int, ...]:
        ids: list[int] = []
        start = 0
        while start < len(word) <= _LONGEST:
            ahead = _CONTINUES if start else ""
            for end in range(len(word), start, -1):
                number = self.id_of(ahead + word[start:end])
                if number is not None:
                    ids.append(number)
                    start = end
                    break
            else:
                return (UNK,)
        return tuple(ids) or (UNK,)


@dataclass(frozen=True, slots=True, eq=False)
class Bert:
    """What there is to start from.

    Attributes:
        tokenizer: With ids of ours.
        state: Weights by the names of transformers' `BertModel`; rows of words by ids of ours.
    """

    tokenizer: WordPieces
    state: dict[str, Tensor]


def read_bert(model: str) -> Bert:
    """A BERT from a folder, or from the hub.

    Args:
        model: Folder, or `owner/name` or `owner/name@revision` on the hub.

    Raises:
        PluginUnavailableError: transformers are not installed.
        WeightsError: it cannot be fetched or read.
        ConfigError: it is no BERT with a vocabulary of word pieces.
    """
    tokenizer, network, _ = load_pretrained(model)
    special = [getattr(tokenizer, name, None) for name in _SPECIAL_NAMES]
    lower = _lowers(tokenizer)
    if network.config.model_type != "bert" or None in special or lower is None:
        raise ConfigError(
            f"{model} is no BERT with word pieces, but {type(network).__name__}.",
            stage="text",
            hint="Name one, as dmis-lab/biobert-base-cased-v1.2, or leave texts.bert out.",
        )
    of_id = {number: word for word, number in tokenizer.get_vocab().items()}
    others = sorted(set(of_id) - set(special))
    state = dict(network.state_dict())
    words = "embeddings.word_embeddings.weight"
    rows = [*special, *others]
    if max(rows) >= len(state[words]):
        raise ConfigError(f"{model} has fewer vectors than words.", stage="text")
    state[words] = state[words][torch.tensor(rows)]
    names = [of_id[number] for number in others]
    clash = set(names) & set(SPECIALS)
    if clash:
        raise ConfigError(f"{model} has words called {sorted(clash)}.", stage="text")
    return Bert(WordPieces(names, lower=lower), state)


def _lowers(tokenizer: Any) -> bool | None:
    """Whether it leaves case out; None where it is not a tokenizer of BERT."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    words = json.loads(backend.to_str())
    normalizer = words.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer" or words["model"].get("type") != "WordPiece":
        return None
    return bool(normalizer["lowercase"])


def _words(text: str, lower: bool) -> list[str]:
    """Words, and signs by themselves."""
    if lower:
        plain = unicodedata.normalize("NFD", text)
        text = "".join(c for c in plain if unicodedata.category(c) != "Mn").lower()
    cut: list[str] = []
    for c in text:
        if c.isspace():
            cut.append(" ")
        elif c == "\ufffd" or unicodedata.category(c).startswith("C"):
            continue
        elif c in _SIGNS or unicodedata.category(c).startswith("P") or _is_cjk(c):
            cut.append(f" {c} ")
        else:
            cut.append(c)
    return "".join(cut).split()


def _is_cjk(c: str) -> bool:
    return any(low <= ord(c) <= high for low, high in _CJK)
