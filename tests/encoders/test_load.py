from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from wsiprep.core.errors import DeviceError, UnknownPluginError
from wsiprep.encoders import encoder_specs, load_encoder, parse_name, resolve_device
from wsiprep.encoders.families import registry as families


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("lite0", ("lite0", None)),
        ("timm:resnet50", ("timm", "resnet50")),
        ("timm:hf-hub:MahmoodLab/UNI@main", ("timm", "hf-hub:MahmoodLab/UNI@main")),
        (" test ", ("test", None)),
    ],
)
def test_parse_name(name: str, parts: tuple[str, str | None]) -> None:
    assert parse_name(name) == parts


@pytest.mark.parametrize("name", ["", ":resnet50", "timm:"])
def test_parse_name_refuses_half_a_name(name: str) -> None:
    with pytest.raises(UnknownPluginError, match="no encoder name"):
        parse_name(name)


def test_unknown_family_offers_the_nearest() -> None:
    with pytest.raises(UnknownPluginError, match="Did you mean 'lite0'"):
        load_encoder("lite")


def test_specs_are_named_after_their_family_and_differ() -> None:
    listed = encoder_specs()
    assert {family for family, _ in listed} == set(families.names()) == {"lite0", "test", "timm"}
    names = [spec.name for _, spec in listed]
    assert len(set(names)) == len(names)
    for family, spec in listed:
        assert spec.name.partition(":")[0] == family
        assert spec.weights_sha256 == ""
        assert spec.license
        assert spec.note


def test_listing_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys; from wsiprep.encoders import encoder_specs, EncoderConfig;"
        "specs = encoder_specs(); assert len(specs) > 5;"
        "heavy = {'torch', 'timm', 'torchvision', 'safetensors', 'huggingface_hub', 'cv2'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("CPU ") == torch.device("cpu")
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cpu:1", "cuda:-1"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(DeviceError, match=rf"'{name}' is not there.*There is: .*cpu"):
        resolve_device(name)


def test_devices_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda:0")
    assert resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("mps") == torch.device("mps")
    with pytest.raises(DeviceError, match="There is: cuda:0, cuda:1, mps, cpu"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("mps")
    with pytest.raises(DeviceError, match="There is: mps, cpu"):
        resolve_device("cuda")
