"""Texts against reference texts by their words: BLEU, ROUGE-L, CIDEr-D, METEOR.

Words are those of `words` (its name is in every report); another tokenizer may be given, and gives
other numbers. Compare numbers only of one tokenizer.

Source: BLEU: Papineni et al., ACL 2002, over the corpus, without smoothing, against the reference
of the closest length (of two the shorter). ROUGE-L: Lin, 2004; F with beta 1, of several
references the best (the COCO code has beta 1.2 and takes the best precision and the best recall:
`rouge_l(..., beta=1.2, pooled=True)`). CIDEr-D: Vedantam et al., CVPR 2015, n 1 to 4, sigma 6,
document frequencies of the references given, times 10. METEOR: Lavie and Agarwal, 2007, as nltk
has it. Longest common subsequence in machine words: Hyyrö, 2004.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import PluginUnavailableError
from wsiprep.metrics.bootstrap import Statistic, mean_of, of_sums

__all__ = ["TOKENIZER", "Captions", "bleu_counts", "cider_d", "compare_captions", "lcs", "meteor"]
__all__ += ["rouge_l", "words"]

Floats = NDArray[np.float64]
Words = Sequence[str]
Tokenize = Callable[[str], list[str]]

TOKENIZER = "words-1"
"""Name of the tokenizer `words`; another number would split otherwise."""
ORDER = 4
"""Longest n-gram of BLEU and CIDEr-D."""
SIGMA = 6.0
"""Of the penalty of CIDEr-D for another length, in words."""

_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+")


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case; a decimal number is one word, the rest is dropped.

    "pT2b, 1.5 cm (CK5/6+)" has the words pt2b, 1.5, cm, ck5, 6.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


@dataclass(frozen=True, slots=True, eq=False)
class Captions:
    """Numbers of n texts.

    Attributes:
        counts: float64 (n, 10), what BLEU of any sample is made of; see `bleu_counts`.
        rouge_l: float64 (n,).
        cider_d: float64 (n,); NaN where there is a single text, which has no rare words.
        meteor: float64 (n,), or None.
        unavailable: Metrics that cannot be had here, with the reason.
        tokenizer: Name of the tokenizer.
    """

    counts: Floats
    rouge_l: Floats
    cider_d: Floats
    meteor: Floats | None
    unavailable: dict[str, str]
    tokenizer: str

    def statistics(self) -> dict[str, Statistic]:
        """For `bootstrap_interval`; CIDEr-D keeps the document frequencies of all references."""
        said: dict[str, Statistic] = {
            f"bleu_{n}": of_sums(self.counts, _bleu_of(n)) for n in range(1, ORDER + 1)
        }
        said["rouge_l"] = mean_of(self.rouge_l)
        said["cider_d"] = mean_of(self.cider_d)
        if self.meteor is not None:
            said["meteor"] = mean_of(self.meteor)
        return said

    def values(self) -> dict[str, float | None]:
        """All numbers; None where undefined."""
        whole = np.ones((1, len(self.counts)))
        found = {name: float(stat(whole)[0]) for name, stat in self.statistics().items()}
        return {name: None if np.isnan(value) else value for name, value in found.items()}


def compare_captions(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenize: Tokenize = words,
    tokenizer: str = TOKENIZER,
) -> Captions:
    """All metrics of a corpus.

    METEOR is left out where nltk or its WordNet is not there; `unavailable` says so.

    Args:
        candidates: n texts; empty ones are allowed and score 0.
        references: For each at least one.
        tokenize: From a text to its words.
        tokenizer: Name of `tokenize` in reports.

    Raises:
        ValueError: no text, or one without a reference.
    """
    if not candidates or len(candidates) != len(references) or not all(references):
        raise ValueError("every text needs a reference, and there must be a text")
    said = [tokenize(text) for text in candidates]
    wanted = [[tokenize(text) for text in texts] for texts in references]
    pairs = list(zip(said, wanted, strict=True))
    unavailable: dict[str, str] = {}
    meteors: Floats | None = None
    try:
        meteors = meteor(said, wanted)
    except PluginUnavailableError as err:
        unavailable["meteor"] = str(err)
    return Captions(
        counts=np.array([bleu_counts(*pair) for pair in pairs]),
        rouge_l=np.array([rouge_l(*pair) for pair in pairs]),
        cider_d=cider_d(said, wanted),
        meteor=meteors,
        unavailable=unavailable,
        tokenizer=tokenizer,
    )


def bleu_counts(candidate: Words, references: Sequence[Words]) -> Floats:
    """What corpus BLEU adds up.

    Args:
        candidate: Words of the text.
        references: Words of each reference.

    Returns:
        float64 (10,): n-grams that match (clipped), n = 1 to 4; n-grams of the candidate, n = 1
        to 4; words of the candidate; words of the reference of the closest length.
    """
    matched, there = [], []
    for n in range(1, ORDER + 1):
        own = _grams(candidate, n)
        most: Counter[Words] = Counter()
        for reference in references:
            most |= _grams(reference, n)
        matched.append((own & most).total())
        there.append(own.total())
    size = len(candidate)
    closest = min((len(reference) for reference in references), key=lambda k: (abs(k - size), k))
    return np.array([*matched, *there, size, closest], dtype=np.float64)


def rouge_l(
    candidate: Words, references: Sequence[Words], *, beta: float = 1.0, pooled: bool = False
) -> float:
    """F of the longest common subsequence; 0 where there is none.

    Args:
        candidate: Words of the text.
        references: Words of each reference.
        beta: How much more recall counts than precision.
        pooled: Take the best precision and the best recall, be they of two references, instead of
            the best F.
    """
    shared = [lcs(candidate, reference) for reference in references]
    if not any(shared):
        return 0.0
    pairs = [
        (length / len(candidate), length / len(reference))
        for length, reference in zip(shared, references, strict=True)
        if length
    ]
    if pooled:
        pairs = [(max(p for p, _ in pairs), max(r for _, r in pairs))]
    return max((1 + beta**2) * p * r / (r + beta**2 * p) for p, r in pairs)


def lcs(first: Words, second: Words) -> int:
    """Length of the longest common subsequence."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & full
    return len(first) - row.bit_count()


def cider_d(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> Floats:
    """CIDEr-D of each text, times 10 as is usual.

    Args:
        candidates: Words of n texts.
        references: Words of the references of each.

    Returns:
        float64 (n,), 0 to 10; NaN for a single text.
    """
    if len(candidates) < 2:
        return np.full(len(candidates), np.nan)
    known = [[_all_grams(reference) for reference in texts] for texts in references]
    seen: Counter[Words] = Counter()
    for counted in known:
        seen.update(set().union(*counted))
    documents = math.log(len(candidates))

    def weighed(grams: Counter[Words]) -> list[dict[Words, float]]:
        levels: list[dict[Words, float]] = [{} for _ in range(ORDER)]
        for gram, count in grams.items():
            levels[len(gram) - 1][gram] = count * (documents - math.log(max(1, seen[gram])))
        return levels

    scores = []
    for candidate, texts, counted in zip(candidates, references, known, strict=True):
        own = weighed(_all_grams(candidate))
        total = 0.0
        for reference, grams in zip(texts, counted, strict=True):
            gap = len(candidate) - len(reference)
            penalty = math.exp(-(gap**2) / (2 * SIGMA**2))
            alike = sum(map(_clipped_cosine, own, weighed(grams))) / ORDER
            total += penalty * alike
        scores.append(10 * total / len(texts))
    return np.array(scores, dtype=np.float64)


def meteor(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> Floats:
    """METEOR of each text, with stems and WordNet's synonyms, by nltk.

    Args:
        candidates: Words of n texts.
        references: Words of the references of each; the best counts.

    Returns:
        float64 (n,).

    Raises:
        PluginUnavailableError: nltk, or its WordNet, is not there.
    """
    try:
        from nltk.corpus import wordnet
        from nltk.translate.meteor_score import meteor_score
    except ImportError as err:
        raise PluginUnavailableError(
            "METEOR needs nltk, which is not installed.", hint="pip install nltk"
        ) from err
    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError) as err:
        raise PluginUnavailableError(
            "METEOR needs WordNet, which nltk does not find.",
            hint="python -m nltk.downloader wordnet, or set NLTK_DATA to where it is.",
        ) from err
    rows = zip(candidates, references, strict=True)
    return np.array([float(meteor_score(texts, said)) for said, texts in rows], dtype=np.float64)


def _grams(text: Words, n: int) -> Counter[Words]:
    return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def _all_grams(text: Words) -> Counter[Words]:
    return sum((_grams(text, n) for n in range(1, ORDER + 1)), Counter())


def _clipped_cosine(own: dict[Words, float], other: dict[Words, float]) -> float:
    """Cosine of weights, where the candidate's are at most the reference's."""
    norms = math.hypot(*own.values()) * math.hypot(*other.values())
    if not norms:
        return 0.0
    return sum(min(weight, other[g]) * other[g] for g, weight in own.items() if g in other) / norms


def _bleu_of(order: int) -> Callable[[Floats], Floats]:
    """BLEU with n-grams up to `order` from sums of `bleu_counts`, float64 (B, 10) to (B,)."""

    def bleu(sums: Floats) -> Floats:
        matched, there = sums[:, :order], sums[:, ORDER : ORDER + order]
        size, wanted = sums[:, 2 * ORDER], sums[:, 2 * ORDER + 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.log(matched / there).mean(axis=1)
            short = np.minimum(0.0, 1 - wanted / size)
        score = np.where((matched > 0).all(axis=1), np.exp(precision + short), 0.0)
        return np.where(wanted > 0, score, np.nan)

    return bleu
