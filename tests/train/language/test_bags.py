"""Stores as bags: every vector once, in order, by slide and by region."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.train.language.made import SHAPE, SPEC, grid_of, some_cells, write_store
from wsiprep.core.errors import MissingStageError, StoreCorruptError, StoreMismatchError
from wsiprep.core.types import CHUNK_CELLS
from wsiprep.models.bags import pack
from wsiprep.store.read import FeatureStore
from wsiprep.train.language import bags
from wsiprep.train.language.bags import SlideFeatures, join_bags, open_case, read_case
from wsiprep.train.language.fingerprint import Fingerprint

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A store that tests only read: its path, grid and vectors."""
    return write_store(tmp_path_factory.mktemp("plain"), "s", number=2)


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
    assert np.array_equal(slide.bag().features, slide.some(np.arange(len(slide.regions))).features)


def test_regions_are_chunks_and_together_the_slide(plain):
    path, _, _ = plain
    slide = SlideFeatures(path)
    whole = slide.bag(4)
    parts = [slide.region(int(r), int(c), 4) for r, c in slide.regions]
    joined = join_bags(parts)
    for name in ("features", "cell", "slide"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    for (row, col), part in zip(slide.regions, parts, strict=True):
        assert len(part)
        assert (part.cell // CHUNK_CELLS == torch.tensor([row, col])).all()
    starts = pack([whole]).region_starts
    assert len(starts) - 1 == len(parts)
    assert (starts[1:] - starts[:-1]).tolist() == [len(part) for part in parts]
    assert len(slide.region(2, 2)) > 0  # the corner, where the lattice ends inside the chunk
    assert len(slide.region(9, 9)) == 0


def test_some_regions(plain):
    path, _, _ = plain
    slide = SlideFeatures(path)
    some = slide.some(np.array([1, 3]))
    assert torch.equal(some.features, join_bags([slide.region(*slide.regions[n]) for n in (1, 3)])
                       .features)  # fmt: skip
    none = slide.some(np.array([], np.int64))
    assert none.features.shape == (0, SPEC.dim)
    assert none.features.dtype == torch.float16
    for wrong in ([3, 1], [1, 1]):
        with pytest.raises(ValueError, match="increasing"):
            slide.some(np.array(wrong))


def test_a_region_reads_its_chunk_and_nothing_else(tmp_path, monkeypatch):
    path, _, _ = write_store(tmp_path, "s", cells=np.argwhere(np.ones(SHAPE, bool)))
    slide = SlideFeatures(path)
    asked = []
    read = type(slide.features)._read
    monkeypatch.setattr(
        type(slide.features),
        "_read",
        lambda self, rows, cols: asked.append((rows, cols)) or read(self, rows, cols),
    )
    bag = slide.region(1, 0)
    assert asked == [(slice(16, 32), slice(0, 16))]
    assert len(bag) == 256


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
    path, grid, _ = write_store(tmp_path, "s", cells=cells, vectors=vectors)
    slide = SlideFeatures(path)
    row, col = grid.cell[7] // CHUNK_CELLS
    for read in (slide.bag, lambda: slide.region(int(row), int(col))):
        with pytest.raises(StoreCorruptError, match="marked valid"):
            read()


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
