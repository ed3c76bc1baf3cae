"""Tokenizers trained on captions: byte pairs, which lose nothing, or whole words.

Byte pairs: a text is cut into words with the space before them, digits one by one and runs of
signs; inside these the bytes of UTF-8 are joined pair by pair, in the order in which the pairs were
learned. Any text can be encoded, and decoding gives it back exactly. No text gives a special token,
also not one that spells its name.

Words: lower case, one token a word, digit or sign; what was not seen in training is `<unk>`.

Training takes the pair, or word, that occurs most often, the first in byte order among equals, so
the same captions in any order give the same tokenizer.

Source: Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, ACL 2016;
bytes instead of letters as in Radford et al., Language Models are Unsupervised Multitask Learners,
2019. Digits are single tokens, so that 12 and 13 share what they have in common.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, Literal

import torch
from torch import Tensor

from wsiprep.core.config import digest
from wsiprep.core.errors import WeightsError

__all__ = ["BOS", "EOS", "PAD", "SPECIALS", "UNK", "Tokenizer", "train_bpe", "train_words"]

PAD: Final = 0
BOS: Final = 1
EOS: Final = 2
UNK: Final = 3
SPECIALS: Final = ("<pad>", "<bos>", "<eos>", "<unk>")
"""Names of the ids 0 to 3, for people to read; no text is read as one of them."""

FORMAT: Final = "wsiprep-tokenizer-1"
_BYTES: Final = 256
_FIRST_BYTE: Final = len(SPECIALS)
_FIRST_MERGE: Final = _FIRST_BYTE + _BYTES
_CACHED_WORDS: Final = 100_000
# Letters with a space before them, one digit, a run of signs, a single white space: every
# character is in one of the four, so the pieces joined are the text.
_PIECE: Final = re.compile(r" ?[^\W\d_]+| ?\d| ?(?:[^\w\s]|_)+|\s")
_WORD: Final = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_")

Pair = tuple[int, int]


class Tokenizer:
    """Texts to ids and back; made by `train_bpe`, `train_words` or `from_json`.

    Args:
        kind: `bpe` or `word`.
        merges: For `bpe`, pairs of ids in the order learned; pair i makes the id 260 + i.
        words: For `word`, the words with the ids 4, 5, ...
    """

    def __init__(
        self,
        kind: Literal["bpe", "word"],
        *,
        merges: Sequence[Pair] = (),
        words: Sequence[str] = (),
    ) -> None:
        if (kind == "bpe" and words) or (kind == "word" and merges):
            raise ValueError("byte pairs have merges and no words, words have words and no merges")
        self.kind: Literal["bpe", "word"] = kind
        self.merges = tuple((int(a), int(b)) for a, b in merges)
        self.words = tuple(words)
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._word_ids = {word: _FIRST_BYTE + i for i, word in enumerate(self.words)}
        if len(self._ranks) != len(self.merges) or len(self._word_ids) != len(self.words):
            raise ValueError("a merge or a word is there twice")
        self._spelled = [bytes([value]) for value in range(_BYTES)]
        for rank, (left, right) in enumerate(self.merges):
            if not (min(left, right) >= _FIRST_BYTE and max(left, right) < _FIRST_MERGE + rank):
                raise ValueError(f"merge {rank} joins an id that it cannot know")
            self._spelled.append(
                self._spelled[left - _FIRST_BYTE] + self._spelled[right - _FIRST_BYTE]
            )
        self._cache: dict[str, tuple[int, ...]] = {}

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        if self.kind == "word":
            return _FIRST_BYTE + len(self.words)
        return _FIRST_MERGE + len(self.merges)

    @property
    def pad_id(self) -> int:
        """Of padding."""
        return PAD

    @property
    def bos_id(self) -> int:
        """What a text begins with."""
        return BOS

    @property
    def eos_id(self) -> int:
        """What a text ends with."""
        return EOS

    @property
    def sha256(self) -> str:
        """Of what it is; equal for equal tokenizers."""
        return digest(json.loads(self.to_json()))

    def id_of(self, word: str) -> int | None:
        """The id of a word of the vocabulary, or None."""
        return self._word_ids.get(word)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens but `<unk>` (words only)."""
        if self.kind == "word":
            return [self._word_ids.get(word, UNK) for word in _WORD.findall(text.lower())]
        ids: list[int] = []
        for piece in _PIECE.findall(text):
            ids.extend(self._piece(piece))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens are left out, but `<unk>` is shown.

        Bytes that are no UTF-8, as a model may give, become U+FFFD. Words are joined by a space.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        shown: list[int] = []
        for raw in ids:
            number = int(raw)
            if not 0 <= number < self.vocab_size:
                raise ValueError(f"id {number} is outside 0 to {self.vocab_size - 1}")
            if number >= _FIRST_BYTE or number == UNK:
                shown.append(number)
        if self.kind == "word":
            return " ".join(SPECIALS[n] if n == UNK else self.words[n - _FIRST_BYTE] for n in shown)
        unknown = SPECIALS[UNK].encode()
        parts = [unknown if n == UNK else self._spelled[n - _FIRST_BYTE] for n in shown]
        return b"".join(parts).decode("utf-8", errors="replace")

    def decode_bytes(self, number: int) -> bytes:
        """The bytes that an id of byte pairs stands for.

        Raises:
            ValueError: it is a special token, or outside the vocabulary, or these are words.
        """
        if self.kind == "word" or not _FIRST_BYTE <= number < self.vocab_size:
            raise ValueError(f"id {number} stands for no bytes")
        return self._spelled[number - _FIRST_BYTE]

    def batch(
        self, texts: Sequence[str], *, max_tokens: int, bos: bool = True, eos: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Ids of texts as a table padded on the right.

        A text that is too long loses its end; it still has its `<bos>` and `<eos>`.

        Args:
            texts: B texts.
            max_tokens: Most tokens of a text, special ones included.
            bos: Begin with `<bos>`.
            eos: End with `<eos>`.

        Returns:
            int64 (B, L) ids and bool (B, L), true on tokens; L is the longest, at least 1.

        Raises:
            ValueError: `max_tokens` has no room for a token of the text.
        """
        room = max_tokens - int(bos) - int(eos)
        if room < 1:
            raise ValueError(f"max_tokens {max_tokens} has no room for text")
        rows = [
            [BOS] * bos + self.encode(text)[:room] + [EOS] * eos for text in texts
        ]  # fmt: skip
        longest = max([1, *(len(row) for row in rows)])
        ids = torch.full((len(rows), longest), PAD, dtype=torch.int64)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[index, : len(row)] = True
        return ids, mask

    def to_json(self) -> str:
        """All of it as a JSON string."""
        value = {"format": FORMAT, "kind": self.kind}
        if self.kind == "bpe":
            return json.dumps({**value, "merges": self.merges})
        return json.dumps({**value, "words": self.words}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """What `to_json` gave.

        Raises:
            WeightsError: it is something else.
        """
        try:
            value = json.loads(text)
            if value["format"] != FORMAT:
                raise ValueError(f"its format is {value['format']!r}, not {FORMAT!r}")
            if value["kind"] == "wordpiece":
                from wsiprep.models.text.bert import WordPieces

                return WordPieces(value["words"], lower=bool(value["lower"]))
            if value["kind"] not in ("bpe", "word"):
                raise ValueError(f"there is no kind {value['kind']!r}")
            return cls(value["kind"], merges=value.get("merges", ()), words=value.get("words", ()))
        except (ValueError, TypeError, KeyError) as err:
            raise WeightsError(
                f"the tokenizer cannot be used: {err}.",
                stage="text",
                hint="Take the one that was saved with the model.",
            ) from err

    def _piece(self, piece: str) -> tuple[int, ...]:
        found = self._cache.get(piece)
        if found is None:
            found = tuple(self._join(_byte_ids(piece)))
            if len(self._cache) < _CACHED_WORDS:
                self._cache[piece] = found
        return found

    def _join(self, ids: list[int]) -> list[int]:
        """Join pairs, the one learned first before the others, until none is known."""
        never = len(self.merges)
        while len(ids) > 1:
            rank = min(self._ranks.get(pair, never) for pair in pairwise(ids))
            if rank == never:
                break
            ids = _merged(ids, self.merges[rank], _FIRST_MERGE + rank)
        return ids


def train_words(captions: Iterable[str], *, max_words: int, min_count: int = 1) -> Tokenizer:
    """A tokenizer of whole words: the most frequent ones.

    Args:
        captions: What to learn from.
        max_words: Most words; four special tokens come on top.
        min_count: Rarer words are left out.
    """
    counts = Counter(word for text in captions for word in _WORD.findall(text.lower()))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return Tokenizer("word", words=[w for w, n in ranked[:max_words] if n >= min_count])


def train_bpe(captions: Iterable[str], *, vocab_size: int, min_count: int = 2) -> Tokenizer:
    """A tokenizer of byte pairs.

    Args:
        captions: What to learn from.
        vocab_size: Most ids, of which 260 are special tokens and bytes; fewer where the captions
            have no more pairs.
        min_count: Rarer pairs are not joined.

    Raises:
        ValueError: `vocab_size` is below 260.
    """
    if vocab_size < _FIRST_MERGE:
        raise ValueError(f"a vocabulary of byte pairs has at least {_FIRST_MERGE} ids")
    pieces = Counter(piece for text in captions for piece in _PIECE.findall(text))
    words = [_byte_ids(piece) for piece in pieces]
    counts = list(pieces.values())
    pairs: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pairs[pair] += counts[index]
            where[pair].add(index)
    spelled = {_FIRST_BYTE + value: bytes([value]) for value in range(_BYTES)}

    def entry(pair: Pair) -> tuple[int, bytes, bytes, Pair]:
        return -pairs[pair], spelled[pair[0]], spelled[pair[1]], pair

    heap = [entry(pair) for pair in pairs]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and _FIRST_MERGE + len(merges) < vocab_size:
        count, _, _, pair = heapq.heappop(heap)
        if -count != pairs[pair]:  # counted again since; the newer entry is in the heap
            continue
        if -count < min_count:
            break
        new = _FIRST_MERGE + len(merges)
        spelled[new] = spelled[pair[0]] + spelled[pair[1]]
        merges.append(pair)
        changed: set[Pair] = set()
        for index in where.pop(pair):
            before = words[index]
            after = _merged(before, pair, new)
            words[index] = after
            for sign, ids in ((-1, before), (1, after)):
                for touched in pairwise(ids):
                    pairs[touched] += sign * counts[index]
                    changed.add(touched)
            for kept in pairwise(after):
                where[kept].add(index)
        for touched in changed:
            if pairs[touched] > 0 and touched != pair:
                heapq.heappush(heap, entry(touched))
            elif pairs[touched] <= 0:
                del pairs[touched]
    return Tokenizer("bpe", merges=merges)


def _byte_ids(piece: str) -> list[int]:
    # A lone surrogate has no UTF-8; it becomes a question mark.
    return [_FIRST_BYTE + value for value in piece.encode("utf-8", errors="replace")]


def _merged(ids: list[int], pair: Pair, new: int) -> list[int]:
    out: list[int] = []
    at = 0
    while at < len(ids):
        if at + 1 < len(ids) and (ids[at], ids[at + 1]) == pair:
            out.append(new)
            at += 2
        else:
            out.append(ids[at])
            at += 1
    return out
