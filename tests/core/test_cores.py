"""How many threads: what the queue system granted, else what the process may use."""

from __future__ import annotations

from wsiprep.core import cores


def test_workers_follow_the_queue_system(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert cores.default_workers() == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "200")
    assert cores.default_workers() == 16
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert cores.default_workers() == 2
