import numpy as np
import pytest

from wsiprep.metrics.bootstrap import bootstrap_interval
from wsiprep.metrics.zero_shot import score_classes


def test_by_hand():
    scores = [[2, 1, 0], [0, 1, 0], [0, 2, 1], [0, 1, 2], [3, 0, 0]]
    found = score_classes(scores, [0, 0, 1, 2, 2], ["a", "b", "c"], ordinal=True)
    assert found.predicted.tolist() == [0, 1, 1, 2, 0]
    assert found.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    values = found.values()
    assert values["accuracy"] == pytest.approx(0.6)
    assert values["balanced_accuracy"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    f1 = [0.5, 2 / 3, 2 / 3]
    assert values["macro_f1"] == pytest.approx(np.mean(f1))
    assert values["weighted_f1"] == pytest.approx((2 * f1[0] + f1[1] + 2 * f1[2]) / 5)
    # Errors: one of distance 1, one of 2. By chance: rows (2, 1, 2), columns (2, 2, 1):
    # 2 * (2 + 4) + 1 * (2 + 1) + 2 * (8 + 2) = 35.
    assert values["quadratic_weighted_kappa"] == pytest.approx(1 - 5 * 5 / 35)
    assert found.majority == "a"


def test_two_classes_have_one_auroc():
    found = score_classes([[0.2, 0.9], [0.8, 0.3], [0.4, 0.5]], [1, 0, 0], ["no", "yes"])
    assert found.values()["auroc"] == 1
    assert found.auroc_by_class == {"no": 1, "yes": 1}
    assert "quadratic_weighted_kappa" not in found.values()


def test_classes_that_do_not_occur():
    found = score_classes([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 0], ["a", "b", "c"])
    values = found.values()
    assert values["auroc"] is None
    assert values["balanced_accuracy"] == pytest.approx(1 / 3)
    assert values["macro_f1"] == pytest.approx(0.5 / 3)
    assert found.auroc_by_class == {"a": None, "b": None, "c": None}


def test_majority_is_at_chance():
    rng = np.random.default_rng(0)
    found = score_classes(rng.normal(size=(50, 3)), [0] * 30 + [1] * 15 + [2] * 5, ["a", "b", "c"],
                          ordinal=True)  # fmt: skip
    said = found.majority_statistics()
    at = {name: float(stat(np.ones((1, 50)))[0]) for name, stat in said.items()}
    assert at["accuracy"] == 0.6
    assert at["balanced_accuracy"] == pytest.approx(1 / 3)
    assert at["auroc"] == 0.5
    assert at["quadratic_weighted_kappa"] == 0


def test_intervals_by_patient():
    rng = np.random.default_rng(3)
    found = score_classes(rng.normal(size=(30, 3)), rng.integers(0, 3, 30), ["a", "b", "c"])
    patients = [k // 3 for k in range(30)]
    for name, stat in found.statistics().items():
        got = bootstrap_interval(stat, 30, groups=patients, resamples=100)
        assert got.value == pytest.approx(found.values()[name])
        assert got.low <= got.value <= got.high
        assert got.groups == 10


def test_wrong_arguments_are_refused():
    for scores, labels, classes, message in (
        ([[1.0]], [0], ["a"], "two classes"),
        ([[1.0, 2.0]], [0], ["a", "a"], "two classes"),
        ([[1.0, 2.0]], [0, 1], ["a", "b"], "samples"),
        ([[1.0, np.nan]], [0], ["a", "b"], "finite"),
        ([[1.0, 2.0]], [2], ["a", "b"], "none of the 2"),
        ([[1.0, 2.0]], [0.0], ["a", "b"], "whole"),
    ):
        with pytest.raises(ValueError, match=message):
            score_classes(scores, labels, classes)


@pytest.mark.filterwarnings("ignore")
def test_as_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not here")
    rng = np.random.default_rng(0)
    for classes in (2, 4):
        names = [f"c{k}" for k in range(classes)]
        for _ in range(10):
            labels = np.append(rng.integers(0, classes, 40), range(classes))
            scores = rng.dirichlet(np.ones(classes), len(labels))
            found = score_classes(scores, labels, names, ordinal=True)
            said, values = found.predicted, found.values()
            want = {
                "accuracy": metrics.accuracy_score(labels, said),
                "balanced_accuracy": metrics.balanced_accuracy_score(labels, said),
                "macro_f1": metrics.f1_score(labels, said, average="macro"),
                "weighted_f1": metrics.f1_score(labels, said, average="weighted"),
                "quadratic_weighted_kappa": metrics.cohen_kappa_score(
                    labels, said, weights="quadratic"
                ),
                "auroc": metrics.roc_auc_score(labels, scores[:, 1])
                if classes == 2
                else metrics.roc_auc_score(labels, scores, multi_class="ovr"),
            }
            assert values == pytest.approx(want)
