"""The output folder of a training: nothing in it is lost without a word."""

from __future__ import annotations

from pathlib import Path

from wsiprep.core.errors import ConfigError

__all__ = ["check_folder"]


def check_folder(state: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to begin where another training would be lost, and to go on where there is none.

    Args:
        state: The file in the output folder that a training goes on from.
        resume: Whether it is asked to go on.
        overwrite: Whether it is asked to begin anew.

    Raises:
        ConfigError: there is a state, and neither is asked for; both are; `resume` is, and there
            is none.
    """
    if resume and overwrite:
        raise ConfigError(
            "--resume goes on with a training and --overwrite begins it anew.", hint="Pass one."
        )
    if resume and not state.is_file():
        raise ConfigError(f"there is no {state} to go on from.", hint="Drop --resume.")
    if state.exists() and not (resume or overwrite):
        raise ConfigError(
            f"{state.parent} holds a training already: {state.name}.",
            hint="Pass --resume to go on with it, --overwrite to replace it, or another --output.",
        )
