"""`wsiprep train`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from wsiprep.cli._flags import settings_command
from wsiprep.cli._guard import guarded
from wsiprep.core.errors import Interrupted
from wsiprep.train.language.assistant_config import Command, TrainAssistantConfig
from wsiprep.train.language.config import TrainAlignConfig
from wsiprep.train.tissue.config import TrainTissueConfig

__all__ = ["app"]

app = typer.Typer(
    name="train",
    help="Train models.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EPILOG = (
    "Exit codes: 0 done; 1 a slide or store that cannot be used; 2 usage; "
    "3 environment; 130 interrupted (go on with --resume)."
)


@settings_command(TrainTissueConfig)
def tissue(cfg: TrainTissueConfig) -> None:
    """Train a tissue segmenter on drawn thumbnails and on your own."""
    from wsiprep.cli._console import stderr, stdout
    from wsiprep.cli._steps import show_steps
    from wsiprep.train.tissue import train_tissue

    with _stoppable(cfg.training.state_file), show_steps(stderr()) as on_step:
        done = train_tissue(cfg.training, on_step, _note)
    scores = ", ".join(f"{name} {value:.3f}" for name, value in done.scores.items())
    if scores:
        stdout().print(f"IoU: {scores}", markup=False, highlight=False)
    stdout().print(f"network       {done.network}", markup=False, highlight=False)
    for picture in done.pictures:
        stdout().print(f"pictures      {picture}", markup=False, highlight=False)
    stdout().print(f"use it with   {done.use}", markup=False, highlight=False)


@settings_command(TrainAlignConfig)
def align(cfg: TrainAlignConfig) -> None:
    """Train a model that puts slides and their captions into one space."""
    from wsiprep.cli._console import stderr, stdout
    from wsiprep.cli._steps import show_steps
    from wsiprep.train.language.align import train_align
    from wsiprep.train.language.loop import STATE
    from wsiprep.train.language.processes import leave_processes
    from wsiprep.train.language.rehearsal import rehearse_align

    out = stdout()
    if cfg.training.dry_run:
        rehearse_align(cfg.training, _tell_fact)
        leave_processes()
        return
    with _stoppable(cfg.training.output / STATE), show_steps(stderr()) as on_step:
        done = train_align(cfg.training, on_step, _note)
        leave_processes()
    _tell(done.checkpoint, done.scores)
    out.print(
        f"use it with   wsiprep classify | retrieve | ground --model {done.checkpoint.parent}",
        markup=False, highlight=False,
    )  # fmt: skip


@settings_command(TrainAssistantConfig)
def caption(cfg: TrainAssistantConfig) -> None:
    """Train a language model to describe slides."""
    _assistant(cfg, "caption")


@settings_command(TrainAssistantConfig)
def instruct(cfg: TrainAssistantConfig) -> None:
    """Train a language model to talk about slides."""
    _assistant(cfg, "instruct")


def _assistant(cfg: TrainAssistantConfig, kind: Command) -> None:
    from wsiprep.cli._console import stderr, stdout
    from wsiprep.cli._steps import show_steps
    from wsiprep.train.language.instruct import train_assistant
    from wsiprep.train.language.loop import STATE
    from wsiprep.train.language.processes import leave_processes
    from wsiprep.train.language.rehearsal import rehearse_assistant

    out = stdout()
    if cfg.training.dry_run:
        rehearse_assistant(cfg.training, kind, _tell_fact)
        leave_processes()
        return
    with _stoppable(cfg.training.output / STATE), show_steps(stderr()) as on_step:
        done = train_assistant(cfg.training, kind, on_step, _note)
        leave_processes()
    _tell(done.checkpoint, done.scores)
    out.print(
        f"use it with   wsiprep ask | caption --model {done.checkpoint.parent}",
        markup=False, highlight=False,
    )  # fmt: skip


@contextmanager
def _stoppable(kept: Path) -> Iterator[None]:
    """Within it Ctrl-C is an error that says how this training goes on.

    Args:
        kept: What it goes on from; not there before the first validation.
    """
    try:
        yield
    except KeyboardInterrupt as err:
        raise Interrupted(
            "stopped on request.",
            hint="Run the same command with --resume (not --overwrite) to go on from the last"
            " checkpoint."
            if kept.is_file()
            else "There is no checkpoint yet: the same command begins anew.",
        ) from err


def _note(text: str) -> None:
    from wsiprep.cli._console import stderr

    stderr().print(text, markup=False, highlight=False)


def _tell_fact(name: str, value: str) -> None:
    from wsiprep.cli._console import stdout

    stdout().print(f"{name:<26}{value}", markup=False, highlight=False)


def _tell(checkpoint: Path, scores: dict[str, float]) -> None:
    from wsiprep.cli._console import stdout

    if scores:
        said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        stdout().print(f"validation    {said}", markup=False, highlight=False)
    stdout().print(f"checkpoint    {checkpoint}", markup=False, highlight=False)


app.command("tissue", epilog=EPILOG)(guarded(tissue))
app.command("align", epilog=EPILOG)(guarded(align))
app.command("caption", epilog=EPILOG)(guarded(caption))
app.command("instruct", epilog=EPILOG)(guarded(instruct))
