"""One run in a process of its own, by whatever interpreter: what start-up took, what the work took.

Standard library only, since it is imported in the environment of every peer.

    PYTHON run_<peer>.py prepare|run|check FOLDER      FOLDER/job.json says what to do
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Job", "main"]


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        slide: The slide.
        folder: Where all that is written goes; made anew for every run.
        given: Level-0 corners of the patches, int64 (N, 2), in a .npy file; None: find tissue.
        workers: Reading threads or processes.
        batch: Patches encoded at a time.
        patch_px: Side of a patch, at the resolution of level 0.
        mpp: Of level 0, in micrometres a pixel.
    """

    slide: Path
    folder: Path
    given: Path | None
    workers: int
    batch: int
    patch_px: int
    mpp: float


def main(
    *,
    start: Callable[[Job], Callable[[], int]],
    check: Callable[[Job], dict[str, Any]],
    prepare: Callable[[Job], None] | None = None,
) -> None:
    """Do what the command line says and leave JSON in the folder of the job.

    Args:
        start: Imports and makes the encoder; what it returns does the work and says the tiles.
        check: After a run, from the files it left: `rows`, `mean` of all features, `reader`.
        prepare: Before a run, untimed: puts what is given into the form that the peer reads.
    """
    action, folder = sys.argv[1], Path(sys.argv[2])
    job = _read(folder)
    done: dict[str, Any] = {}
    if action == "prepare" and prepare is not None:
        prepare(job)
    elif action == "check":
        done = check(job)
    elif action == "run":
        began = time.perf_counter()
        work = start(job)
        ready = time.perf_counter()
        tiles = work()
        ended = time.perf_counter()
        done = {
            "tiles": tiles,
            "seconds_startup": ready - began,
            "seconds_work": ended - ready,
            "peak_mib": _peak_mib(),
        }
    (folder / f"{action}.json").write_text(json.dumps(done))


def _read(folder: Path) -> Job:
    values = json.loads((folder / "job.json").read_text())
    given = values.pop("given")
    return Job(
        slide=Path(values.pop("slide")),
        folder=folder,
        given=None if given is None else Path(given),
        **values,
    )


def _peak_mib() -> float:
    """Of this process; loader processes of its own are not in it."""
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
