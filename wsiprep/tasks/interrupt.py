"""Stopping cleanly: the first Ctrl-C or SIGTERM asks, the second insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from wsiprep.core.errors import Interrupted

__all__ = ["stop_requests"]


@contextmanager
def stop_requests() -> Iterator[Callable[[], None]]:
    """Yield a function that raises `Interrupted` once a stop was asked for.

    While it is open, the first SIGINT or SIGTERM only sets a flag, so that what is in flight is
    written; a second one interrupts at once. Outside the main thread signals are left alone.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    def check() -> None:
        if asked.is_set():
            raise Interrupted(
                "stopped on request; what was finished is kept.",
                hint="Run the same command again to go on where it stopped.",
            )

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
