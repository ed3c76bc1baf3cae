"""`wsiprep coords`."""

from __future__ import annotations

from wsiprep.cli._flags import settings_command
from wsiprep.tasks.config import CoordsConfig

__all__ = ["command"]


@settings_command(CoordsConfig)
def command(cfg: CoordsConfig) -> None:
    """Place patches on the tissue that was found."""
    from wsiprep.cli._finish import execute

    execute(cfg)
