"""The contract of a segmenter, as tests. Subclass it, give the fixture, and run pytest.

class TestMine(SegmenterContract):
@pytest.fixture
def segmenter(self):
return create(Config())
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from wsiprep.core.contracts import Segmenter
from wsiprep.core.types import Segmentation

__all__ = ["SegmenterContract", "blob_thumbnail"]

MPP = 8.0


def blob_thumbnail(
    height: int = 300, width: int = 400
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A pink and purple ellipse with texture on glass.

    Returns:
        uint8 (h, w, 3) RGB and the bool (h, w) truth.
    """
    rng = np.random.default_rng(7)
    truth = np.zeros((height, width), dtype=np.uint8)
    cv2.ellipse(truth, (width // 2, height // 2), (width // 4, height // 4), 20, 0, 360, 1, -1)
    tissue = truth > 0
    image = np.full((height, width, 3), (241.0, 240.0, 242.0))
    noise = rng.normal(size=(height, width))
    image[tissue] = np.array([205.0, 140.0, 185.0]) + 14 * noise[tissue][:, None]
    image += rng.normal(scale=1.5, size=image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), tissue


class SegmenterContract:
    """What `wsiprep.core.contracts.Segmenter` promises."""

    @pytest.fixture
    def segmenter(self) -> Segmenter:
        """The segmenter under test; subclasses override it."""
        raise NotImplementedError("override the fixture `segmenter`")

    def check(self, found: Segmentation, shape: tuple[int, int]) -> None:
        """Shapes and dtypes."""
        assert isinstance(found, Segmentation)
        for mask in (found.tissue, found.pen, found.edge, found.fold):
            if mask is not None:
                assert mask.shape == shape
                assert mask.dtype == np.bool_
        assert all(isinstance(note, str) and note for note in found.notes)

    def test_is_a_segmenter(self, segmenter: Segmenter) -> None:
        """It has the methods of the protocol."""
        assert isinstance(segmenter, Segmenter)

    def test_clear_tissue_is_found(self, segmenter: Segmenter) -> None:
        """A stained piece on clean glass is found, and little else."""
        image, truth = blob_thumbnail()
        found = segmenter.segment(image, MPP)
        self.check(found, truth.shape)
        union = (found.tissue | truth).sum()
        assert (found.tissue & truth).sum() / union > 0.85

    def test_white_is_empty(self, segmenter: Segmenter) -> None:
        """A white image has no tissue and no ink."""
        found = segmenter.segment(np.full((120, 90, 3), 255, dtype=np.uint8), MPP)
        self.check(found, (120, 90))
        assert not found.tissue.any()
        assert not found.pen.any()

    def test_same_input_same_output(self, segmenter: Segmenter) -> None:
        """Twice the same image gives twice the same masks."""
        image, _ = blob_thumbnail()
        one, two = segmenter.segment(image, MPP), segmenter.segment(image.copy(), MPP)
        np.testing.assert_array_equal(one.tissue, two.tissue)
        np.testing.assert_array_equal(one.pen, two.pen)
        for name in ("edge", "fold"):
            first, second = getattr(one, name), getattr(two, name)
            assert (first is None) == (second is None)
            if first is not None:
                np.testing.assert_array_equal(first, second)
        assert one.notes == two.notes

    def test_input_is_not_changed(self, segmenter: Segmenter) -> None:
        """The thumbnail is left alone, and may be read-only."""
        image, _ = blob_thumbnail()
        before = image.copy()
        image.flags.writeable = False
        segmenter.segment(image, MPP)
        np.testing.assert_array_equal(image, before)

    def test_memory_layout_does_not_matter(self, segmenter: Segmenter) -> None:
        """A view with strides gives what its copy gives."""
        image, _ = blob_thumbnail()
        view = image[::2, ::-2]
        one = segmenter.segment(view, 2 * MPP)
        two = segmenter.segment(np.ascontiguousarray(view), 2 * MPP)
        np.testing.assert_array_equal(one.tissue, two.tissue)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 37), (37, 1), (2, 3), (17, 5), (64, 63)])
    @pytest.mark.parametrize("mpp", [0.5, 8.0, 64.0])
    @pytest.mark.parametrize("level", [0, 128, 240, 255])
    def test_any_size(
        self, segmenter: Segmenter, shape: tuple[int, int], mpp: float, level: int
    ) -> None:
        """Tiny and odd images of any brightness give masks of their shape."""
        found = segmenter.segment(np.full((*shape, 3), level, dtype=np.uint8), mpp)
        self.check(found, shape)
