"""What names of devices mean; this module itself never imports torch."""

from __future__ import annotations

from wsiprep.core.errors import DeviceError

__all__ = ["device_name"]


def device_name(name: str, *, cuda: int, mps: bool, stage: str, remedy: str) -> str:
    """How torch calls a device; `auto` is the first of CUDA, MPS, CPU that is there.

    Args:
        name: As it was asked for, in any case.
        cuda: CUDA devices that are there.
        mps: Whether there is Apple's.
        stage: Stage that asks, for the message.
        remedy: What to do, behind the list of what there is.

    Raises:
        DeviceError: it is not there; the message lists what is.
    """
    there = [*(f"cuda:{index}" for index in range(cuda)), *(["mps"] if mps else []), "cpu"]
    wanted = name.strip().lower()
    wanted = {"auto": there[0], "cuda": "cuda:0"}.get(wanted, wanted)
    if wanted not in there:
        raise DeviceError(
            f"device '{name}' is not there.",
            stage=stage,
            hint=f"There is: {', '.join(there)}. {remedy}",
        )
    return wanted
