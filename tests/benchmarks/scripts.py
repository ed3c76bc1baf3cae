"""The benchmarks, and what one says."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FILES = (
    "tile_read",
    "stream",
    "thumbnail",
    "lattice",
    "encode",
    "store_layout",
    "end_to_end",
    "tissue",
    "language",
)
ON_GPU = ("gpu", "gpu_language")


def said_by(name: str, *flags: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def result(harness, name, amount, wall_s, cpu_s=None, facts=None):
    empty = harness.Case(name, {}, "things", nullcontext, lambda _: harness.Done(1))
    return harness.Result(empty, amount, wall_s, cpu_s or wall_s, facts or {})
