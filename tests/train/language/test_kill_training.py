"""A training that is killed while it saves goes on from the last whole state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_any_moment_of_a_save(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.language.killed", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, env=env, timeout=800)
    told = json.loads((tmp_path / "facts.json").read_text())
    assert len(told) > 6
    # Each died, left a model that can be read, and ended as one that was never stopped.
    assert {how for how, _, _ in told} == {-signal.SIGKILL}
    assert {name for _, name, _ in told} == {"step-000002", "step-000004"}
    assert all(same for _, _, same in told), told
