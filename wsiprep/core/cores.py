"""How many threads this process may keep busy."""

from __future__ import annotations

import os

__all__ = ["available_cores", "default_workers"]


def available_cores() -> int:
    """Cores this process may use: the queue system's grant, else the CPU affinity.

    `os.cpu_count` alone would count cores of the node that belong to other jobs.
    """
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if granted.isdigit() and int(granted) > 0:
        return int(granted)
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def default_workers() -> int:
    """Reading threads when the user names none: the cores, at most 16."""
    return min(16, available_cores())
