"""What of the memory a training takes: computed, measured, and told where it is not enough."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn

from wsiprep.core.errors import DeviceError
from wsiprep.encoders.batches import is_no_memory
from wsiprep.train.language.sharding import any_spread, own_part

__all__ = ["Footprint", "Meter", "footprint", "mib", "peak_mib", "room"]

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_FORGET_PEAK: Final = "5"
"""Written there, it has Linux count the peak of the resident memory from now on (proc(5))."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What is held between steps, in bytes, by this process.

    Attributes:
        weights: Parameters, and buffers. Those that learn are float32 whatever the files have
            (`master`), and there is no second copy of them.
        gradients: Of parameters that learn, in the dtype of each.
        moments: AdamW's two of each of these, likewise.
        parameters: Numbers in all parameters, of all processes.
        learned: Of these, those that learn.
        spread: Whether parameters lie spread over processes.
    """

    weights: int
    gradients: int
    moments: int
    parameters: int
    learned: int
    spread: bool

    def facts(self) -> dict[str, str]:
        """In words, by name."""
        share = " on each process" if self.spread else ""
        return {
            "parameters": f"{self.parameters:,}, of which {self.learned:,} learn",
            "weights": f"{mib(self.weights):,.1f} MiB{share}",
            "gradients": f"{mib(self.gradients):,.1f} MiB{share}",
            "optimiser": f"{mib(self.moments):,.1f} MiB{share}, the two moments of AdamW",
        }


def footprint(model: nn.Module) -> Footprint:
    """What a model holds when it learns; computed, nothing is allocated."""
    parameters = list(model.parameters())
    learned = [p for p in parameters if p.requires_grad]
    gradients = sum(own_part(p).nbytes for p in learned)
    return Footprint(
        weights=sum(own_part(t).nbytes for t in (*parameters, *model.buffers())),
        gradients=gradients,
        moments=2 * gradients,
        parameters=sum(p.numel() for p in parameters),
        learned=sum(p.numel() for p in learned),
        spread=any_spread(parameters),
    )


def mib(count: int) -> float:
    """Bytes as MiB, rounded to a tenth, so that numbers add up as they are printed."""
    return round(count / 2**20, 1)


class Meter:
    """Memory taken from now on.

    On CUDA that is of tensors, exactly. Elsewhere it is the resident memory of this process, on a
    Linux that counts its peak anew; otherwise only what goes beyond the peak so far is seen.

    Args:
        device: Where it is taken.

    Attributes:
        whole: Whether all is seen.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.whole = device, True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
            return
        try:
            _CLEAR.write_text(_FORGET_PEAK)
            self._before = _resident("VmRSS")
        except OSError:
            self.whole, self._before = False, _peak_resident()

    def peak(self) -> int:
        """Most bytes so far beyond those that were taken at its beginning."""
        if self.device.type == "cuda":
            now = torch.cuda.max_memory_allocated(self.device)
        else:
            now = _resident("VmHWM") if self.whole else _peak_resident()
        return max(0, now - self._before)


def peak_mib(device: torch.device) -> float:
    """Most memory used so far: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _peak_resident() / 2**20


@contextmanager
def room(device: str, remedy: str) -> Iterator[None]:
    """Within it, too little memory is an error that says what to do.

    Args:
        device: As the user named it.
        remedy: What to do beside making a step smaller.

    Raises:
        DeviceError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        if not is_no_memory(err):
            raise
        raise DeviceError(
            f"this training does not fit into the memory of the device (--device {device}).",
            hint="Lower optimisation.micro_batch or sampling.patches by --set"
            f"{remedy}. --dry-run prints what takes how much.",
        ) from err


def _resident(name: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return int(lines[name].split()[0]) * 2**10


def _peak_resident() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10
