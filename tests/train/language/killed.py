"""A training that is killed while it saves: `python -m tests.train.language.killed FOLDER`.

Every kill is of a process of its own, by a signal that it cannot answer, just before one of the
disk operations of the save of step 4; a file that is being written is left half.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.train.language.aligned import HERE, WORLD, cases_of, learner_of, recipe_of
from wsiprep.core.errors import WsiprepError
from wsiprep.train.language.checkpoint import Checkpoints, load_aligned
from wsiprep.train.language.loop import RunPlan, train

SLIDES = WORLD.train(6)
STEPS, EVERY, SAVED = 6, 2, 4
APART = 5
"""Of so many operations on the disk one is where a run dies."""
OPERATIONS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


class Disk:
    """Counts operations on the disk from the step on whose save is to be killed.

    Args:
        last: Number of the operation before which the process dies; 0 for none.
    """

    def __init__(self, last: int) -> None:
        self.last, self.armed, self.count = last, False, 0

    def __enter__(self) -> Disk:
        self.honest = {name: getattr(os, name) for name in OPERATIONS}
        for name, call in self.honest.items():
            setattr(os, name, self._counted(call, torn=name == "fsync"))
        return self

    def __exit__(self, *_: object) -> None:
        for name, call in self.honest.items():
            setattr(os, name, call)

    def _counted(self, honest: Callable[..., Any], *, torn: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += self.armed
            if self.armed and self.count == self.last:
                if torn and stat.S_ISREG(os.fstat(args[0]).st_mode):
                    path = Path(f"/proc/self/fd/{args[0]}").resolve()
                    os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return honest(*args, **kwargs)

        return call


def run(out: Path, last: int = 0, *, resume: bool = False) -> None:
    """Train; the operations of the save of step 4 are put into a file beside the folder."""
    recipe = recipe_of(optimisation={"steps": STEPS, "batch_size": 2})
    cases = cases_of(SLIDES[:4])
    learner = learner_of(recipe, cases, cases_of(SLIDES[4:]))
    with Disk(last) as disk:

        def watch(step: Any) -> None:
            if step.step == SAVED:
                out.with_suffix(".count").write_text(str(disk.count))
            disk.armed = step.step == SAVED - 1  # told after a save

        plan = RunPlan(out, 1, EVERY, resume, {"a": 1})
        train(learner, cases, recipe.optimisation, plan, HERE, watch)


def ended(out: Path, last: int = 0, *, resume: bool = False) -> int:
    """How `run` ended, in a process of its own: 0, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(out, last, resume=resume)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def left(out: Path) -> str:
    """The last checkpoint of the stopped run; empty if it, or the best, cannot be read."""
    names = Checkpoints(out).names()
    try:
        for name in names.values():
            load_aligned(out / name, "cpu")
    except WsiprepError:
        return ""
    return names["last"]


def facts_of(out: Path) -> dict[str, Any]:
    """What a run that ended has."""
    names = json.loads((out / "checkpoints.json").read_text())
    return {
        "names": names,
        "weights": [(out / n / "weights.safetensors").read_bytes().hex() for n in names.values()],
        "log": (out / "log.csv").read_text(),
        "files": sorted(path.name for path in out.iterdir() if not path.name.endswith(".tmp")),
    }


def main(folder: Path) -> None:
    """Kill at one operation after the other; facts go to `facts.json`."""
    torch.set_num_threads(1)
    assert ended(folder / "whole") == 0
    expected, begun = facts_of(folder / "whole"), folder / "begun"
    told = []
    for last in range(1, int((folder / "whole.count").read_text()) + 1, APART):
        out = folder / f"killed-{last}"
        if last == 1:
            how = ended(begun, last)  # whose last state is that of step 2
            shutil.copytree(begun, out)
        else:
            shutil.copytree(begun, out)
            how = ended(out, last, resume=True)
        stopped = left(out)
        assert ended(out, resume=True) == 0
        told.append([how, stopped, facts_of(out) == expected])
    (folder / "facts.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
