"""What features were made with: read from a store, kept, compared."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from tests.train.language.made import SPEC, grid_of, some_cells, write_store
from wsiprep.core.errors import StoreMismatchError
from wsiprep.store.read import FeatureStore
from wsiprep.train.language.fingerprint import Fingerprint

MINE = Fingerprint("lite0", "ab" * 32, 1280, 0.5, 224, 224, False)
OTHER = {
    "encoder": "uni2",
    "weights_sha256": "cd" * 32,
    "dim": 1536,
    "mpp": 1.0,
    "patch_px": 256,
    "stride_px": 112,
    "normalised": True,
}


def test_it_is_read_from_the_store(tmp_path):
    path, _, _ = write_store(tmp_path, "s", stride_px=128, mpp=0.4992)
    assert Fingerprint.of(FeatureStore(path), "g", SPEC.name) == Fingerprint(
        "fake:net", "ab" * 32, 5, 0.4992, 256, 128, False
    )


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_whether_vectors_have_length_1_is_seen(tmp_path, dtype):
    cells = some_cells(0)
    vectors = np.random.default_rng(0).normal(size=(len(grid_of(cells)), SPEC.dim))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ok = np.arange(len(unit)) > 2  # what is not valid is NaN, and says nothing
    for name, values, expected in (("unit", unit, True), ("raw", vectors, False)):
        path, _, _ = write_store(tmp_path, name, cells=cells, vectors=values, dtype=dtype, ok=ok)
        assert Fingerprint.of(FeatureStore(path)).normalised is expected
    path, _, _ = write_store(tmp_path, "none", cells=np.empty((0, 2)))
    unknown = Fingerprint.of(FeatureStore(path))
    assert unknown.normalised is None
    # What nobody can know is no difference, whoever is asked; all else is.
    for known in (True, False):
        mine = replace(unknown, normalised=known)
        mine.check(unknown)
        unknown.check(mine)
        assert replace(mine, dim=9).differences(unknown) == ("dim",)
    with pytest.raises(StoreMismatchError, match="normalised"):
        Fingerprint.of_canonical(unknown.canonical())


def test_it_survives_json():
    text = json.dumps(MINE.canonical())
    assert Fingerprint.of_canonical(json.loads(text)) == MINE
    whole = json.dumps(MINE.canonical() | {"mpp": 1})
    assert Fingerprint.of_canonical(json.loads(whole)).mpp == 1
    for wrong in ({"dim": "1280"}, {"dim": True}, {"normalised": 0}, {"extra": 1}):
        with pytest.raises(StoreMismatchError, match=next(iter(wrong))):
            Fingerprint.of_canonical(MINE.canonical() | wrong)
    with pytest.raises(StoreMismatchError, match="encoder"):
        Fingerprint.of_canonical({k: v for k, v in MINE.canonical().items() if k != "encoder"})


@pytest.mark.parametrize("name", [field.name for field in fields(Fingerprint)])
def test_every_field_is_compared_and_both_sides_are_named(name):
    other = replace(MINE, **{name: OTHER[name]})
    assert MINE.differences(other) == (name,)
    with pytest.raises(StoreMismatchError) as caught:
        MINE.check(other, slide="s7", ours="the checkpoint", theirs="the store")
    assert caught.value.slide == "s7"
    text = caught.value.message
    assert f"{name} is " in text
    for part in ("checkpoint", "store"):
        assert part in text
    others = {field.name for field in fields(Fingerprint)} - {name}
    assert not any(f"{one} is " in text for one in others)


def test_several_fields_are_named_with_values():
    with pytest.raises(StoreMismatchError) as caught:
        MINE.check(Fingerprint(**OTHER))
    for part in ("lite0", "uni2", "1280", "1536", "abababababab", "cdcdcdcdcdcd", "224 px",
                 "0.5 µm/px", "1 µm/px", "no in", "yes in"):  # fmt: skip
        assert part in caught.value.message


def test_resolutions_of_two_scanners_are_one():
    MINE.check(replace(MINE, mpp=0.4975))
    MINE.check(replace(MINE, mpp=0.524))
    assert MINE.differences(replace(MINE, mpp=0.53)) == ("mpp",)
