"""Patches made on a device, with a CPU as the device, are those that the host makes."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiles.jpegs import CpuDecoder, JpegArraySlide
from tests.tiles.made import setup, spans
from wsiprep import open_slide
from wsiprep.core.contracts import JpegSlide
from wsiprep.core.errors import DeviceError, SlideReadError
from wsiprep.core.types import Size, TissueMask
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.tiles.device import stream as module
from wsiprep.tiles.device.stream import stream_on_device, why_on_host
from wsiprep.tiles.stream import stream_tiles
from wsiprep.tiles.times import ReadTimes


def jpeg_slide(tile=(64, 48), broken=(), **kwargs):
    slide, grid = setup(**kwargs)
    return JpegArraySlide(slide.pixels, slide.info, tile=Size(*tile), broken=broken), grid


def on_device(slide, grid, parts, decoder=None, **kwargs):
    batches = list(
        stream_on_device(
            slide.reopen, grid, parts, decoder or CpuDecoder(), **{"workers": 2, **kwargs}
        )
    )
    assert all(isinstance(batch.pixels, torch.Tensor) for batch in batches)
    return (
        np.concatenate([batch.index for batch in batches]),
        np.concatenate([batch.pixels.numpy() for batch in batches]),
        np.concatenate([batch.ok for batch in batches]),
    )


def on_host(slide, grid, parts, **kwargs):
    batches = list(stream_tiles(slide.reopen, grid, parts, workers=2, **kwargs))
    return (
        np.concatenate([batch.index for batch in batches]),
        np.concatenate([batch.pixels for batch in batches]),
        np.concatenate([batch.ok for batch in batches]),
    )


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("wsiprep-")]


@settings(deadline=None, max_examples=40)
@given(
    mpp=st.sampled_from([0.5, 0.25, 0.37, 0.125]),
    patch=st.sampled_from([32, 50, 64]),
    stride=st.sampled_from([16, 32, 50, 64, 90]),
    tile=st.tuples(st.sampled_from([32, 50, 64, 256]), st.sampled_from([16, 32, 64, 300])),
    batch=st.integers(1, 70),
    workers=st.integers(1, 4),
    shift=st.integers(-80, 80),
    unit=st.sampled_from([1, 100_000, 32 << 20]),
)
def test_patches_are_those_of_the_host(mpp, patch, stride, tile, batch, workers, shift, unit):
    slide, grid = jpeg_slide(tile, mpp=mpp, size=(420, 310), patch_size=patch, stride=stride)
    grid = replace(grid, origin0_px=grid.origin0_px + shift)
    parts = spans(len(grid), batch)
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(module, "UNIT_BYTES", unit)
        index, pixels, ok = on_device(slide, grid, parts, workers=workers)
    assert len(set(slide.decoded)) == len(slide.decoded)
    np.testing.assert_array_equal(index, np.arange(len(grid)))
    assert ok.all()
    _, wanted, _ = on_host(slide, grid, parts)
    if grid.plan.rule == "fractional":
        assert np.abs(pixels.astype(int) - wanted).max() <= 1
    else:
        np.testing.assert_array_equal(pixels, wanted)


def test_a_real_file_too(small_slide):
    decoder = CpuDecoder()
    with open_slide(small_slide) as slide:
        assert isinstance(slide, JpegSlide)
        white = np.zeros((8, 8), bool)
        tissue = TissueMask(~white, white, 100.0, slide.info.size0, "all")
        for mpp in (0.5, 0.8, 1.0, 2.0):
            grid = make_grid(slide.info, tissue, GridConfig(mpp=mpp, patch_size=100, min_tissue=0))
            assert why_on_host(slide, grid.plan) is None
            parts = spans(len(grid), 32)
            times = ReadTimes()
            _, pixels, _ = on_device(slide, grid, parts, decoder, times=times)
            _, wanted, _ = on_host(slide, grid, parts)
            assert np.abs(pixels.astype(int) - wanted).max() <= (grid.plan.rule == "fractional")
            assert times.host_tiles == 0
            assert times.tiles > 0
            assert times.bytes > 0
    assert max(decoder.batches) > 1  # they come together


@pytest.mark.parametrize("mpp", [0.5, 0.25, 0.37])
@pytest.mark.parametrize("fails", [True, False])
def test_a_damaged_tile_is_judged_by_the_host(mpp, fails):
    """Whether the device gives it back or makes pixels of it."""

    class Lenient(CpuDecoder):
        def one(self, jpeg):
            if fails:
                return super().one(jpeg)
            return torch.from_numpy(simplejpeg.decode_jpeg(jpeg, "RGB", strict=False))

    slide, grid = jpeg_slide((64, 64), broken=(30,), mpp=mpp, stride=40)
    parts = spans(len(grid), 16)
    with pytest.raises(SlideReadError, match="tile 30 is broken"):
        on_device(slide, grid, parts, Lenient())
    assert not threads()
    times = ReadTimes()
    _, pixels, ok = on_device(slide, grid, parts, Lenient(), on_bad_tile="mask", times=times)
    _, wanted, wanted_ok = on_host(slide, grid, parts, on_bad_tile="mask")
    np.testing.assert_array_equal(ok, wanted_ok)
    assert 0 < (~ok).sum() < len(ok)
    assert (pixels[~ok] == 255).all()
    assert np.abs(pixels.astype(int) - wanted).max() <= 1
    assert times.host_tiles == 1


@pytest.mark.parametrize("how", ["none", "size"])
def test_what_the_device_does_not_decode_the_host_does(how):
    class Refusing(CpuDecoder):
        def decode(self, jpegs):
            images = super().decode(jpegs)
            images[::2] = [None if how == "none" else image[:-8] for image in images[::2]]
            return images

    slide, grid = jpeg_slide()
    parts, times = spans(len(grid), 16), ReadTimes()
    _, pixels, ok = on_device(slide, grid, parts, Refusing(), times=times)
    np.testing.assert_array_equal(pixels, on_host(slide, grid, parts)[1])
    assert ok.all()
    assert 0.4 * times.tiles < times.host_tiles < times.tiles


def test_a_tile_that_cannot_be_fetched_fails_or_is_masked(monkeypatch):
    honest = JpegArraySlide.fetch_tile

    def fetch(self, level, tile):
        if tile == 7:
            raise SlideReadError("tile 7 lies beyond the end", slide=self.info.id)
        return honest(self, level, tile)

    monkeypatch.setattr(JpegArraySlide, "fetch_tile", fetch)
    slide, grid = jpeg_slide((64, 64))
    parts = spans(len(grid), 16)
    with pytest.raises(SlideReadError, match="tile 7 lies beyond"):
        on_device(slide, grid, parts)
    _, pixels, ok = on_device(slide, grid, parts, on_bad_tile="mask")
    assert (~ok).sum() == 1
    assert (pixels[~ok] == 255).all()


def test_absent_tiles_are_white_and_padding_is_none_of_the_hosts_business():
    slide, grid = jpeg_slide((64, 64), stride=50)
    slide.absent, slide.trailer = (0, 25, 26, 50), bytes(40)
    parts, times = spans(len(grid), 16), ReadTimes()
    with pytest.raises(SlideReadError, match=r"no tile under the patch at level-0 origin \(0, 0\)"):
        on_device(slide, grid, parts)
    _, pixels, ok = on_device(slide, grid, parts, on_bad_tile="mask", times=times)
    _, wanted, wanted_ok = on_host(slide, grid, parts, on_bad_tile="mask")
    np.testing.assert_array_equal(pixels, wanted)
    np.testing.assert_array_equal(ok, wanted_ok)
    assert (~ok).sum() == 1
    assert times.host_tiles == 0


@pytest.mark.parametrize("on_bad_tile", ["fail", "mask"])
def test_a_decoder_that_shows_other_colours_is_refused(on_bad_tile):
    """What comes of taking RGB for YCbCr."""
    import cv2

    class Blind(CpuDecoder):
        def one(self, jpeg):
            channels = cv2.cvtColor(simplejpeg.decode_jpeg(jpeg, "RGB"), cv2.COLOR_RGB2YCrCb)
            return torch.from_numpy(channels)

    slide, grid = jpeg_slide()
    slide.pixels[...] = (200, 150, 190)
    with pytest.raises(SlideReadError, match=r"'fake' shows tile 0 .* other colours") as caught:
        on_device(slide, grid, spans(len(grid), 16), Blind(), on_bad_tile=on_bad_tile)
    assert caught.value.hint == "Pass --decode cpu."
    assert not threads()


def test_a_device_without_memory_says_so():
    class Full(CpuDecoder):
        def decode(self, jpegs):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    slide, grid = jpeg_slide()
    with pytest.raises(DeviceError, match="no memory to decode") as caught:
        on_device(slide, grid, spans(len(grid), 16), Full())
    assert "--batch-size" in str(caught.value)
    assert not threads()


def test_no_more_is_made_than_a_few_batches_ahead(monkeypatch):
    monkeypatch.setattr(module, "batches_ahead", lambda *_: 2)
    slide, grid = jpeg_slide((64, 64))
    decoder = CpuDecoder()
    stream = stream_on_device(slide.reopen, grid, spans(len(grid), 4), decoder, workers=2)
    for taken, _ in enumerate(stream, start=1):
        assert len(decoder.batches) <= taken + 2
        if taken == 5:
            break
    stream.close()
    assert not threads()
    assert all(s.closed for s in slide.opened)


def test_stretches_and_gaps(monkeypatch):
    monkeypatch.setattr("wsiprep.tiles.units.STRETCH_PIECES", 50)
    slide, grid = jpeg_slide(stride=40)
    parts = [(3, 9), (40, 41), (100, 130), (140, 200), (210, 300)]
    index, pixels, _ = on_device(slide, grid, parts)
    wanted_index, wanted, _ = on_host(slide, grid, parts)
    np.testing.assert_array_equal(index, wanted_index)
    np.testing.assert_array_equal(pixels, wanted)


def test_nothing_asked_nothing_made():
    slide, grid = jpeg_slide()
    decoder = CpuDecoder()
    assert list(stream_on_device(slide.reopen, grid, [], decoder, workers=1)) == []
    assert decoder.batches == []


def test_who_stays_on_the_host():
    slide, grid = jpeg_slide()
    assert why_on_host(slide, grid.plan) is None
    plain, _ = setup()
    assert why_on_host(plain, grid.plan) == "reader 'fake' gives no access to stored tiles"
    magnified = replace(grid.plan, read_px=32)
    assert why_on_host(slide, magnified) == "its patches are magnified"
    slide.stores_jpeg = lambda level: False
    assert why_on_host(slide, grid.plan) == "level 0 is not stored as JPEG tiles"


def test_on_cuda_the_consumer_waits_for_the_stream_that_made_the_pixels(monkeypatch):
    log = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def record_event(self):
            log.append(f"mark {self.name}")
            return "event"

        def wait_event(self, event):
            log.append(f"{self.name} waits for {event}")

    class On:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            log.append(f"on {self.stream.name}")

        def __exit__(self, *_):
            log.append(f"off {self.stream.name}")

    class Pixels:
        device = "cuda:1"

        def record_stream(self, stream):
            log.append(f"kept for {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"decoding on {device}"))
    monkeypatch.setattr(torch.cuda, "stream", On)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: Stream(f"encoding on {device}")
    )
    queue = module._Queue(torch.device("cuda:1"))
    with queue.current():
        done = queue.mark()
    queue.hand_over(Pixels(), done)
    assert log == [
        "on decoding on cuda:1", "mark decoding on cuda:1", "off decoding on cuda:1",
        "encoding on cuda:1 waits for event", "kept for encoding on cuda:1",
    ]  # fmt: skip
