"""How many threads this process may keep busy."""

from __future__ import annotations

import os

__all__ = ["available_cores", "default_workers", "granted_cores"]


def available_cores() -> int:
    """Cores this process may use: those of its CPU affinity, or fewer if the queue system says so.

    `os.cpu_count` alone would count cores of the node that belong to other jobs. A grant above the
    affinity is not this process's: threads beyond it would share cores.
    """
    if hasattr(os, "sched_getaffinity"):
        there = max(1, len(os.sched_getaffinity(0)))
    else:
        there = max(1, os.cpu_count() or 1)
    return min(there, granted_cores() or there)


def granted_cores() -> int | None:
    """What the queue system says that a task of the job has; None where it says nothing."""
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return int(granted) if granted.isdigit() and int(granted) > 0 else None


def default_workers() -> int:
    """Reading threads when the user names none: the cores, at most 16."""
    return min(16, available_cores())
