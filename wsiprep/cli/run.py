"""`wsiprep run`."""

from __future__ import annotations

from wsiprep.cli._flags import settings_command
from wsiprep.tasks.config import PrepareConfig

__all__ = ["command"]


@settings_command(PrepareConfig)
def command(cfg: PrepareConfig) -> None:
    """Slides in, feature grids out: tissue, patches, features."""
    from wsiprep.cli._finish import execute

    execute(cfg)
