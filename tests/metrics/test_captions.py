import importlib
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.core.errors import PluginUnavailableError
from wsiprep.metrics.bootstrap import bootstrap_interval
from wsiprep.metrics.captions import (
    TOKENIZER,
    cider_d,
    compare_captions,
    lcs,
    meteor,
    rouge_l,
    words,
)

texts = st.lists(st.sampled_from("abcde"), max_size=12)
TEXT = "the tumor shows grade 2 necrosis and no invasion of vessels in stroma cells"
WORDS = TEXT.split()


def corpus(n, references=1, seed=0):
    rng = np.random.default_rng(seed)
    said = [" ".join(rng.choice(WORDS, rng.integers(5, 25))) for _ in range(n)]
    wanted = [
        [" ".join(rng.choice(WORDS, rng.integers(5, 25))) for _ in range(references)] for _ in said
    ]
    for row in range(0, n, 2):  # some that have much in common
        wanted[row][-1] = " ".join([*said[row].split()[2:], "stroma"])
    return said, wanted


def test_words():
    assert words("pT2b, 1.5 cm (CK5/6+); Naïve!") == ["pt2b", "1.5", "cm", "ck5", "6", "naïve"]
    assert words("") == words(" .,- ") == []


def test_bleu_by_hand():
    # Matches: 3 of 4 words, 1 of 3 pairs ("the cat"), 0 triples; 4 words against 5.
    found = compare_captions(["the cat cat sat"], [["the cat sat on it"]]).values()
    short = math.exp(1 - 5 / 4)
    assert found["bleu_1"] == pytest.approx(short * 3 / 4)
    assert found["bleu_2"] == pytest.approx(short * math.sqrt(3 / 4 * 2 / 3))
    assert found["bleu_3"] == found["bleu_4"] == 0


def test_bleu_takes_the_closest_reference():
    # Lengths 2 and 4 are as far from 3; the shorter counts, so nothing is taken off.
    found = compare_captions(["a b c"], [["a b c d", "a b"]]).values()
    assert found["bleu_1"] == pytest.approx(1)


def test_same_text_and_no_text():
    said = ["invasive ductal carcinoma grade two", "no tumor is seen in this node at all"]
    same = compare_captions(said, [[text] for text in said]).values()
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"):
        assert same[name] == pytest.approx(1)
    assert same["cider_d"] == pytest.approx(10)
    none = compare_captions(["", ""], [[text] for text in said]).values()
    assert {none[name] for name in ("bleu_1", "bleu_4", "rouge_l", "cider_d")} == {0}


@settings(deadline=None)
@given(texts, texts)
def test_lcs_by_table(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            best = max(table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else best
    assert lcs(first, second) == table[-1, -1] == lcs(second, first)


def test_rouge_l_by_hand():
    # Common: a b d. Precision 3/4, recall 3/5.
    assert rouge_l(list("abxd"), [list("abcde")]) == pytest.approx(2 * 3 / 9)
    assert rouge_l(["a"], [["b"], ["a", "b"]]) == pytest.approx(2 / 3)
    assert rouge_l([], [["a"]]) == 0


def test_cider_d_by_hand():
    # Two texts; "a" is in both references (weight 0), "b" and "c" in one (weight ln 2).
    said, wanted = [["a", "b"], ["x"]], [[["a", "b"]], [["a", "c"]]]
    found = cider_d(said, wanted)
    # Words and pairs are the same: cosine 1 for n = 1, 2; nothing for n = 3, 4. Then nothing.
    assert found.tolist() == pytest.approx([10 * 2 / 4, 0])
    longer = cider_d([["a", "b", "x"], ["x"]], wanted)[0]
    word = 1 / math.sqrt(2)  # b of (b, x)
    assert longer == pytest.approx(10 * math.exp(-1 / 72) * (word + 1 / math.sqrt(2)) / 4)
    assert np.isnan(cider_d([["a"]], [[["a"]]])).all()


def test_a_caption_repeated_gains_nothing():
    said, wanted = corpus(12, seed=4)
    once = compare_captions(said, wanted)
    often = compare_captions([f"{text} {text} {text}" for text in said], wanted)
    for name in ("bleu_1", "cider_d"):
        assert often.values()[name] < once.values()[name]


def test_statistics_say_the_same_and_say_how_sure():
    said, wanted = corpus(30)
    found = compare_captions(said, wanted)
    assert found.tokenizer == TOKENIZER
    patients = [k // 2 for k in range(30)]
    for name, stat in found.statistics().items():
        got = bootstrap_interval(stat, 30, groups=patients, resamples=200)
        assert got.value == pytest.approx(found.values()[name])
        assert got.low < got.value < got.high
    # A resample that is the whole corpus twice has the same corpus BLEU.
    twice = float(found.statistics()["bleu_4"](np.full((1, 30), 2.0))[0])
    assert twice == pytest.approx(found.values()["bleu_4"])


def test_meteor_without_nltk_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(PluginUnavailableError, match="METEOR needs nltk"):
        meteor([["a"]], [[["a"]]])
    found = compare_captions(["a"], [["a"]])
    assert found.meteor is None
    assert "nltk" in found.unavailable["meteor"]
    assert "meteor" not in found.values()


def test_meteor_without_wordnet_is_named(monkeypatch, tmp_path):
    nltk = pytest.importorskip("nltk", reason="nltk is not here")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    corpora = importlib.import_module("nltk.corpus")
    reader = importlib.import_module("nltk.corpus.reader").WordNetCorpusReader
    fresh = corpora.LazyCorpusLoader("wordnet", reader, None)
    monkeypatch.setattr(corpora, "wordnet", fresh)
    with pytest.raises(PluginUnavailableError, match="WordNet"):
        meteor([["a"]], [[["a"]]])


def test_meteor_with_wordnet():
    pytest.importorskip("nltk", reason="nltk is not here")
    try:
        found = meteor(
            [["tumors", "grow"], ["x"], ["a", "b", "c", "d"]],
            [[["tumor", "grow"]], [["y"]], [["c", "d", "a", "b"]]],
        )
    except PluginUnavailableError as err:
        pytest.skip(str(err))
    # All matched in one chunk of 2; nothing; all matched in two chunks of 4.
    assert found.tolist() == pytest.approx([1 - 0.5 / 8, 0, 1 - 0.5 / 8])


def test_wrong_arguments_are_refused():
    for said, wanted in (([], []), (["a"], [[]]), (["a"], [["a"], ["b"]])):
        with pytest.raises(ValueError, match="reference"):
            compare_captions(said, wanted)


@pytest.mark.parametrize("references", [1, 3])
def test_bleu_as_sacrebleu(references):
    metrics = pytest.importorskip("sacrebleu.metrics", reason="sacrebleu is not here")
    said, wanted = corpus(40, references)
    found = compare_captions(said, wanted).values()
    for order in range(1, 5):
        judge = metrics.BLEU(tokenize="none", smooth_method="none", max_ngram_order=order)
        want = judge.corpus_score(said, [list(texts) for texts in zip(*wanted, strict=True)])
        assert 100 * found[f"bleu_{order}"] == pytest.approx(want.score)


@pytest.mark.parametrize("references", [1, 3])
def test_rouge_l_as_rouge_score(references):
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not here")
    judge = scorer.RougeScorer(["rougeL"])
    said, wanted = corpus(30, references)
    found = compare_captions(said, wanted).rouge_l
    want = [judge.score_multi(t, s)["rougeL"].fmeasure for s, t in zip(said, wanted, strict=True)]
    assert found.tolist() == pytest.approx(want)


@pytest.mark.parametrize("references", [1, 3])
def test_as_the_coco_code(references):
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason="pycocoevalcap is not here")
    rouge = importlib.import_module("pycocoevalcap.rouge.rouge")
    said, wanted = corpus(30, references)
    want = cider.Cider().compute_score(
        dict(enumerate(wanted)), {k: [s] for k, s in enumerate(said)}
    )
    assert compare_captions(said, wanted).cider_d.tolist() == pytest.approx(list(want[1]))
    for text, others in zip(said, wanted, strict=True):
        ours = rouge_l(text.split(), [t.split() for t in others], beta=1.2, pooled=True)
        assert ours == pytest.approx(rouge.Rouge().calc_score([text], others))
