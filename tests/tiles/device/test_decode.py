"""Decoders by name, on a machine without a GPU: what they ask of their libraries, and refusals."""

from __future__ import annotations

import sys
import types

import cv2
import numpy as np
import pytest
import simplejpeg
import torch

from tests.tasks.runs import run
from tests.tiles.jpegs import CpuDecoder
from wsiprep.core.errors import DeviceError, PluginUnavailableError
from wsiprep.slide.readers._jpeg import whole_jpeg
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.config import PrepareConfig
from wsiprep.tiles.device.decode import NvImageCodec, load_decoder, proven

CPU = torch.device("cpu")


def picture(side=256, seed=0):
    """Smooth colours, strong ones among them."""
    noise = np.random.default_rng(seed).normal(0, 255, (side, side, 3))
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX).astype(
        np.uint8
    )


def jpegs():
    """The same picture as YCbCr in all samplings, and as RGB, each marked for what it is."""
    coded = {
        f"ycbcr {s}": whole_jpeg(simplejpeg.encode_jpeg(picture(), 90, "RGB", s), ycbcr=True)
        for s in ("444", "422", "420")
    }
    # A decoder would make these colours of the picture's, taken for Y, Cb, Cr; coded as YCbCr they
    # are the picture's again, and marked as what they then are, R, G, B.
    colours = cv2.cvtColor(np.ascontiguousarray(picture()[..., (0, 2, 1)]), cv2.COLOR_YCrCb2RGB)
    coded["rgb 444"] = whole_jpeg(simplejpeg.encode_jpeg(colours, 95, "RGB", "444"), ycbcr=False)
    return coded


@pytest.mark.parametrize("name", ["nvimgcodec"])
def test_there_must_be_a_cuda_device(name):
    with pytest.raises(DeviceError, match="the encoder computes on 'cpu'") as caught:
        load_decoder(name, "cpu", 2)
    assert "--decode cpu" in caught.value.hint


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    monkeypatch.setitem(sys.modules, "nvidia", types.ModuleType("nvidia"))
    with pytest.raises(PluginUnavailableError, match="--decode nvimgcodec") as caught:
        load_decoder("nvimgcodec", "cuda:0", 2)
    assert "wsiprep[gpu]" in caught.value.hint


def test_a_decoder_must_show_that_it_decodes():
    decoder = CpuDecoder()
    assert proven(decoder) is decoder

    class Deaf(CpuDecoder):
        def one(self, jpeg):
            return None

    class Broken(CpuDecoder):
        def decode(self, jpegs):
            raise RuntimeError("not compiled with nvJPEG support\nat line 1")

    with pytest.raises(PluginUnavailableError, match="does not decode JPEG on this device"):
        proven(Deaf())
    with pytest.raises(PluginUnavailableError, match="not compiled with nvJPEG support\\."):
        proven(Broken())


@pytest.fixture
def library(monkeypatch):
    """What nvImageCodec 0.9 offers, as far as it is used; keeps what it was asked."""
    asked = []

    class Decoder:
        images = None

        def __init__(self, *, device_id, max_num_cpu_threads, backends, options):
            asked.append((device_id, max_num_cpu_threads, backends, options))

        def decode(self, srcs, *, params, cuda_stream):
            asked.append((params, cuda_stream))
            made = [torch.full((8, 8, 3), len(s), dtype=torch.uint8) if s else None for s in srcs]
            return made if Decoder.images is None else Decoder.images(made)

    module = types.ModuleType("nvidia.nvimgcodec")
    module.Decoder = Decoder
    module.Backend = lambda kind: kind
    module.BackendKind = types.SimpleNamespace(GPU_ONLY="gpu", HYBRID_CPU_GPU="hybrid")
    module.DecodeParams = dict
    module.ColorSpec = types.SimpleNamespace(SRGB="srgb")
    module.CodeStream = bytes
    parent = types.ModuleType("nvidia")
    parent.nvimgcodec = module
    monkeypatch.setitem(sys.modules, "nvidia", parent)
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", module)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=77)
    )
    return types.SimpleNamespace(asked=asked, decoder=Decoder)


def test_what_is_asked_of_nvimagecodec(library):
    decoder = NvImageCodec(torch.device("cuda:1"), 3)
    one, none, two = decoder.decode([b"a", b"", b"bc"])
    assert none is None
    assert (int(one[0, 0, 0]), int(two[0, 0, 0])) == (1, 2)
    assert library.asked == [
        (1, 3, ["gpu", "hybrid"], ":fancy_upsampling=1"),
        ({"apply_exif_orientation": False, "color_spec": "srgb", "allow_any_depth": False}, 77),
    ]


def test_images_that_nobody_can_tell_apart_are_not_taken(library):
    library.decoder.images = lambda made: [image for image in made if image is not None]
    assert NvImageCodec(torch.device("cuda:0"), 1).decode([b"a", b"", b"c"]) == [None] * 3


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pytest.importorskip("nvidia.nvimgcodec")


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("name", ["nvimgcodec"])
def test_pixels_on_cuda_are_near_those_of_the_cpu(name, record_property):
    """Records how far they are apart; fails where colours are wrong."""
    decoder = load_decoder(name, "cuda:0", 2)
    coded = jpegs()
    for (kind, jpeg), image in zip(
        coded.items(), decoder.decode(list(coded.values())), strict=True
    ):
        assert image is not None, kind
        assert image.device == torch.device("cuda:0")
        wanted = simplejpeg.decode_jpeg(jpeg, "RGB").astype(int)
        difference = np.abs(image.cpu().numpy() - wanted)
        record_property(f"{name} {kind} max", int(difference.max()))
        record_property(f"{name} {kind} mean", float(difference.mean()))
        assert difference.mean() < 4, kind


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("name", ["nvimgcodec"])
@pytest.mark.parametrize("mpp", [0.5, 0.7, 1.0])
def test_whole_runs_on_cuda_and_how_far_features_drift(
    name, mpp, small_slide, tmp_path, record_property
):
    settings = {"encoder": ("lite0",), "device": "cuda", "mpp": mpp, "store_dtype": "float32"}
    vectors = []
    for decode in ("cpu", name):
        (row,) = run(PrepareConfig, small_slide, tmp_path / decode, **settings, decode=decode).rows
        assert row.status == "ok"
        assert row.notes == ()  # all of it was decoded where it was to be
        vectors.append(FeatureStore(row.store).features().rows().vectors.astype(np.float64))
    a, b = vectors
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    record_property(f"{name} {mpp} least cosine", float(cosine.min()))
    record_property(f"{name} {mpp} largest difference", float(np.abs(a - b).max()))
    assert cosine.min() > 0.9  # wrong colours or patches, not rounding


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("name", ["nvimgcodec"])
def test_damaged_tiles_on_cuda(name, record_property):
    """Records what a decoder makes of bytes that libjpeg refuses; others must not be touched."""
    decoder, good = load_decoder(name, "cuda:0", 2), jpegs()["ycbcr 420"]
    flipped = bytearray(good)
    flipped[len(good) // 2 : len(good) // 2 + 40] = bytes(40)
    first, cut, damaged, last = decoder.decode([good, good[:4000], bytes(flipped), good])
    record_property(f"{name} reports a cut stream", cut is None)
    record_property(f"{name} reports a damaged scan", damaged is None)
    assert first is not None
    assert last is not None
    assert bool((first == last).all())
