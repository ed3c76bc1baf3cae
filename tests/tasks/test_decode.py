"""Decoding on the encoders' device, from the flag to the store; a CPU stands in for the device."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from tests.tasks.runs import log, run
from tests.tiles.jpegs import CpuDecoder
from wsiprep.core.config import build, digest
from wsiprep.core.errors import ConfigError, DeviceError
from wsiprep.core.types import EncoderSpec
from wsiprep.encoders.config import EncoderConfig
from wsiprep.encoders.torch_encoder import TorchEncoder
from wsiprep.store.read import FeatureStore
from wsiprep.store.schema import features_unit
from wsiprep.tasks import slides as module
from wsiprep.tasks.config import EmbedConfig, PrepareConfig
from wsiprep.tasks.encode import features_key

SPEC = EncoderSpec("mean", 3, None, (0, 0, 0), (1, 1, 1), weights="none")
GPU = {"decode": "nvimgcodec", "device": "cpu"}


class Darker(CpuDecoder):
    """Shows that it was used: a level below the CPU's."""

    name = "nvimgcodec"

    def one(self, jpeg):
        image = super().one(jpeg)
        return None if image is None else image - (image > 0).to(torch.uint8)


@pytest.fixture
def decoder(monkeypatch):
    made = []

    def load(name, device, threads):
        assert (name, device) == ("nvimgcodec", "cpu")
        assert threads >= 1
        made.append(Darker())
        return made[-1]

    monkeypatch.setattr(module, "load_decoder", load)
    return made


class Mean(nn.Module):
    """Mean colour."""

    def forward(self, x):
        return x.mean(dim=(2, 3))


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    """The encoder `test` as one that takes tensors."""
    made = TorchEncoder(Mean(), replace(SPEC, name="test"), torch.device("cpu"))
    monkeypatch.setattr(module, "load_encoder", lambda *_: made)


def stored_config(row):
    store = FeatureStore(row.store)
    return store.attributes(features_unit(store.grids[0], "test"))["config"]


def rows(report):
    (row,) = report.rows
    assert row.status in ("ok", "skipped"), row
    return FeatureStore(row.store).features().rows().vectors, row


def test_keys_of_the_cpu_are_what_they_were_before_there_was_a_choice():
    facts = SPEC.canonical()
    for words in ("license", "source", "note", "mpp"):
        facts.pop(words)
    old = {
        "version": 1, "grid": "g", "reader": "tiff", "encoder": facts, "store_dtype": "float16",
        "on_bad_tile": "fail",
    }  # fmt: skip
    keys = {
        name: features_key(SPEC, EncoderConfig(decode=name), "g", "tiff", "fail")
        for name in ("cpu", "nvimgcodec")
    }
    assert keys["cpu"] == digest(old)
    assert keys["nvimgcodec"] != keys["cpu"]


@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_the_decoders_pixels_are_encoded(small_slide, tmp_path, decoder, mpp):
    same = {"store_dtype": "float32", "device": "cpu", "mpp": mpp, "segmenter": "otsu"}
    wanted, row = rows(run(PrepareConfig, small_slide, tmp_path / "cpu", **same))
    assert "decode" not in stored_config(row)
    got, row = rows(run(PrepareConfig, small_slide, tmp_path / "gpu", **same, decode="nvimgcodec"))
    assert len(decoder) == 1
    assert decoder[0].batches
    np.testing.assert_allclose(wanted - got, 1 / 255, atol=0.01 / 255)
    assert row.notes == ()
    assert stored_config(row)["decode"] == "nvimgcodec"


def test_features_of_another_decoder_are_not_taken_for_these(small_slide, tmp_path, decoder):
    run(PrepareConfig, small_slide, tmp_path, device="cpu")
    (row,) = run(PrepareConfig, small_slide, tmp_path, **GPU).rows
    assert row.error == "StoreMismatchError"
    assert "decode 'cpu' -> 'nvimgcodec'" in row.reason
    assert run(PrepareConfig, small_slide, tmp_path, **GPU, overwrite=True).exit_code == 0
    (row,) = run(PrepareConfig, small_slide, tmp_path, **GPU).rows
    assert row.status == "skipped"
    (row,) = run(PrepareConfig, small_slide, tmp_path, device="cpu").rows
    assert "decode 'nvimgcodec' -> 'cpu'" in row.reason


def test_a_slide_that_is_not_jpeg_is_decoded_on_the_cpu_and_says_so(small_slide, tmp_path, decoder):
    path = tmp_path / "plain.tiff"
    with tifffile.TiffFile(small_slide) as file:
        pixels = file.pages.first.asarray()
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="deflate",
        resolution=(20000, 20000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    got, row = rows(run(PrepareConfig, path, tmp_path / "a", **GPU))
    note = "Decoded as by --decode cpu, not nvimgcodec: level 0 is not stored as JPEG tiles."
    assert note in row.notes
    assert note in log(tmp_path / "a")[1]["notes"]
    assert decoder[0].batches == []
    wanted, row = rows(run(PrepareConfig, path, tmp_path / "a", device="cpu"))
    assert row.status == "skipped"  # they are the CPU's features, by key too
    np.testing.assert_array_equal(got, wanted)


def test_tiles_left_to_the_cpu_are_counted(small_slide, tmp_path, monkeypatch):
    class Half(Darker):
        def decode(self, jpegs):
            images = super().decode(jpegs)
            return [image if k % 2 else None for k, image in enumerate(images)]

    monkeypatch.setattr(module, "load_decoder", lambda *_: Half())
    _, row = rows(run(PrepareConfig, small_slide, tmp_path / "a", **GPU, profile=True))
    total = json.loads((tmp_path / "a" / "profile.json").read_text())["total"]
    assert 0 < total["host_tiles"] < total["stored_tiles"]
    assert row.notes == (
        f"Decoder 'nvimgcodec' left {total['host_tiles']} of {total['stored_tiles']} stored tiles "
        "to the CPU.",
    )


def test_without_a_gpu_nothing_is_written(small_slide, tmp_path):
    with pytest.raises(DeviceError, match="--decode nvimgcodec decodes on a CUDA device"):
        run(PrepareConfig, small_slide, tmp_path / "out", **GPU)
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_takes_no_tensors_is_refused(tmp_path):
    values = {
        "slides": ("x.svs",),
        "output": tmp_path,
        "encoder": ("mean",),
        "decode": "nvimgcodec",
    }
    cfg = build(EmbedConfig, ("test", values))
    with pytest.raises(ConfigError, match="encoder 'mean' takes no pixels from a GPU"):
        module.load_decoders([cfg], [SimpleNamespace(spec=SPEC)], 2)
    assert module.load_decoders([], [], 2) == {}


def test_scaled_tiles_are_asked_for_by_name_and_have_a_key_of_their_own(small_slide, tmp_path):
    asked = {"store_dtype": "float32", "device": "cpu", "mpp": 1.0, "encoder": ("test",)}
    exact, row = rows(run(PrepareConfig, small_slide, tmp_path / "cpu", **asked))
    assert row.notes == ()
    scaled, row = rows(run(PrepareConfig, small_slide, tmp_path / "o", **asked, decode="scaled"))
    assert row.notes == ()
    assert 0 < np.abs(scaled - exact).max() < 0.02
    again = run(PrepareConfig, small_slide, tmp_path / "o", **asked)
    assert again.rows[0].error == "StoreMismatchError"
    assert "decode 'scaled' -> 'cpu'" in again.rows[0].reason


def test_scaled_where_it_cannot_be_is_exact_and_says_so(small_slide, tmp_path):
    asked = {"store_dtype": "float32", "device": "cpu", "mpp": 0.5, "encoder": ("test",)}
    exact, _ = rows(run(PrepareConfig, small_slide, tmp_path / "cpu", **asked))
    scaled, row = rows(run(PrepareConfig, small_slide, tmp_path / "o", **asked, decode="scaled"))
    np.testing.assert_array_equal(scaled, exact)
    note = "Decoded as by --decode cpu, not scaled: its patches are not shrunk by 2, 4 or 8."
    assert row.notes == (note,)
    again = run(PrepareConfig, small_slide, tmp_path / "o", **asked)  # the same features
    assert again.rows[0].status == "skipped"
