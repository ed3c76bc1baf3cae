"""Every benchmark in turn, with the same flags: `python benchmarks --markdown RESULTS.md`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

FILES = (
    "tile_read.py",
    "stream.py",
    "thumbnail.py",
    "lattice.py",
    "encode.py",
    "store_layout.py",
    "end_to_end.py",
    "tissue.py",
    "language.py",
)


def main(argv: list[str]) -> int:
    here = Path(__file__).parent
    files = (*FILES, *(["gpu.py", "gpu_language.py"] if torch.cuda.is_available() else []))
    runs = [subprocess.run([sys.executable, str(here / f), *argv], check=False) for f in files]
    return max(run.returncode for run in runs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
