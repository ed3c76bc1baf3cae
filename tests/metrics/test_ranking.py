import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.metrics.ranking import auroc, average_precision, mid_ranks

rows = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30)


def test_known_values():
    assert mid_ranks([3, 1, 3, 2]).tolist() == [3.5, 1, 3.5, 2]
    assert auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert auroc([1, 1], [True, False]) == 0.5
    assert average_precision([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    assert np.isnan(auroc([1, 2], [True, True]))
    assert np.isnan(average_precision([1, 2], [False, False]))


@settings(deadline=None)
@given(rows)
def test_auroc_is_the_share_of_pairs_in_order(table):
    scores, wanted = map(np.array, zip(*table, strict=True))
    pairs = [(a > b) + (a == b) / 2 for a in scores[wanted] for b in scores[~wanted]]
    if pairs:
        assert auroc(scores, wanted) == pytest.approx(np.mean(pairs))
        assert auroc(-scores, wanted) == pytest.approx(1 - np.mean(pairs))
    else:
        assert np.isnan(auroc(scores, wanted))


@settings(deadline=None)
@given(rows)
def test_average_precision_by_thresholds(table):
    scores, wanted = map(np.array, zip(*table, strict=True))
    if not wanted.any():
        return
    total, before = 0.0, 0.0
    for edge in sorted(set(scores), reverse=True):
        taken = scores >= edge
        recall = wanted[taken].sum() / wanted.sum()
        total += (recall - before) * wanted[taken].mean()
        before = recall
    assert average_precision(scores, wanted) == pytest.approx(total)


@pytest.mark.parametrize(
    ("scores", "wanted"), [([1, 2], [True]), ([np.nan, 1], [True, False]), ([[1]], [[True]])]
)
def test_wrong_arguments_are_refused(scores, wanted):
    for function in (auroc, average_precision):
        with pytest.raises(ValueError, match=r"finite|must be"):
            function(scores, wanted)


def test_as_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not here")
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, wanted = rng.integers(0, 12, 60) / 3, rng.random(60) < 0.3
        assert auroc(scores, wanted) == pytest.approx(metrics.roc_auc_score(wanted, scores))
        assert average_precision(scores, wanted) == pytest.approx(
            metrics.average_precision_score(wanted, scores)
        )
