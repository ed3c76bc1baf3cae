"""The text that stands for all."""

from __future__ import annotations

import pytest

from wsiprep.metrics.typical import most_typical


def test_the_commonest_or_else_the_one_most_like_the_others():
    assert most_typical(["b", "a long one", "b", "a long one", "c"]) == "a long one"
    texts = ["dense lymphoid infiltrate", "dense solid nests", "dense solid nests with necrosis",
             "lakes of blood"]  # fmt: skip
    assert most_typical(texts) == "dense solid nests"
    assert most_typical(list(reversed(texts))) == "dense solid nests"
    assert most_typical(["x", "!"]) == "x"
    assert most_typical(["two", "one"]) == "one"
    with pytest.raises(ValueError, match="no text"):
        most_typical([])
