"""The index of slide vectors: written, read back, added to, refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from wsiprep.core.errors import StoreCorruptError, StoreMismatchError
from wsiprep.tasks.retrieval_index import Entry, RetrievalIndex, read_index, write_index

MODEL = "ab" * 32


def vectors_of(count, dim=4, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def entry(name, vector, key="k"):
    return Entry.of(Path(f"/stores/{name}.zarr"), name, key, 10, vector)


def empty(dim=4):
    return RetrievalIndex(np.empty((0, dim), np.float32), (), MODEL, None)


def test_round_trip_and_search(tmp_path):
    rows = vectors_of(6)
    index = empty().added([entry(f"s{n}", row) for n, row in enumerate(rows)])
    write_index(tmp_path / "i.safetensors", index)
    back = read_index(tmp_path / "i.safetensors", model_sha256=MODEL, max_patches=None)
    assert back.slides == index.slides
    np.testing.assert_array_equal(back.vectors, rows)
    hits = back.search(rows[3], 4)
    assert hits[0].slide == "s3"
    assert hits[0].cosine == pytest.approx(1)
    assert [h.cosine for h in hits] == sorted((float(c) for c in rows @ rows[3]), reverse=True)[:4]
    others = back.search(rows[3], 9, without=Path("/stores/s3.zarr"))
    assert [h.slide for h in others][:3] == [h.slide for h in hits[1:]]
    assert len(others) == 5
    write_index(tmp_path / "again.safetensors", back)
    content = (tmp_path / "i.safetensors").read_bytes()
    assert (tmp_path / "again.safetensors").read_bytes() == content


def test_a_slide_that_comes_again_is_replaced():
    rows = vectors_of(4)
    index = empty().added([entry("a", rows[0]), entry("b", rows[1])])
    assert index.known == {("/stores/a.zarr", "k"), ("/stores/b.zarr", "k")}
    index = index.added([entry("a", rows[2], "new"), entry("c", rows[3])])
    assert [s["id"] for s in index.slides] == ["b", "a", "c"]
    assert ("/stores/a.zarr", "new") in index.known
    np.testing.assert_array_equal(index.vectors, rows[[1, 2, 3]])
    assert index.added([]) is index


def test_equal_slides_stand_in_the_order_of_the_index():
    row = vectors_of(1)[0]
    index = empty().added([entry(name, row) for name in "cab"])
    assert [h.slide for h in index.search(row, 3)] == ["c", "a", "b"]


def test_what_is_refused(tmp_path):
    path = tmp_path / "i.safetensors"
    write_index(path, empty().added([entry("a", vectors_of(1)[0])]))
    with pytest.raises(StoreMismatchError, match="was made by model abababababab"):
        read_index(path, model_sha256="cd" * 32, max_patches=None)
    with pytest.raises(StoreMismatchError, match="--max-patches all, now it is 5"):
        read_index(path, model_sha256=MODEL, max_patches=5)
    words = {"format": 9, "model_sha256": MODEL, "max_patches": None, "slides": []}
    path.write_bytes(save({"vectors": np.zeros((0, 2))}, {"wsiprep": json.dumps(words)}))
    with pytest.raises(StoreMismatchError, match="format 9"):
        read_index(path, model_sha256=MODEL, max_patches=None)
    words["format"] = 1
    for tensors, said in (
        ({"other": np.zeros((0, 2))}, words),
        ({"vectors": np.zeros((3, 2))}, words),
        ({"vectors": np.zeros((0, 2))}, {"format": 1}),
    ):
        path.write_bytes(save(tensors, {"wsiprep": json.dumps(said)}))
        with pytest.raises(StoreCorruptError, match="cannot be read as an index"):
            read_index(path, model_sha256=MODEL, max_patches=None)
    with pytest.raises(StoreCorruptError):
        read_index(tmp_path / "none", model_sha256=MODEL, max_patches=None)
