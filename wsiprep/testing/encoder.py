"""What every encoder must do, as tests: inherit `EncoderContract` and give it an encoder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from wsiprep.core.contracts import AsyncEncoder, Encoder, Pending
from wsiprep.core.types import EncoderSpec

__all__ = ["EncoderContract"]

_FACTS = ("name", "dim", "input_px", "mean", "std", "mpp", "pooling", "license")


class EncoderContract:
    """Tests of an encoder; a subclass named `Test...` overrides the fixture `encoder`.

    Override `known` too where the encoder's facts are listed before loading. `patch_px` is the
    side of the patches tried, and `tolerance` what rounding may do to a vector in another batch,
    relative to the vector's largest number.
    """

    patch_px: int = 64
    tolerance: float = 1e-5

    @pytest.fixture
    def encoder(self) -> Encoder:
        """The encoder under test; use a wider scope when loading is slow."""
        raise NotImplementedError("override the fixture 'encoder'")

    @pytest.fixture
    def known(self) -> EncoderSpec | None:
        """Its facts as listed before loading, or None when it is not listed."""
        return None

    @pytest.fixture
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (5, T, T, 3): noise of five colours, so that all patches differ."""
        rng = np.random.default_rng(7)
        tint = rng.integers(0, 190, (5, 1, 1, 3))
        noise = rng.integers(0, 66, (5, self.patch_px, self.patch_px, 3))
        return (tint + noise).astype(np.uint8)

    def close(self, given: NDArray[np.float32], wanted: NDArray[np.float32]) -> bool:
        """Whether vectors agree within `tolerance`."""
        limit = self.tolerance * float(np.abs(wanted).max())
        return given.shape == wanted.shape and float(np.abs(given - wanted).max()) <= limit

    def test_is_an_encoder(self, encoder: Encoder) -> None:
        """It has the contract's members."""
        assert isinstance(encoder, Encoder)

    def test_shape_dtype_and_finite(self, encoder: Encoder, pixels: NDArray[np.uint8]) -> None:
        """Vectors are finite float32 (B, dim) of its own spec."""
        vectors = encoder(pixels)
        assert vectors.shape == (len(pixels), encoder.spec.dim)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()

    def test_one_patch(self, encoder: Encoder, pixels: NDArray[np.uint8]) -> None:
        """A batch of one gives one vector, the same as in company."""
        assert self.close(encoder(pixels[:1]), encoder(pixels)[:1])

    def test_sees_the_patch(self, encoder: Encoder, pixels: NDArray[np.uint8]) -> None:
        """Different patches have different vectors, by more than rounding."""
        vectors = encoder(pixels)
        for other in vectors[1:]:
            assert not self.close(other, vectors[0])

    def test_deterministic(self, encoder: Encoder, pixels: NDArray[np.uint8]) -> None:
        """The same batch twice gives the same bits."""
        np.testing.assert_array_equal(encoder(pixels), encoder(pixels.copy()))

    def test_neighbours_do_not_matter(self, encoder: Encoder, pixels: NDArray[np.uint8]) -> None:
        """A patch's vector does not depend on the other patches of the batch."""
        alone = encoder(pixels)[1]
        among_others = encoder(np.concatenate([255 - pixels[:1], pixels[1:2], pixels[3:]]))[1]
        assert self.close(among_others, alone)

    def test_order(self, encoder: Encoder, pixels: NDArray[np.uint8]) -> None:
        """Vectors come in the order of the patches."""
        order = [3, 0, 4, 2, 1]
        assert self.close(encoder(pixels[order]), encoder(pixels)[order])

    def test_input_is_left_alone(self, encoder: Encoder, pixels: NDArray[np.uint8]) -> None:
        """The patches are not written to, and may be read-only or a view."""
        before = pixels.copy()
        whole = encoder(pixels)
        np.testing.assert_array_equal(pixels, before)
        pixels.setflags(write=False)
        assert self.close(encoder(pixels[::2]), whole[::2])

    def test_result_is_its_own(self, encoder: Encoder, pixels: NDArray[np.uint8]) -> None:
        """A later call does not overwrite an earlier result."""
        first = encoder(pixels)
        kept = first.copy()
        encoder(255 - pixels)
        np.testing.assert_array_equal(first, kept)

    def test_begun_batches_give_what_calls_give(
        self, encoder: Encoder, pixels: NDArray[np.uint8]
    ) -> None:
        """If it works ahead: two batches under way, each with the bits of a call, asked twice."""
        if isinstance(encoder, AsyncEncoder):
            parts = [pixels[:2], pixels[2:]]
            begun = [encoder.begin(part) for part in parts]
            for pending, part in zip(begun, parts, strict=True):
                assert isinstance(pending, Pending)
                vectors = pending.result()
                np.testing.assert_array_equal(vectors, encoder(part))
                np.testing.assert_array_equal(pending.result(), vectors)

    def test_its_buffers_serve_again(self, encoder: Encoder, pixels: NDArray[np.uint8]) -> None:
        """If it gives buffers: a part of one is as good as any pixels, and may be filled anew."""
        if isinstance(encoder, AsyncEncoder):
            buffer = encoder.allocate((len(pixels) + 2, *pixels.shape[1:]))
            assert buffer.dtype == np.uint8
            part = buffer[2:]
            part[:] = pixels
            kept = encoder.begin(part).result()
            part[:] = 255 - pixels
            other = encoder.begin(part).result()
            np.testing.assert_array_equal(kept, encoder(pixels))
            np.testing.assert_array_equal(other, encoder(255 - pixels))

    def test_threads_may_ask_for_buffers_at_a_time(self, encoder: Encoder) -> None:
        """If it gives buffers: threads that read ask for them, and none gets another's."""
        if isinstance(encoder, AsyncEncoder):
            with ThreadPoolExecutor(4) as pool:
                jobs = [pool.submit(encoder.allocate, (k % 3 + 1, 8, 8, 3)) for k in range(40)]
                buffers = [job.result() for job in jobs]
            for k, buffer in enumerate(buffers):
                buffer[...] = k
            assert all((buffer == k).all() for k, buffer in enumerate(buffers))

    def test_facts_as_listed(self, encoder: Encoder, known: EncoderSpec | None) -> None:
        """What was listed before loading is what was loaded."""
        if known is None:
            pytest.skip("this encoder is not listed before loading")
        for fact in _FACTS:
            assert getattr(encoder.spec, fact) == getattr(known, fact), fact

    def test_weights_are_named(self, encoder: Encoder) -> None:
        """The weights' hash is there, unless there are no weights; facts are plausible."""
        spec = encoder.spec
        assert len(spec.weights_sha256) == (0 if spec.weights == "none" else 64)
        assert spec.dim >= 1
        assert all(value > 0 for value in spec.std)
