"""`wsiprep embed`."""

from __future__ import annotations

from wsiprep.cli._flags import settings_command
from wsiprep.tasks.config import EmbedConfig

__all__ = ["command"]


@settings_command(EmbedConfig)
def command(cfg: EmbedConfig) -> None:
    """Encode the patches that were placed."""
    from wsiprep.cli._finish import execute

    execute(cfg)
