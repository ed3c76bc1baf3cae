"""The command as a shell runs it."""

from __future__ import annotations

import os
import subprocess
import sys


def wsiprep(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `wsiprep`, with these variables set besides those that are."""
    return subprocess.run(
        [sys.executable, "-m", "wsiprep", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )
