"""Progress of training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from wsiprep.core.report import TrainStep

__all__ = ["show_steps"]

LINE_SECONDS = 10.0
"""Between two lines where there is no terminal."""


@contextmanager
def show_steps(console: Console) -> Iterator[Callable[[TrainStep], None]]:
    """Yield a listener for the steps of a training."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    progress = Progress(
        TextColumn("step"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.description}", style="magenta"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
    )
    task = progress.add_task("", total=None)

    def show(step: TrainStep) -> None:
        progress.update(task, completed=step.step, total=step.steps, description=_state(step))
        if step.scores:
            console.print(f"step {step.step}: {_scores(step)}", markup=False, highlight=False)

    with progress:
        yield show


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console, self._said, self._began = console, 0.0, time.monotonic()
        self._first: int | None = None

    def __call__(self, step: TrainStep) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = step.step, now
        if now - self._said < LINE_SECONDS and not step.scores and step.step < step.steps:
            return
        self._said = now
        done = step.step - self._first
        left = (now - self._began) / done * (step.steps - step.step) if done else None
        eta = f", eta {left / 60:.0f} min" if left is not None else ""
        scores = f"; {_scores(step)}" if step.scores else ""
        line = f"step {step.step}/{step.steps}: {_state(step)}{eta}{scores}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _state(step: TrainStep) -> str:
    tokens = f", {step.tokens_per_s:,.0f} tokens/s" if step.tokens_per_s is not None else ""
    speed = f"{step.per_s:.1f} {step.unit}/s{tokens}"
    return f"loss {step.loss:.4f}, lr {step.learning_rate:.1e}, {speed}"


def _scores(step: TrainStep) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in (step.scores or {}).items())
