from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wsiprep.core.errors import WeightsError
from wsiprep.encoders.weights import load_strictly, read_weights, seeded


def state() -> dict[str, Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_safetensors(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors"), state())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PTH"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(state(), path, _use_new_zipfile_serialization=zipped)
    assert same(read_weights(path), state())


@pytest.mark.parametrize("key", ["state_dict", "model", "teacher"])
def test_wrapped_and_prefixed(tmp_path: Path, key: str) -> None:
    path = tmp_path / "w.pth"
    prefixed = {f"module._orig_mod.{k}": v for k, v in state().items()}
    torch.save({"epoch": 3, "note": "best", key: prefixed}, path)
    assert same(read_weights(path), state())


def test_wrapped_twice(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": {"state_dict": state()}}, path)
    assert same(read_weights(path), state())


class Payload:
    """Writes a file when it is unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("how", ["torch", "torch-legacy", "pickle"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, how: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / "w.pth"
    content = {**state(), "payload": Payload(mark)}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"payload": Payload(mark)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(WeightsError, match=r"w\.pth.*code.*not read"):
        read_weights(path)
    assert not mark.exists()
    if how == "pickle":  # the payload is live: careless reading runs it
        pickle.loads(path.read_bytes())  # noqa: S301
        assert mark.exists()


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth is not there.*--weights"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="is not there"):
        read_weights(tmp_path / "none.safetensors")


def test_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"w\.h5 is not one of \.safetensors"):
        read_weights(tmp_path / "w.h5")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_damaged(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(state(), path)
    else:
        save_file(state(), path)
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"hello there", "cut": whole[: len(whole) // 2]}[damage]
    )
    with pytest.raises(WeightsError, match=rf"weights file .*w\{suffix}"):
        read_weights(path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"a": 3}, {3: torch.ones(1)}, torch.ones(2)])
def test_no_state_dict(tmp_path: Path, content: object) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match="holds"):
        read_weights(path)


def network() -> nn.Sequential:
    with seeded():
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_load_strictly_fits() -> None:
    wanted = {k: v + 1 for k, v in network().state_dict().items()}
    module = network()
    load_strictly(module, wanted, "w")
    assert same(dict(module.state_dict()), wanted)


def test_load_strictly_leaves_the_head_out_only_when_told() -> None:
    given = dict(network().state_dict()) | {"head.weight": torch.ones(9, 2)}
    load_strictly(network(), given, "w", ignore=("head",))
    with pytest.raises(WeightsError, match=r"1 unexpected: head\.weight"):
        load_strictly(network(), given, "w")


def test_load_strictly_lists_what_does_not_fit() -> None:
    given = dict(network().state_dict())
    del given["0.bias"]
    given["1.bias"] = torch.ones(5)
    for i in range(7):
        given[f"x{i}"] = torch.ones(1)
    module = network()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_strictly(module, given, "w.pth")
    text = str(caught.value)
    assert "w.pth" in text
    assert "1 missing: 0.bias" in text
    assert "7 unexpected: x0, x1, x2, x3, x4, ..." in text
    assert "1 of another shape: 1.bias (5,) for (2,)" in text
    assert same(dict(module.state_dict()), before)  # nothing was half loaded


def test_batch_counts_may_be_missing() -> None:
    given = {k: v for k, v in network().state_dict().items() if "num_batches" not in k}
    load_strictly(network(), given, "w")


def test_seeded_repeats_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded():
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded():
        assert torch.equal(torch.rand(3), first)
    with seeded(1):
        assert not torch.equal(torch.rand(3), first)
