"""Stores as bags: every vector once, in order, by slide and by region."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.train.language.made import SHAPE, SPEC, grid_of, reads_of, some_cells, write_store
from wsiprep.core.errors import MissingStageError, StoreCorruptError, StoreMismatchError
from wsiprep.core.types import CHUNK_CELLS
from wsiprep.models.bags import Bag, pack
from wsiprep.store.read import FeatureStore
from wsiprep.train.language import bags
from wsiprep.train.language.bags import CasePatches, SlideFeatures, open_case, read_case
from wsiprep.train.language.fingerprint import Fingerprint

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A store that tests only read: its path, grid and vectors."""
    return write_store(tmp_path_factory.mktemp("plain"), "s", number=2)


def same(one: Bag, other: Bag) -> None:
    assert one.features.dtype == other.features.dtype
    for name in ("features", "cell", "slide"):
        assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_case_holds_every_vector_of_every_slide_in_the_order_of_the_store(tmp_path, dtype):
    made = [write_store(tmp_path, f"s{n}", number=n, dtype=dtype) for n in range(3)]
    case = read_case([path for path, _, _ in made])
    assert case.slides == ("s0", "s1", "s2")
    assert case.left_out == (0, 0, 0)
    assert case.bag.features.dtype == getattr(torch, dtype)
    assert case.bag.cell.dtype == case.bag.slide.dtype == torch.int64
    assert np.array_equal(case.bag.features, np.concatenate([v for _, _, v in made]))
    assert np.array_equal(case.bag.cell, np.concatenate([g.cell for _, g, _ in made]))
    assert np.array_equal(case.bag.slide, np.repeat([0, 1, 2], 300))
    # The first three numbers of a vector say where it belongs.
    assert np.array_equal(case.bag.features[:, 0].long(), case.bag.slide)
    assert np.array_equal(case.bag.features[:, 1:3].long(), case.bag.cell)
    packed = pack([case.bag, case.bag])  # which refuses any other order
    assert packed.lengths.tolist() == [900, 900]


def test_unreadable_patches_are_left_out_and_counted(tmp_path):
    ok = np.random.default_rng(5).random(300) < 0.7
    path, grid, vectors = write_store(tmp_path, "s", number=1, ok=ok)
    case = read_case([path])
    assert case.left_out == (int((~ok).sum()),)
    assert np.array_equal(case.bag.features, vectors[ok])
    assert np.array_equal(case.bag.cell, grid.cell[ok])
    assert torch.isfinite(case.bag.features).all()
    slide = SlideFeatures(path)
    assert len(slide) == ok.sum()
    assert np.array_equal(slide.cell, grid.cell[ok])
    assert np.array_equal(slide.take(np.array([5, 9, 40])).features, vectors[ok][[5, 9, 40]])


def test_some_patches_are_those_of_the_whole(plain):
    path, _, _ = plain
    slide = SlideFeatures(path)
    whole = slide.bag(4)
    for seed, count in enumerate((0, 1, 7, 150, 300)):
        rows = np.sort(np.random.default_rng(seed).choice(300, count, replace=False))
        same(slide.take(rows, 4), whole.take(torch.from_numpy(rows)))
    assert slide.take(np.array([], np.int64)).features.dtype == torch.float16


def test_patches_of_a_case_are_taken_slide_by_slide(tmp_path):
    how = (("float16", 200), ("float32", 200), ("float16", 0), ("float16", 200))
    paths = [
        write_store(tmp_path, f"s{n}", number=n, dtype=dtype, cells=some_cells(n, count))[0]
        for n, (dtype, count) in enumerate(how)
    ]
    case, whole = CasePatches(open_case(paths)), read_case(paths).bag
    assert len(case) == len(whole) == 600
    assert torch.equal(case.cell, whole.cell)
    assert torch.equal(case.slide, whole.slide)
    for seed, count in enumerate((0, 1, 30, 600)):
        rows = torch.randperm(600, generator=torch.Generator().manual_seed(seed))[:count]
        same(case.take(rows.sort().values), whole.take(rows.sort().values))
    same(case.take(torch.arange(590, 600)), whole.take(torch.arange(590, 600)))  # of one slide


def test_chunks_that_hold_what_is_taken_are_read_and_no_other(tmp_path, monkeypatch):
    path, _, _ = write_store(tmp_path, "s", cells=np.argwhere(np.ones(SHAPE, bool)))
    slide = SlideFeatures(path)
    asked = reads_of(monkeypatch)
    region = np.flatnonzero((slide.cell // CHUNK_CELLS == (1, 0)).all(axis=1))
    assert len(slide.take(region)) == CHUNK_CELLS**2
    assert asked == [(slice(16, 32), slice(0, 16))]
    del asked[:]
    few = np.array([region[0], region[-1], len(slide) - 1])
    slide.take(few)
    assert asked == [(slice(16, 32), slice(0, 16)), (slice(39, 40), slice(35, 36))]


def test_a_slide_without_patches_is_an_empty_bag(tmp_path):
    path, _, _ = write_store(tmp_path, "none", cells=np.empty((0, 2), int))
    full, _, vectors = write_store(tmp_path, "some", number=1)
    case = read_case([path])
    assert len(case.bag) == 0
    assert case.bag.features.shape == (0, SPEC.dim)
    assert np.array_equal(pack([case.bag, read_case([full]).bag]).starts, [0, 0, len(vectors)])


def test_slides_of_a_case_must_be_made_alike(tmp_path):
    one, _, _ = write_store(tmp_path, "one", number=1)
    spec = replace(SPEC, name="other:net", dim=7, weights_sha256="cd" * 32)
    other, _, _ = write_store(tmp_path, "two", number=2, spec=spec)
    with pytest.raises(StoreMismatchError) as caught:
        open_case([one, other])
    text = str(caught.value)
    for part in ("slide 'one'", "slide 'two'", "fake:net", "other:net", "dim is 5", "7"):
        assert part in text
    with pytest.raises(MissingStageError, match="needs a slide"):
        read_case([])


def test_slides_are_held_against_the_checkpoint_where_there_is_one(tmp_path):
    paths = [write_store(tmp_path, f"s{n}", number=n, mpp=mpp)[0]
             for n, mpp in enumerate((0.48, 0.52))]  # fmt: skip
    with pytest.raises(StoreMismatchError, match=r"0\.48 µm/px .* 0\.52 µm/px"):
        read_case(paths)
    expect = replace(Fingerprint.of(FeatureStore(paths[0])), mpp=0.5)
    assert len(read_case(paths, expect=expect).bag) == 600


def test_a_checkpoint_refuses_other_features(plain):
    path, _, _ = plain
    mine = Fingerprint.of(FeatureStore(path))
    assert read_case([path], expect=mine).fingerprint == mine
    with pytest.raises(StoreMismatchError, match=r"mpp is 1 µm/px in the checkpoint, 0\.5 µm/px"):
        read_case([path], expect=replace(mine, mpp=1.0))
    with pytest.raises(MissingStageError):
        read_case([path], encoder="nobody")


def test_a_vector_that_is_valid_and_not_finite_is_damage(tmp_path):
    cells = some_cells(0)
    grid = grid_of(cells)
    vectors = np.ones((len(grid), SPEC.dim))
    vectors[7, 2] = np.nan
    path, _, _ = write_store(tmp_path, "s", cells=cells, vectors=vectors)
    slide = SlideFeatures(path)
    for read in (slide.bag, lambda: slide.take(np.array([7]))):
        with pytest.raises(StoreCorruptError, match="marked valid"):
            read()
    assert len(slide.take(np.array([6, 8]))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cell: np.concatenate([cell[:1], cell[:-1]]), "one cell"),
        (lambda cell: cell[::-1], "order of chunks"),
        (lambda cell: cell + np.array([100, 0]), "outside its lattice"),
        (lambda cell: np.roll(cell, 5, axis=0), "order of chunks"),
    ],
)
def test_a_grid_that_is_no_lattice_is_damage(plain, change, message):
    path, grid, _ = plain
    features = FeatureStore(path).features()
    object.__setattr__(features.grid, "cell", change(grid.cell))
    with pytest.raises(StoreCorruptError, match=message):
        bags._check_lattice(features, "s")


def test_a_vector_of_no_patch_is_damage(plain):
    path, grid, _ = plain
    features = FeatureStore(path).features()
    row, col = next(
        c for c in np.argwhere(np.ones(SHAPE, bool)) if not (grid.cell == c).all(1).any()
    )
    features.valid[row, col] = True
    with pytest.raises(StoreCorruptError, match="no patch"):
        bags._check_lattice(features, "s")
    features = FeatureStore(path).features()
    features.attributes["encoder"]["dim"] = 9
    with pytest.raises(StoreCorruptError, match="5 numbers, their encoder makes 9"):
        bags._check_lattice(features, "s")
