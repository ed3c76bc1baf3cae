"""`wsiprep ask`."""

from __future__ import annotations

from typing import Any

import typer

from wsiprep.cli._flags import settings_command
from wsiprep.tasks.ask_config import AskConfig

__all__ = ["command"]

HELP = "An empty line, Ctrl-C or Ctrl-D ends the chat; /new begins another on the same slide."


@settings_command(AskConfig)
def command(cfg: AskConfig) -> None:
    """Ask a model about slides; without a question, chat with it."""
    if not cfg.questions.question:
        _chat(cfg)
        return
    from wsiprep.cli._asked import finish_asked
    from wsiprep.cli._console import print_json, stderr
    from wsiprep.cli._progress import show_progress
    from wsiprep.tasks.ask import ask

    with show_progress(stderr()) as on_event:
        done = ask(cfg, on_event)
    if cfg.result.json_:
        print_json(done.report)
    else:
        for slide in done.report["slides"]:
            _print(slide)
    finish_asked(done, json_=cfg.result.json_)
    raise typer.Exit(done.exit_code)


def _print(slide: dict[str, Any]) -> None:
    from wsiprep.cli._console import stdout

    def say(line: str) -> None:
        stdout().print(line, markup=False, highlight=False)

    say(slide["slide"])
    for row in slide["answers"]:
        say(f"  {row['question']}")
        for suffix, how in (("", ""), ("_blind", "without the slide: ")):
            if f"choices{suffix}" in row:
                for one in row[f"choices{suffix}"]:
                    say(f"    {how}{one['probability']:.3f}  {one['choice']}")
            elif f"answer{suffix}" in row:
                said = row[f"answer{suffix}"] or "(nothing)"
                for line in said.splitlines():
                    say(f"    {how}{line}")


def _chat(cfg: AskConfig) -> None:
    """Questions from stdin, answers to stdout, words about them to stderr."""
    import sys

    from wsiprep.cli._console import stderr, stdout
    from wsiprep.cli._progress import show_progress
    from wsiprep.core.errors import ManifestError
    from wsiprep.tasks.ask import open_chat

    with show_progress(stderr()) as on_event:
        chat = open_chat(cfg, on_event)
    for note in chat.notes:
        stderr().print(note, markup=False, highlight=False)
    stderr().print(
        f"{chat.case}: {chat.view.patches:,} patches. {HELP}", markup=False, highlight=False
    )
    asks = sys.stdin.isatty()
    while True:
        try:
            text = input("> " if asks else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not text:
            return
        if text == "/new":
            chat.forget()
            continue
        try:
            answer = chat.say(text)
        except ManifestError as err:
            if not asks:
                raise
            stderr().print(str(err), markup=False, highlight=False)
            continue
        stdout().print(answer or "(nothing)", markup=False, highlight=False)
