import json

import pytest

from wsiprep.core.errors import OutputError
from wsiprep.metrics.judge import CachedJudge, ClaimScore, Judge, Unscored, as_level
from wsiprep.metrics.judges import registry


class Counting:
    """A judge that says what it is told to, and counts."""

    suffix = ""

    def __init__(self, judge_id="j", rubric="1", fail=False):
        self.id, self.rubric, self.fail, self.calls = judge_id, rubric, fail, 0

    def extract(self, question, answer):
        self.calls += 1
        return Unscored("no") if self.fail else (f"{question}|{answer}",)

    def score(self, claims, text, kind):
        self.calls += 1
        if self.fail:
            return Unscored("no")
        return tuple(ClaimScore(claim, 0.7, f"{text} {kind}") for claim in claims)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_names():
    assert registry.names() == ["hf", "http", "offline"]
    assert isinstance(registry.load("offline").create(registry.load("offline").Config()), Judge)


def test_levels():
    assert [as_level(value) for value in (1, 0.7, 0.3, 0, 0.30000000001)] == [1, 0.7, 0.3, 0, 0.3]
    assert {as_level(value) for value in (0.5, True, "1", None, float("nan"))} == {None}


def test_everything_is_asked_once(tmp_path):
    first = CachedJudge(Counting(), tmp_path)
    said = (first.extract("q", "a"), first.score(["c"], "t", "precision"))
    assert (first.hits, first.asked) == (0, 2)
    later = CachedJudge(Counting(), tmp_path)
    assert (later.extract("q", "a"), later.score(["c"], "t", "precision")) == said
    assert (later.hits, later.asked, later.judge.calls) == (2, 0, 0)
    assert len(files(tmp_path)) == 2
    assert all(len(path.stem) == 64 for path in files(tmp_path))
    assert (later.id, later.rubric, later.suffix) == ("j", "1", "")
    assert isinstance(later, Judge)


@pytest.mark.parametrize("other", [Counting("k"), Counting("j", "2")])
def test_another_judge_or_rubric_is_asked_again(tmp_path, other):
    CachedJudge(Counting(), tmp_path).extract("q", "a")
    CachedJudge(other, tmp_path).extract("q", "a")
    assert other.calls == 1


def test_other_inputs_are_asked_again(tmp_path):
    judge = Counting()
    cached = CachedJudge(judge, tmp_path)
    cached.score(["c"], "t", "precision")
    cached.score(["c"], "t", "relevance")
    cached.score(["c", "d"], "t", "precision")
    cached.score(["c"], "u", "precision")
    cached.extract("q", "a")
    cached.extract("qa", "")
    assert judge.calls == 6


def test_what_cannot_be_used_is_not_kept(tmp_path):
    assert CachedJudge(Counting(fail=True), tmp_path).extract("q", "a") == Unscored("no")
    assert CachedJudge(Counting(fail=True), tmp_path).score(["c"], "t", "precision") == Unscored(
        "no"
    )
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: "{",
        lambda entry: json.dumps([1]),
        lambda entry: json.dumps({**entry, "answer": ["x"]}),
        lambda entry: json.dumps({**entry, "answer": [{**entry["answer"][0], "score": 0.5}]}),
        lambda entry: json.dumps({**entry, "answer": [{**entry["answer"][0], "claim": "z"}]}),
    ],
)
def test_a_damaged_file_is_asked_again_and_mended(tmp_path, damage):
    said = CachedJudge(Counting(), tmp_path).score(["c"], "t", "precision")
    (path,) = files(tmp_path)
    whole = path.read_text()
    path.write_text(damage(json.loads(whole)))
    again = CachedJudge(Counting(), tmp_path)
    assert again.score(["c"], "t", "precision") == said
    assert again.asked == 1
    assert path.read_text() == whole


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot keep a judge's answer"):
        CachedJudge(Counting(), tmp_path / "file").extract("q", "a")
