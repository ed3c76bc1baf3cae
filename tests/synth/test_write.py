"""Pyramids: what OpenSlide and TiffSlide read is what was rendered."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import openslide
import pytest
import tiffslide
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsiprep.core.errors import OutputError
from wsiprep.core.types import Box, Size
from wsiprep.synth import SyntheticSlide, write_pyramid, write_slide

SLIDE = SyntheticSlide(seed=3, size=Size(1500, 1100), mpp=1.6)


def read(slide: openslide.AbstractSlide | tiffslide.TiffSlide, level: int) -> np.ndarray:
    width, height = slide.level_dimensions[level]
    return np.array(slide.read_region((0, 0), level, (width, height)).convert("RGB"))


def waves(box: Box) -> np.ndarray:
    """A picture that JPEG keeps well, cheap, and not the same anywhere."""
    x = np.arange(box.x, box.x + box.width)[None, :]
    y = np.arange(box.y, box.y + box.height)[:, None]
    planes = [128 + 90 * np.sin(x / 61 + y / 97), 128 + 60 * np.cos(y / 53) + 0 * x, 0 * x + y / 9]
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synth") / "small.svs"
    write_slide(path, SLIDE)
    return path


def test_openslide_knows_the_slide(written: Path) -> None:
    with openslide.OpenSlide(written) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == 1.6
        assert float(slide.properties["openslide.mpp-y"]) == 1.6
        assert slide.properties["openslide.objective-power"] == "20"
        assert slide.level_dimensions == ((1500, 1100), (375, 275))
        assert slide.level_downsamples == (1.0, 4.0)
        assert "thumbnail" in slide.associated_images


def test_level0_is_the_rendering(written: Path) -> None:
    expected = SLIDE.render(Box(0, 0, 1500, 1100)).astype(int)
    with openslide.OpenSlide(written) as slide:
        difference = np.abs(read(slide, 0) - expected)
    assert difference.mean() < 4
    assert np.abs(difference.mean(axis=(0, 1))).max() < 5


def test_tiffslide_reads_the_same(written: Path) -> None:
    with openslide.OpenSlide(written) as ours, tiffslide.TiffSlide(written) as theirs:
        assert theirs.level_dimensions == ours.level_dimensions
        assert theirs.properties["tiffslide.mpp-x"] == 1.6
        assert theirs.properties["tiffslide.vendor"] == "aperio"
        for level in range(ours.level_count):
            assert np.array_equal(read(ours, level), read(theirs, level))


def test_same_slide_same_bytes_and_nothing_left(written: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.svs"
    again.write_bytes(b"an older file")
    write_slide(again, SLIDE)
    assert again.read_bytes() == written.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again.svs"]


@pytest.mark.parametrize(
    ("dialect", "compression", "vendor"),
    [
        ("aperio", "jpeg", "aperio"),
        ("aperio", "jpeg2000", "aperio"),
        ("aperio", "deflate", "aperio"),
        ("plain", "jpeg", "generic-tiff"),
        ("plain", "deflate", "generic-tiff"),
    ],
)
def test_every_way_of_writing_opens(
    tmp_path: Path, dialect: str, compression: str, vendor: str
) -> None:
    path = tmp_path / "waves.tiff"
    write_pyramid(
        path,
        Size(700, 600),
        0.25,
        waves,
        downsamples=(1, 2, 4),
        compression=compression,  # type: ignore[arg-type]
        dialect=dialect,  # type: ignore[arg-type]
    )
    expected = waves(Box(0, 0, 700, 600)).astype(int)
    with openslide.OpenSlide(path) as slide, tiffslide.TiffSlide(path) as other:
        assert slide.properties["openslide.vendor"] == vendor
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        assert other.properties["tiffslide.mpp-x"] == pytest.approx(0.25)
        assert slide.level_dimensions == ((700, 600), (350, 300), (175, 150))
        difference = np.abs(read(slide, 0) - expected)
        assert difference.mean() < (1e-9 if compression == "deflate" else 2.0)
        assert difference.max() <= (0 if compression == "deflate" else 12)
        assert np.array_equal(read(slide, 1), read(other, 1))


def test_without_mpp_nobody_knows_it(tmp_path: Path) -> None:
    for dialect in ("aperio", "plain"):
        path = tmp_path / f"{dialect}.tiff"
        write_pyramid(path, Size(300, 300), None, waves, objective=None, dialect=dialect)  # type: ignore[arg-type]
        with openslide.OpenSlide(path) as slide:
            assert "openslide.mpp-x" not in slide.properties
            assert "openslide.objective-power" not in slide.properties


@settings(deadline=None, max_examples=12)
@example(width=40, height=963, steps=(1, 3, 6), tile=240)
@given(
    width=st.integers(40, 1300),
    height=st.integers(40, 1300),
    steps=st.sampled_from([(1,), (1, 4), (1, 2, 4, 8), (1, 3, 6), (1, 4, 16), (1, 32)]),
    tile=st.sampled_from([64, 240, 256]),
)
def test_lower_levels_are_area_averages(
    tmp_path_factory: pytest.TempPathFactory,
    width: int,
    height: int,
    steps: tuple[int, ...],
    tile: int,
) -> None:
    path = tmp_path_factory.mktemp("levels") / "waves.tiff"
    write_pyramid(
        path, Size(width, height), 1.0, waves, tile_px=tile, downsamples=steps,
        compression="deflate",
    )  # fmt: skip
    full = waves(Box(0, 0, width, height)).astype(np.float64)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == tuple((width // d, height // d) for d in steps)
        for level, d in enumerate(steps):
            h, w = height // d, width // d
            mean = full[: h * d, : w * d].reshape(h, d, w, d, 3).mean(axis=(1, 3))
            assert np.abs(read(slide, level) - mean).max() <= 0.5 * (level or 0) + 0.01 * level


def test_memory_does_not_grow_with_height(tmp_path: Path) -> None:
    peaks = []
    for height in (2048, 8192):
        boxes: list[Box] = []

        def render(box: Box, boxes: list[Box] = boxes) -> np.ndarray:
            boxes.append(box)
            return np.full((box.height, box.width, 3), 200, np.uint8)

        tracemalloc.start()
        write_pyramid(tmp_path / "tall.tiff", Size(1024, height), 0.5, render)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert max(max(box.width, box.height) for box in boxes) <= 1024
        assert sum(box.width * box.height for box in boxes) == 1024 * height
    assert peaks[1] < 1.5 * peaks[0]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_pyramid(tmp_path / "none" / "x.svs", Size(64, 64), 0.5, waves)


def test_a_failing_render_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.svs"
    path.write_bytes(b"old")

    def fail(box: Box) -> np.ndarray:
        raise RuntimeError("no pixels")

    with pytest.raises(RuntimeError, match="no pixels"):
        write_pyramid(path, Size(64, 64), 0.5, fail)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"downsamples": (2, 4)},
        {"downsamples": ()},
        {"downsamples": (1, 4, 6)},
        {"downsamples": (1, 128)},
        {"tile_px": 100},
        {"quality": 0},
        {"compression": "jpeg2000", "dialect": "plain"},
        {"compression": "zip"},
    ],
)
def test_what_is_no_pyramid_is_refused(tmp_path: Path, bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|multiple|empty|only"):
        write_pyramid(tmp_path / "x.tiff", Size(64, 64), 0.5, waves, **bad)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
