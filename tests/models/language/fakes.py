"""A tokenizer and small models for the tests of this folder."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

from wsiprep.models.language import TinyConfig, TinyLanguageModel

torch.set_num_threads(1)

SPECIALS = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
PIECE = re.compile(r" ?[A-Za-z]+| ?\d| ?[^\w\s]|\s|.", re.DOTALL)


class PieceTokenizer:
    """Words of a few texts as tokens, any other text byte by byte; loses nothing."""

    pad_id, bos_id, eos_id = 0, 1, 2

    def __init__(self, texts: Iterable[str] = ()) -> None:
        words = sorted({word for text in texts for word in PIECE.findall(text)})
        self.table = [*(t.encode() for t in SPECIALS), *(bytes([i]) for i in range(256))]
        self.table += [word.encode() for word in words if len(word.encode()) > 1]
        self.known = {word: index for index, word in enumerate(self.table) if index >= 5}
        self.special_ids = frozenset(range(len(SPECIALS)))

    @property
    def vocab_size(self) -> int:
        return len(self.table)

    def encode(self, text: str, /) -> list[int]:
        ids: list[int] = []
        for word in PIECE.findall(text):
            coded = word.encode()
            whole = self.known.get(coded)
            ids += [whole] if whole is not None else [5 + value for value in coded]
        return ids

    def encode_markup(self, text: str, /) -> list[int]:
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, SPECIALS)) + ")", text):
            ids += [SPECIALS.index(part)] if part in SPECIALS else self.encode(part)
        return ids

    def decode(self, ids: list[int], /) -> str:
        return b"".join(self.table[i] for i in ids if i >= 5).decode(errors="replace")

    def show(self, ids: list[int]) -> str:
        """As `decode`, with the special tokens by name."""
        return b"".join(self.table[i] for i in ids).decode(errors="replace")


def small_model(tokenizer: PieceTokenizer | None = None, seed: int = 0) -> TinyLanguageModel:
    """A tiny language model."""
    cfg = TinyConfig(width=32, layers=2, heads=4, hidden=48, seed=seed)
    return TinyLanguageModel(cfg, tokenizer or PieceTokenizer()).eval()
