"""How many threads: what the process may use, and no more than the queue system granted."""

from __future__ import annotations

import pytest

from wsiprep.core import cores


@pytest.mark.parametrize(
    ("granted", "allowed", "cores_", "workers"),
    [("3", 8, 3, 3), ("64", 2, 2, 2), ("200", 40, 40, 16), (None, 2, 2, 2), ("", 2, 2, 2),
     ("0", 5, 5, 5), ("many", 5, 5, 5), (None, 0, 1, 1)],
)  # fmt: skip
def test_the_smaller_of_affinity_and_grant(granted, allowed, cores_, workers, monkeypatch):
    if granted is None:
        monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    else:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", granted)
    affinity = set(range(allowed))
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: affinity, raising=False)
    assert cores.available_cores() == cores_
    assert cores.default_workers() == workers


def test_where_there_is_no_affinity_the_machine_counts(monkeypatch):
    monkeypatch.delattr(cores.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 6)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert cores.available_cores() == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "9")
    assert cores.available_cores() == 6
