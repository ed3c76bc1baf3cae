"""Processes part when they are done."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from wsiprep.train.language.processes import join_processes, leave_processes


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are told by Linux")
def test_leaving_ends_the_threads_that_speak_with_others(tmp_path: Path) -> None:
    before = threads()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    dist.all_reduce(torch.ones(8))
    speaking = threads() - before
    assert speaking
    leave_processes()
    assert not dist.is_initialized()
    late = time.monotonic() + 10  # a thread that has ended is listed for a moment yet
    while speaking & threads():
        assert time.monotonic() < late, speaking & threads()
        time.sleep(0.01)


def test_one_alone_has_nobody_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_processes(torch.device("cpu")).world == 1
    leave_processes()
