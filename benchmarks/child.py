"""A process of its own, to learn the most memory it held."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from case import Done

__all__ = ["in_child", "tell"]


def tell(patches: float) -> None:
    """Print, in the child, how many patches it made and its peak of memory in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss of a child begins at its parent's
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        peak = int(lines["VmHWM"].split()[0]) * 1024
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(int(patches), peak)


def in_child(program: str, words: list[Any]) -> Done:
    """Run a program that ends with `tell`; it may import what lies beside this file."""
    setup = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", setup + program, *map(str, words)],
        check=True,
        capture_output=True,
        text=True,
    )
    patches, peak = (int(word) for word in done.stdout.split())
    return Done(patches, {"patches": patches, "peak MiB": peak / 2**20})
