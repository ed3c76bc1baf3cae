"""The text that stands for all: what is reached by always saying the same."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from wsiprep.metrics.captions import words

__all__ = ["most_typical"]


def most_typical(texts: Sequence[str]) -> str:
    """The commonest text; where all differ, the one whose words are most like those of all.

    Likeness is the mean cosine of counts of words. Of equals the first in alphabetical order.

    Args:
        texts: At least one.

    Raises:
        ValueError: there is none.
    """
    if not texts:
        raise ValueError("there is no text")
    counts = Counter(texts)
    if max(counts.values()) > 1:
        return min(counts, key=lambda text: (-counts[text], text))
    bags = {text: _unit(text) for text in texts}
    total: defaultdict[str, float] = defaultdict(float)
    for bag in bags.values():
        for word, share in bag.items():
            total[word] += share
    # Rounded, so that the order in which words were added decides nothing.
    like = {t: round(sum(total[w] * v for w, v in bag.items()), 9) for t, bag in bags.items()}
    return min(like, key=lambda text: (-like[text], text))


def _unit(text: str) -> dict[str, float]:
    """Counts of words, of length 1; empty for a text without words."""
    counts = Counter(words(text))
    length = math.sqrt(sum(n * n for n in counts.values()))
    return {word: n / length for word, n in counts.items()}
