"""Intervals against scipy, against theory, and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.metrics import bootstrap, bootstrap_interval, mean_of, of_rows, of_sums
from wsiprep.metrics.bootstrap import quotient


def pooled(sums):
    return quotient(sums[:, 0], sums[:, 1])


def test_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    values = rng.beta(8, 2, 60)
    ours = bootstrap_interval(mean_of(values), 60, resamples=20_000, seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(9)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-3)
    parts = rng.random((60, 2)) + 0.1
    ours = bootstrap_interval(of_sums(parts, pooled), 60, resamples=20_000, seed=1)
    theirs = stats.bootstrap(
        (parts[:, 0], parts[:, 1]),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(9),
    ).confidence_interval
    assert ours.value == pytest.approx(parts[:, 0].sum() / parts[:, 1].sum())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=4e-3)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 4)), min_size=2, max_size=25),
    st.integers(0, 9),
)
def test_weights_and_rows_say_the_same(table, seed):
    values = np.array([value for value, _ in table])
    groups = [group for _, group in table]
    how = {"groups": groups, "resamples": 100, "seed": seed}
    fast = bootstrap_interval(mean_of(values), len(table), **how)
    slow = bootstrap_interval(of_rows(lambda rows: values[rows].mean()), len(table), **how)
    assert fast.groups == slow.groups == len(set(groups))
    for name in ("value", "low", "high"):
        assert getattr(fast, name) == pytest.approx(getattr(slow, name), abs=1e-9)
    if fast.low is None:
        assert len(set(groups)) == 1
    else:
        assert values.min() - 1e-9 <= fast.low <= fast.high <= values.max() + 1e-9


def test_rows_of_a_patient_are_drawn_together():
    values = np.repeat([0.0, 1.0, 0.0, 1.0], 25)
    alone = bootstrap_interval(mean_of(values), 100)
    groups = np.repeat(["a", "b", "c", "d"], 25).tolist()
    together = bootstrap_interval(mean_of(values), 100, groups=groups)
    assert together.groups == 4
    assert alone.groups == 100
    assert together.high - together.low > 3 * (alone.high - alone.low)
    assert (together.low, together.high) == (0, 1)


def test_same_seed_same_interval_whatever_the_blocks(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    first = bootstrap_interval(mean_of(values), 50, seed=4)
    assert first == bootstrap_interval(mean_of(values), 50, seed=4)
    assert first != bootstrap_interval(mean_of(values), 50, seed=5)
    monkeypatch.setattr(bootstrap, "BLOCK", 170)
    again = bootstrap_interval(mean_of(values), 50, seed=4)
    assert (again.low, again.high) == pytest.approx((first.low, first.high))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(11)
    hits = 0
    for trial in range(300):
        values = rng.normal(size=40)
        found = bootstrap_interval(mean_of(values), 40, resamples=400, confidence=0.9, seed=trial)
        hits += found.low <= 0 <= found.high
    assert 0.83 <= hits / 300 <= 0.94


def test_what_is_undefined_is_none():
    assert bootstrap_interval(mean_of([]), 0).value is None
    assert bootstrap_interval(mean_of([np.nan, np.nan]), 2).value is None
    single = bootstrap_interval(mean_of([0.5]), 1)
    assert (single.value, single.low, single.high) == (0.5, None, None)
    part = bootstrap_interval(mean_of([1.0, np.nan, 3.0]), 3)
    assert part.value == 2
    # Resamples without any defined row are left out instead of making the ends NaN.
    rare = bootstrap_interval(of_sums([[1, 1], [0, 0], [0, 0]], pooled), 3)
    assert (rare.value, rare.low, rare.high) == (1, 1, 1)
    assert rare.canonical() == {"value": 1, "low": 1, "high": 1, "groups": 3}


def test_wrong_arguments_are_refused():
    for wrong in ({"confidence": 1.0}, {"resamples": 0}, {"groups": ["a"]}):
        with pytest.raises(ValueError, match=r"confidence|resamples|labels"):
            bootstrap_interval(mean_of([1.0, 2.0]), 2, **wrong)
