"""`wsiprep segment`."""

from __future__ import annotations

from wsiprep.cli._flags import settings_command
from wsiprep.tasks.config import SegmentConfig

__all__ = ["command"]


@settings_command(SegmentConfig)
def command(cfg: SegmentConfig) -> None:
    """Find tissue: mask in the store, GeoJSON, overlay picture."""
    from wsiprep.cli._finish import execute

    execute(cfg)
