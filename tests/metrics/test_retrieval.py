import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.metrics.bootstrap import bootstrap_interval
from wsiprep.metrics.retrieval import (
    caption_numbers,
    retrieve,
    retrieve_by_class,
    retrieve_commonest,
    retrieve_direction,
)


def test_ranks_by_hand():
    table = [[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.1, 0.2, 0.9]]
    found = retrieve(table, ["a", "b", "c"], depths=(1, 2))
    assert found.to_text.rank.tolist() == [1, 3, 1]
    assert found.to_slide.rank.tolist() == [1, 1, 1]
    assert found.to_text.recall_at(1) == pytest.approx(2 / 3)
    assert found.to_text.recall_at(2) == pytest.approx(2 / 3)
    assert found.to_text.mean_reciprocal_rank == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert found.to_text.median_rank == 1
    assert found.to_text.chance == pytest.approx({1: 1 / 3, 2: 2 / 3})
    assert found.duplicates == 0


def test_the_commonest_first_by_hand():
    found = retrieve_commonest(["a", "b", "A.", "a", "b", "c"], depths=(1, 2, 4))
    # Captions in the order a (3 slides), b (2), c.
    assert found.to_text.rank.tolist() == [1, 2, 1, 1, 2, 3]
    assert found.to_text.recall_at(1) == 0.5
    # Slides in the order of their captions: three of a, then two of b, then that of c.
    assert found.to_slide.recall_at(1) == 0.5
    assert found.to_slide.recall[4].tolist() == [1, 1, 1, 1, 1, 0]
    alone = retrieve_commonest(["a", "b", "c", "d"], depths=(1, 2))
    assert alone.to_text.recall_at(2) == pytest.approx(alone.to_text.chance[2]) == 0.5


def test_equal_captions_are_one_item_of_the_gallery_and_all_right():
    captions = ["Normal tissue.", "normal  tissue", "Tumor, grade 2."]
    assert caption_numbers(captions).tolist() == [0, 0, 1]
    table = np.array([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5], [0.8, 0.95, 0.7]])
    found = retrieve(table, captions, depths=(1,))
    assert found.duplicates == 2
    assert found.to_text.gallery == 2
    assert found.to_slide.gallery == 3
    # Slide 3 has both copies of the normal caption above its own: one wrong item, not two.
    assert found.to_text.rank.tolist() == [1, 1, 2]
    # Text 1 finds slide 2, which has its caption; for text 2 slide 3 comes before slide 1.
    assert found.to_slide.rank.tolist() == [1, 2, 1]


def test_signs_make_another_caption():
    assert caption_numbers(["ER+", "ER-", "er +"]).tolist() == [0, 1, 0]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_ties_are_every_order_equally_likely(scores, right):
    right = right[: len(scores)]
    if not any(right):
        return
    found = retrieve_direction([scores], [right], depths=(1, 2))
    ranks = []
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(order, key=lambda k: -scores[k])  # stable: ties stay as shuffled
        ranks.append(1 + next(place for place, k in enumerate(ranked) if right[k]))
    assert found.rank[0] == pytest.approx(np.mean(ranks))
    assert found.reciprocal[0] == pytest.approx(np.mean(1 / np.array(ranks)))
    for depth in (1, 2):
        assert found.recall[depth][0] == pytest.approx(np.mean(np.array(ranks) <= depth))
    shuffled = [
        any(right[k] for k in order[:2]) for order in itertools.permutations(range(len(scores)))
    ]
    assert found.chance[2] == pytest.approx(np.mean(shuffled))


def test_a_constant_model_is_at_chance():
    found = retrieve(np.zeros((40, 40)), [f"caption {k}" for k in range(40)])
    for direction in (found.to_text, found.to_slide):
        for depth in (1, 5, 10):
            assert direction.recall_at(depth) == pytest.approx(depth / 40)
            assert direction.chance[depth] == pytest.approx(depth / 40)


def test_statistics_say_the_same():
    rng = np.random.default_rng(1)
    captions = [f"c{k % 15}" for k in range(20)]
    found = retrieve(rng.normal(size=(20, 20)), captions)
    said = found.statistics()
    assert set(found.chances()) <= set(said)
    value = bootstrap_interval(said["text_to_slide_r_at_5"], 20, resamples=50)
    assert value.value == pytest.approx(found.to_slide.recall_at(5))
    median = bootstrap_interval(said["slide_to_text_median_rank"], 20, resamples=50)
    assert median.value == pytest.approx(found.to_text.median_rank)


def test_order_of_samples_does_not_matter():
    rng = np.random.default_rng(2)
    table, captions = rng.integers(0, 5, (12, 12)), [f"c{k // 2}" for k in range(12)]
    order = rng.permutation(12)
    one = retrieve(table, captions)
    other = retrieve(table[np.ix_(order, order)], [captions[k] for k in order])
    assert np.allclose(one.to_text.rank[order], other.to_text.rank)
    assert np.allclose(one.to_slide.rank[order], other.to_slide.rank)


def test_by_class():
    table = [[9, 3, 2, 1], [3, 9, 1, 2], [2, 3, 9, 1], [1, 1, 1, 9]]
    found = retrieve_by_class(table, ["x", "x", "y", "z"])
    assert found.precision[:2].tolist() == [1, 1]
    assert np.isnan(found.precision[2:]).all()
    assert found.by_class == {"x": 1.0}
    assert found.mean == found.macro == 1
    other = retrieve_by_class([[1, 2, 3]], ["x"], ["x", "y", "x"])
    assert other.mean == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(retrieve_by_class([[1]], ["x"]).macro)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="slides by texts"):
        retrieve(np.zeros((2, 3)), ["a", "b"])
    with pytest.raises(ValueError, match="finite"):
        retrieve([[np.nan]], ["a"])
    with pytest.raises(ValueError, match="query 1 has no right item"):
        retrieve_direction(np.zeros((2, 2)), [[True, False], [False, False]])
    with pytest.raises(ValueError, match=r"\(n, g\)"):
        retrieve_direction(np.zeros((0, 2)), np.zeros((0, 2), bool))
    with pytest.raises(ValueError, match="queries"):
        retrieve_by_class(np.zeros((2, 3)), ["a", "b"])
