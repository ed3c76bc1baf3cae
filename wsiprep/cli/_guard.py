"""The one place where errors become words and exit codes."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from wsiprep.core.errors import WsiprepError

__all__ = ["guarded"]


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Run a command; print an expected error in one paragraph, a bug with its traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except WsiprepError as err:
            _complain(err)
            raise typer.Exit(err.exit_code) from err
        except KeyboardInterrupt as err:
            sys.stderr.write("\nInterrupted. Run the same command again to resume.\n")
            raise typer.Exit(130) from err
        except BrokenPipeError as err:
            # The reader of our output went away; say nothing more on it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from err
        except typer.Exit:
            raise
        except Exception as err:
            traceback.print_exc()
            sys.stderr.write(
                "\nThis is a bug in wsiprep, not in your input. Please report it with the lines "
                "above and the output of `wsiprep doctor`.\n"
            )
            raise typer.Exit(70) from err

    if hasattr(command, "__signature__"):
        run.__signature__ = command.__signature__  # type: ignore[attr-defined]
    return run


def _complain(err: WsiprepError) -> None:
    from rich.markup import escape

    from wsiprep.cli._console import stderr

    console = stderr()
    where = f"{err.slide}: " if err.slide else ""
    console.print(f"[bold red]error[/] {escape(where + err.message)}", highlight=False)
    if err.hint:
        console.print(f"      {escape(err.hint)}", highlight=False)
