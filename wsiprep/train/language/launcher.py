"""What a launcher was asked for that training does not take from it.

`accelerate launch` puts its flags, and what its config file says, into the environment of the
processes it starts, and leaves it to them to act on it. Of these, wsiprep takes how many processes
there are and where (`processes`). Whatever else would change the training is refused, unless the
command's own settings say the same; it would be left out without a word. Part of it libraries read
by themselves: with `--use_fsdp` transformers may load weights on the first process alone.
"""

from __future__ import annotations

import os
from typing import Final

from wsiprep.core.errors import ConfigError
from wsiprep.train.language.processes import Precision

__all__ = ["check_launcher"]

_TRUE: Final = ("1", "true", "t", "yes", "y", "on")
_CUTS: Final = {
    "ACCELERATE_USE_FSDP": "--use_fsdp",
    "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "--use_parallelism_config",
}
"""Variables that are true where a model is to be spread, and the flags that set them."""


def check_launcher(precision: Precision, device: str, *, sharded: bool | None) -> None:
    """See that the launcher was asked for nothing that this training would not do.

    Args:
        precision: The command's own.
        device: Kind of the device that it computes on: cpu, cuda, mps.
        sharded: Whether it spreads its model over the processes; None where it cannot.

    Raises:
        ConfigError: it was.
    """
    for variable, flag in _CUTS.items():
        if _value(variable) in _TRUE:
            ours = {
                None: "The model of train align is whole on every process; to save memory, "
                "set optimisation.micro_batch.",
                False: "Give --shard to the command: it spreads the language model.",
                True: "The --shard of the command spreads the language model.",
            }
            raise _asked_for(flag, variable, f"Launch with --multi_gpu instead. {ours[sharded]}")
    wanted = _value("ACCELERATE_MIXED_PRECISION")
    if wanted not in ("", "no", precision):
        raise _asked_for(
            f"--mixed_precision {wanted}",
            "ACCELERATE_MIXED_PRECISION",
            "Give --precision bf16 to the command."
            if wanted == "bf16"
            else "Launch with --mixed_precision no; --precision of the command is fp32 or bf16.",
        )
    backend = _value("ACCELERATE_DYNAMO_BACKEND")
    if backend not in ("", "no"):
        raise _asked_for(
            f"--dynamo_backend {backend}",
            "ACCELERATE_DYNAMO_BACKEND",
            "Launch with --dynamo_backend no; nothing is compiled.",
        )
    if _value("ACCELERATE_USE_CPU") in _TRUE and device != "cpu":
        raise _asked_for("--cpu", "ACCELERATE_USE_CPU", "Give --device cpu to the command.")


def _asked_for(flag: str, variable: str, hint: str) -> ConfigError:
    return ConfigError(
        f"accelerate launch was asked for `{flag}`, by a flag or its config file ({variable}); "
        "this training would not do so.",
        hint=hint,
    )


def _value(variable: str) -> str:
    return os.environ.get(variable, "").strip().lower()
