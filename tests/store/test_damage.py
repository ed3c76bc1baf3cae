"""Damaged stores: an error, never fill values."""

from __future__ import annotations

import pytest

from tests.store.made import tissue_of
from wsiprep.core.errors import StoreCorruptError, StoreMismatchError
from wsiprep.store.claim import claim_store
from wsiprep.store.read import FeatureStore
from wsiprep.store.verify import verify_output


def test_a_missing_shard_is_an_error_not_fill_values(written):
    store, _, _ = written
    shard = next(store.path.glob("grids/g/features/fake-net/values/c/*/*/*"))
    shard.unlink()
    with pytest.raises(StoreCorruptError, match=r"missing.*wsiprep verify"):
        FeatureStore(store.path).features()


def test_a_flipped_byte_is_an_error(written):
    store, _, _ = written
    shard = next(store.path.glob("grids/g/features/fake-net/values/c/*/*/*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0x55
    shard.write_bytes(content)
    with pytest.raises(StoreCorruptError, match="does not decode"):
        FeatureStore(store.path).features().rows()
    findings = verify_output(store.path.parent).findings
    assert [f.part for f in findings] == ["grids/g/features/fake-net"]
    assert "sha256" in findings[0].problem
    assert "wsiprep embed" in findings[0].remedy


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", StoreCorruptError),
        (b"{", StoreCorruptError),
        (b'{"zarr_format": 3, "node_type": "group", "attributes": {}}', StoreCorruptError),
        (b'{"attributes": {"wsiprep": {"format": 99}}}', StoreMismatchError),
        (b'{"attributes": {"wsiprep": {"format": 1}}}', StoreCorruptError),
    ],
)
def test_a_root_that_is_not_ours(tmp_path, content, error):
    path = tmp_path / "x.zarr"
    path.mkdir()
    (path / "zarr.json").write_bytes(content)
    with pytest.raises(error):
        FeatureStore(path)
    assert len(verify_output(tmp_path).findings) == 1


def test_verify_sees_strays_and_journals(written, info):
    store, grid, _ = written
    out = store.path.parent
    assert verify_output(out).findings == ()
    with claim_store(out, info) as held:
        held.journal("g", "late", "k", len(grid), 3, "float16").close()
        held.put_tissue(tissue_of(info, seed=5), "another-key", {})
        held.forget("grids/g/features/fake-net")
    problems = {(f.part, f.problem.split(",")[0]) for f in verify_output(out).findings}
    assert ("grids/g", "it was made from another tissue than is there now") in problems
    assert ("grids/g/features/fake-net", "it was not finished") in problems
    assert any(part == "g/late (journal)" for part, _ in problems)


def test_a_part_with_a_missing_file_counts_as_not_there(written, info):
    store, _, _ = written
    next(store.path.glob("tissue/mask/c/*/*")).unlink()
    with claim_store(store.path.parent, info) as held:
        assert held.unit("tissue") is None
        assert held.unit("grids/g") is not None
