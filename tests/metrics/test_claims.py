import numpy as np
import pytest

from wsiprep.metrics.bootstrap import bootstrap_interval
from wsiprep.metrics.claims import Item, judge_item, judge_items
from wsiprep.metrics.judge import ClaimScore, Unscored


class Scripted:
    """Claims are sentences; a claim scores what stands behind its colon."""

    id, rubric, suffix = "scripted", "1", ""

    def __init__(self):
        self.kinds = []

    def extract(self, question, answer):
        if "garbled" in answer:
            return Unscored("not JSON")
        return tuple(part.strip() for part in answer.split(".") if part.strip())

    def score(self, claims, text, kind):
        self.kinds.append((kind, text))
        if "unreadable" in text:
            return Unscored("not JSON")
        return tuple(ClaimScore(claim, float(claim.split(":")[1])) for claim in claims)


def scripted(reference, response, judge=None):
    return judge_item(judge or Scripted(), Item("1", "q", reference, response))


def test_whose_claims_are_looked_for_where():
    judge = Scripted()
    precision, relevance = scripted("a:1. b:0", "c:1", judge)
    assert judge.kinds == [("precision", "c:1"), ("relevance", "a:1. b:0")]
    assert (precision.value, relevance.value) == (0.5, 1.0)
    assert [one.claim for one in precision.claims] == ["a:1", "b:0"]


def test_an_item_is_a_mean_to_three_decimals():
    precision, _ = scripted("a:1. b:1. c:0", "d:1")
    assert precision.value == 0.667


def test_an_empty_response_scores_0_and_is_not_judged():
    judge = Scripted()
    precision, relevance = scripted("a:1. b:1", "  ", judge)
    assert (precision.value, relevance.value) == (0.0, 0.0)
    assert [one.score for one in precision.claims] == [0, 0]
    assert judge.kinds == []


def test_a_response_without_claims_is_irrelevant():
    precision, relevance = scripted("a:1", "...")
    assert (precision.value, relevance.value) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("reference", "response", "wanted"),
    [
        ("", "a:1", (None, None)),
        ("...", "a:1", (None, 1.0)),
        ("garbled", "a:1", (None, 1.0)),
        ("garbled", "", (None, 0.0)),
        ("a:1", "garbled", (1.0, None)),
        ("a:1", "unreadable:1", (None, 1.0)),
        ("unreadable:1", "a:1", (1.0, None)),
    ],
)
def test_what_cannot_be_judged_is_unscored(reference, response, wanted):
    found = scripted(reference, response)
    assert tuple(one.value for one in found) == wanted
    for one in found:
        assert (one.value is None) == bool(one.reason)


def test_a_judge_that_leaves_claims_out_is_not_believed():
    class Lazy(Scripted):
        def score(self, claims, text, kind):
            return super().score(claims, text, kind)[:-1]

    precision, _ = scripted("a:1. b:1", "c:1", Lazy())
    assert precision.value is None
    assert "1 of 2" in precision.reason


def test_a_report():
    items = [
        Item("1", "q", "a:1. b:0", "c:1", "Report"),
        Item("2", "q", "a:1", "garbled", "Report"),
        Item("3", "q", "garbled", "c:0", "Grading"),
        Item("4", "q", "a:1", "c:1", "Grading"),
    ]
    found = judge_items(Scripted(), items)
    assert found.n_unscored == {"wsi_p": 1, "wsi_r": 1}
    whole = np.ones((1, 4))
    assert {k: float(s(whole)[0]) for k, s in found.statistics().items()} == {
        "wsi_p": pytest.approx(2.5 / 3),
        "wsi_r": pytest.approx(2 / 3),
    }
    assert {k: float(s(whole)[0]) for k, s in found.pessimistic().items()} == {
        "wsi_p": pytest.approx(2.5 / 4),
        "wsi_r": pytest.approx(2 / 4),
    }
    assert found.by_task() == {
        "Report": {"n": 2, "wsi_p": 0.75, "wsi_p_unscored": 0, "wsi_r": 1, "wsi_r_unscored": 1},
        "Grading": {"n": 2, "wsi_p": 1, "wsi_p_unscored": 1, "wsi_r": 0.5, "wsi_r_unscored": 0},
    }
    said = found.canonical()
    assert (said["judge"], said["rubric"]) == ("scripted", "1")
    value = bootstrap_interval(found.statistics()["wsi_p"], 4, groups="aabb", resamples=50)
    assert value.groups == 2
