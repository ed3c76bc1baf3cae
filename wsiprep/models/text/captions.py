"""Captions cut into sentences, and sub-captions drawn from them.

The sampler is that of PathFLIP's first version, after FLAIR (Xiao et al., CVPR 2025), "diverse
sampling": each sub-caption is a sentence, or some that follow one another, or some from anywhere.
Deviations, all named in the design: sentences are not cut inside decimals and abbreviations; every
window of consecutive sentences can be drawn, also the last; sub-captions that say the same are
given once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import torch

__all__ = ["distinct_texts", "draw_sub_captions", "normalised", "split_sentences", "sub_captions"]

_HARD: Final = re.compile(r"</s>|[\r\n]+")
# Marks that may end a sentence, with closing quotes and brackets. Either white space or the end
# follows, or, where the space was forgotten ("carcinoma.The"), a capital and small letters.
_END: Final = re.compile(r"[.!?]+[\"')\]\u201d\u2019]*(?=\s|$)|(?<=[a-z]{3})[.!?](?=[A-Z][a-z ])")
_LAST_WORD: Final = re.compile(r"[^\s(\[\"'/]+$")
_LIST_MARK: Final = re.compile(
    r"^\s*(?:\d{1,2}[.)]|\(?(?:\d{1,2}|[A-Za-z]|[ivx]{1,4})\)"
    r"|(?:[A-Za-z]|[ivxIVX]{1,4})\.(?=\s+[A-Z])|[-*\u2022\u2013])\s+"
)
_LAST_MARKS: Final = re.compile(r"[\s.!?]+$")
_MARK_ONLY: Final = re.compile(r"^\s*\(?(?:\d{1,2}|[A-Za-z]|[ivxIVX]{1,4})$")
_NEVER_LAST: Final = frozenset(
    [
        "e.g",
        "i.e",
        "eg",
        "ie",
        "vs",
        "cf",
        "dr",
        "drs",
        "mr",
        "mrs",
        "ms",
        "prof",
        "st",
        "fig",
        "figs",
        "no",
        "nos",
        "nr",
        "approx",
        "ca",
        "incl",
        "resp",
        "viz",
        "ref",
        "refs",
        "eq",
        "sp",
        "spp",
        "var",
        "dx",
        "hx",
    ]
)
"""Abbreviations that something always follows."""
_SELDOM_LAST: Final = frozenset(
    [
        "al",
        "etc",
        "cm",
        "mm",
        "um",
        "nm",
        "ml",
        "kg",
        "mg",
        "yr",
        "yrs",
        "min",
        "max",
        "avg",
        "diff",
        "pos",
        "neg",
        "ant",
        "post",
        "lat",
        "med",
        "inf",
        "sup",
        "a.m",
        "p.m",
        "t.i.l",
        "h.p.f",
        "hpf",
    ]
)
"""Abbreviations that end a sentence only where a capital letter follows."""
_NUMBERED: Final = frozenset(["no", "nos", "nr", "fig", "figs"])
"""Words of `_NEVER_LAST` that are abbreviations only before a number: "No. 5", "No. Clear."""


def split_sentences(text: str) -> list[str]:
    """Cut a caption into sentences; marks at their ends and list marks at their beginnings go.

    A full stop ends a sentence where white space follows, or a capital after a forgotten space,
    but not inside numbers (1.5 cm), after abbreviations (e.g., vs., Fig. 2), after initials before
    a small letter (H. pylori), or after the number of a list (1. Tumour). Lines and `</s>` always
    end one.

    Returns:
        Sentences in order, without white space around them, none empty.
    """
    sentences: list[str] = []
    for line in _HARD.split(text):
        begin = 0
        for end in _END.finditer(line):
            if _ends(line, begin, end):
                sentences.append(line[begin : end.end()])
                begin = end.end()
        sentences.append(line[begin:])
    return [clean for clean in map(_clean, sentences) if clean]


def draw_sub_captions(
    sentences: Sequence[str],
    *,
    count: int = 8,
    most: int = 3,
    generator: torch.Generator,
    distinct: bool = True,
) -> list[str]:
    """Draw sub-captions of a caption.

    For each, m is uniform in 1 to `most`; for m = 1 a random sentence, else with even chances m
    consecutive or m random sentences, none twice; the whole caption where it has no more than m
    sentences. Sentences are joined by ". ".

    Args:
        sentences: Of one caption, as `split_sentences` gives them.
        count: How many to draw (K).
        most: Most sentences of one.
        generator: On the CPU.
        distinct: Give what says the same once, hence perhaps fewer than `count`.

    Returns:
        At most `count` texts, at least one, or none where there is no sentence.
    """
    if count < 1 or most < 1:
        raise ValueError("count and most are at least 1")
    n = len(sentences)
    if n == 0:
        return []
    drawn: list[str] = []
    for _ in range(count):
        m = _below(most, generator) + 1
        if m >= n:
            chosen = list(range(n))
        elif m == 1 or _below(2, generator) == 0:
            first = _below(n - m + 1, generator)
            chosen = list(range(first, first + m))
        else:
            chosen = torch.randperm(n, generator=generator)[:m].tolist()
        drawn.append(". ".join(sentences[i] for i in chosen))
    return distinct_texts(drawn) if distinct else drawn


def sub_captions(
    caption: str,
    given: Sequence[str] | None = None,
    *,
    count: int = 8,
    most: int = 3,
    generator: torch.Generator,
) -> tuple[list[str], str]:
    """Sub-captions of a sample: those it came with, or drawn from its caption.

    Of given ones `count` are taken without replacement, in their order; there is no padding by
    repetition.

    Returns:
        At most `count` texts, and where they come from: `given` or `sampled`.
    """
    known = distinct_texts(text.strip() for text in given or () if text.strip())
    if known:
        chosen = torch.randperm(len(known), generator=generator)[:count].sort().values.tolist()
        return [known[i] for i in chosen], "given"
    sentences = split_sentences(caption)
    return draw_sub_captions(sentences, count=count, most=most, generator=generator), "sampled"


def normalised(text: str) -> str:
    """What two texts that say the same have in common: small letters, words and signs of value.

    White space, case, and marks between words do not count; numbers with their decimals, and the
    signs + - < > = % /, do.
    """
    return " ".join(re.findall(r"\d+(?:\.\d+)*|[^\W\d_]+|[+\-<>=%/]", text.lower()))


def distinct_texts(texts: Iterable[str]) -> list[str]:
    """Texts in their order, of those that are equal when normalised the first only."""
    seen: dict[str, str] = {}
    for text in texts:
        seen.setdefault(normalised(text), text)
    return list(seen.values())


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def _clean(sentence: str) -> str:
    return _LAST_MARKS.sub("", _LIST_MARK.sub("", sentence.strip() + " ", count=1)).strip()


def _ends(line: str, begin: int, end: re.Match[str]) -> bool:
    """Whether a mark ends the sentence that begins at `begin`."""
    sentence = line[begin : end.start()]
    rest = line[end.end() :].lstrip()
    if not end.group().startswith(".") or not rest:
        return True
    if _MARK_ONLY.match(sentence):
        return False
    found = _LAST_WORD.search(sentence)
    word = found.group().rstrip(".").lower() if found else ""
    upper = rest.lstrip("\"'([\u201c")[:1].isupper()
    if word in _NUMBERED:
        return not rest[0].isdigit()
    if word in _NEVER_LAST:
        return False
    if word in _SELDOM_LAST or (len(word) == 1 and word.isalpha()):
        return upper
    return True
