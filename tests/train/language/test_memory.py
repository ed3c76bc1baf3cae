"""What a training is said to take is what it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wsiprep.core.errors import ConfigError, DeviceError
from wsiprep.core.malloc import return_large_blocks
from wsiprep.train.language import memory
from wsiprep.train.language.memory import Footprint, Meter, footprint, mib, room
from wsiprep.train.language.optimiser import Rate, make_optimiser
from wsiprep.train.language.recipe import Optimisation

MIB = 2**20
CPU = torch.device("cpu")


class Some(torch.nn.Module):
    """Weights of several kinds: some learn, some are frozen, one is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.learns = torch.nn.Linear(64, 32)
        self.tied = torch.nn.Linear(64, 32, bias=False)
        self.tied.weight = self.learns.weight
        self.rounded = torch.nn.Linear(32, 16, bias=False, dtype=torch.bfloat16)
        self.frozen = torch.nn.Linear(128, 8, dtype=torch.bfloat16)
        self.frozen.requires_grad_(requires_grad=False)
        self.register_buffer("seen", torch.zeros(10, dtype=torch.float64))


def test_computed_bytes_are_those_that_a_step_allocates() -> None:
    model = Some()
    told = footprint(model)
    learns, half, frozen = 64 * 32 + 32, 32 * 16, 128 * 8 + 8
    assert told == Footprint(
        weights=4 * learns + 2 * half + 2 * frozen + 80,
        gradients=4 * learns + 2 * half,
        moments=2 * (4 * learns + 2 * half),
        parameters=learns + half + frozen,
        learned=learns + half,
        spread=False,
    )
    optimiser = make_optimiser([Rate(dict(model.named_parameters()))], Optimisation())
    hidden = model.learns(torch.randn(3, 64)) + model.tied(torch.randn(3, 64))
    model.rounded(hidden.bfloat16()).float().square().mean().backward()
    optimiser.step()
    given = [p.grad.nbytes for p in model.parameters() if p.grad is not None]
    assert sum(given) == told.gradients
    kept = [
        value.nbytes for found in optimiser.state.values()
        for name, value in found.items() if name in ("exp_avg", "exp_avg_sq")
    ]  # fmt: skip
    assert sum(kept) == told.moments


def test_facts_say_how_much_of_what() -> None:
    told = Footprint(5 * MIB // 2, 2 * MIB, 4 * MIB, 1234, 1000, spread=True).facts()
    assert told == {
        "parameters": "1,234, of which 1,000 learn",
        "weights": "2.5 MiB on each process",
        "gradients": "2.0 MiB on each process",
        "optimiser": "4.0 MiB on each process, the two moments of AdamW",
    }


def test_meter_sees_what_was_there_for_a_while() -> None:
    return_large_blocks()
    kept = torch.ones(64 * MIB // 4)
    meter = Meter(CPU)
    if not meter.whole:
        pytest.skip("this system does not count the peak anew")
    assert meter.peak() < 8 * MIB
    del kept
    gone = torch.ones(256 * MIB // 4)
    del gone
    assert 180 * MIB < meter.peak() < 264 * MIB  # 64 of them stand where others were before
    assert Meter(CPU).peak() < 8 * MIB


def test_meter_without_help_sees_what_goes_beyond(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    return_large_blocks()
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "no" / "clear_refs")
    meter = Meter(CPU)
    assert not meter.whole
    assert meter.peak() == 0
    beyond = torch.ones((memory._peak_resident() + 32 * MIB) // 4)
    assert meter.peak() > 16 * MIB
    del beyond


def test_mib_is_rounded_to_what_is_printed() -> None:
    assert mib(MIB + MIB // 3) == 1.3
    assert mib(0) == 0.0


def out_of_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def out_of_cpu() -> None:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")


def out_of_python() -> None:
    raise MemoryError


@pytest.mark.parametrize("fails", [out_of_gpu, out_of_cpu, out_of_python])
def test_too_little_memory_is_an_error_with_a_remedy(fails: Callable[[], None]) -> None:
    with (
        pytest.raises(DeviceError, match=r"does not fit .* \(--device cuda:3\)") as err,
        room("cuda:3", ", or this"),
    ):
        fails()
    assert err.value.exit_code == 3
    assert "micro_batch" in str(err.value.hint)


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shapes"), room("cpu", ""):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(ConfigError), room("cpu", ""):
        raise ConfigError("x")
