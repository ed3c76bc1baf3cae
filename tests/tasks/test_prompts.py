"""Classes in words: every form of the file, and what is refused."""

from __future__ import annotations

import pytest
import torch

from wsiprep.core.errors import ConfigError
from wsiprep.tasks.prompts import (
    PATHOLOGY,
    ClassPrompts,
    class_set_names,
    class_vectors,
    read_classes,
)


def written(tmp_path, text, name="c.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", class_set_names())
def test_sets_that_come_with_it(name):
    found = read_classes(name)
    assert len(found.names) >= 2
    for texts in found.texts:
        assert len(texts) >= len(PATHOLOGY)
        assert len(set(texts)) == len(texts)
        assert all(text[0].isupper() and "{}" not in text for text in texts)
    assert {"kidney", "lung", "lymph-node"} <= set(class_set_names())


def test_forms_of_a_file(tmp_path):
    plain = read_classes(written(tmp_path, "a: one\nb: [two, three.]\n"), "none")
    assert plain.names == ("a", "b")
    assert plain.texts == (("One",), ("Two", "Three."))
    assert not plain.ordinal
    long = written(tmp_path, "ordinal: true\ntemplates: ['x {}.', '{}']\nclasses: [low, high]\n")
    assert read_classes(long).texts == (("X low.", "Low"), ("X high.", "High"))
    assert read_classes(long).ordinal
    assert read_classes(long, "none").texts == (("Low",), ("High",))
    assert len(read_classes(long, "pathology").texts[0]) == len(PATHOLOGY)
    own = written(tmp_path, "['see {}']", "t.yaml")
    assert read_classes(long, own).texts == (("See low",), ("See high",))
    dotted = read_classes(written(tmp_path, "a: one.\nb: two\n"))
    assert not any(text.endswith("..") for texts in dotted.texts for text in texts)
    assert dotted.canonical()["classes"]["b"][0] == "Two."
    # A class may be called `classes`.
    odd = read_classes(written(tmp_path, "classes: c\nschools: s\n"), "none")
    assert odd.names == ("classes", "schools")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: one", "too few"),
        ("[a, b]", "no classes"),
        ("no: one\nyes: two", "in quotes"),
        ("a: []\nb: c", "no prompt"),
        ("a: [1]\nb: c", "instead of text"),
        ("a: one\na: two", "there twice"),
        ("classes: {a: b, c: d}\nordinal: often", "true or false"),
        ("classes: {a: b, c: d}\ntemplates: ['no place']", r"does not have \{\} once"),
        ("classes: {a: b, c: d}\ntemplates: []", "list of sentences"),
        ("a: [", "cannot be read"),
    ],
)
def test_what_is_refused(tmp_path, text, why):
    with pytest.raises(ConfigError, match=why):
        read_classes(written(tmp_path, text))


def test_names_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no set of classes 'liver'") as caught:
        read_classes("liver")
    assert "kidney" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="no templates"):
        read_classes("kidney", "poetry")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_classes(str(tmp_path / "none.yaml"))


def test_a_class_is_the_mean_of_its_sentences():
    rows = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [-1.0, 0.0]}

    class Model:
        def embed_texts(self, texts):
            return torch.tensor([rows[text] for text in texts])

    found = class_vectors(Model(), ClassPrompts(("x", "y"), (("a", "b"), ("c",)), False, "t"))
    half = 0.5**0.5
    torch.testing.assert_close(found, torch.tensor([[half, half], [-1.0, 0.0]]))
