"""A run with a process of its own, which may be slow, be killed or find the disk full."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch  # noqa: F401 - so that forks have it

from wsiprep.core.config import build
from wsiprep.core.report import Event
from wsiprep.tasks import fill
from wsiprep.tasks.config import PrepareConfig
from wsiprep.tasks.prepare import prepare

__all__ = ["Life", "forked", "started"]

OPERATIONS = ("rename", "replace", "fsync", "pwrite", "truncate")
"""Of `os`; what changes the disk for good."""


@dataclass(frozen=True)
class Life:
    """What is run, and what happens to it.

    Attributes:
        slide: File of the slide.
        out: The output folder.
        pause: Seconds that each tile takes, so that a kill lands in the middle.
        dies_at: Operation on the disk, counted from 1, at which it kills itself; 0 for none.
        writes: pwrite that still find room on the disk; None for all.
        settings: Beside those of all lives.
    """

    slide: str
    out: str
    pause: float = 0.0
    dies_at: int = 0
    writes: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


class Ended(NamedTuple):
    """How it ended: exit code (minus the signal), and what it said."""

    returncode: int
    said: str
    errors: str

    def told(self, word: str) -> int:
        """The number that it said of something."""
        return int(next(t for t in self.said.splitlines() if t.startswith(word)).split()[1])


def started(life: Life) -> subprocess.Popen[str]:
    """A life whose imports are part of it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.life", json.dumps(asdict(life))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def forked(life: Life, log: Path) -> Ended:
    """A life from imports to its end; they were done before, once for all. `log` is a folder."""
    log.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_logged, args=(life, str(log)))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        process.join()
        pytest.fail(f"{life} did not end in 120 s")
    assert process.exitcode is not None
    said, errors = ((log / name).read_text() for name in ("said", "errors"))
    return Ended(process.exitcode, said, errors)


def _logged(life: Life, log: str) -> None:
    for number, name in ((1, "said"), (2, "errors")):
        file = os.open(os.path.join(log, name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.exit(_live(life))


def _live(life: Life) -> int:
    done = _count_operations(life.dies_at)
    if life.writes is not None:
        os.pwrite = _until_full(os.pwrite, life.writes)
    begin = fill._begin

    def slow(*args: Any) -> Any:
        time.sleep(life.pause)
        return begin(*args)

    fill._begin = slow
    settings = {
        "slides": (life.slide,), "output": life.out, "encoder": ("test",), "patch_size": 64,
        "batch_size": 8, "overlay": False, **life.settings,
    }  # fmt: skip
    report = prepare(build(PrepareConfig, ("", settings)), _tell)
    _say("operations", done())
    if report.problem:
        sys.stderr.write(f"{type(report.problem).__name__} {report.problem}\n")
    _say("encoded", sum(row.encoded for row in report.rows))
    return report.exit_code


def _tell(event: Event) -> None:
    _say(event.kind, event.done)


def _say(word: str, number: int) -> None:
    sys.stdout.write(f"{word} {number}\n")
    sys.stdout.flush()


def _count_operations(dies_at: int) -> Callable[[], int]:
    """Count what is done to the disk, and die before the operation of that number."""
    count = 0

    def counted(honest: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return honest(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))
    return lambda: count


def _until_full(honest: Callable[..., int], writes: int) -> Callable[..., int]:
    left = writes

    def pwrite(*args: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(*args)

    return pwrite


if __name__ == "__main__":
    sys.exit(_live(Life(**json.loads(sys.argv[1]))))
