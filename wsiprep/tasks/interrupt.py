"""Stopping cleanly: the first Ctrl-C or SIGTERM asks, the second insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from wsiprep.core.errors import Interrupted

__all__ = ["StopRequests", "stop_requests"]


class _StopNow(BaseException):
    """Raised by a signal in the middle of work; no handler of errors may take it for one."""


class StopRequests:
    """Whether a stop was asked for."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._at_once = False

    @property
    def asked(self) -> bool:
        """Whether it was."""
        return self._asked.is_set()

    def check(self) -> None:
        """Raise `Interrupted` if a stop was asked for."""
        if self._asked.is_set():
            raise Interrupted(
                "stopped on request; what was finished is kept.",
                hint="Run the same command again to go on where it stopped.",
            )

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Around long work that holds nothing worth keeping: a stop breaks it off."""
        self.check()
        self._at_once = True
        try:
            yield
        except _StopNow:
            self.check()
        finally:
            self._at_once = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self._asked.is_set():
            raise KeyboardInterrupt
        self._asked.set()
        if self._at_once:
            raise _StopNow


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Listen to signals while open.

    The first SIGINT or SIGTERM only sets a flag, so that what is in flight is written; a second
    one interrupts at once. Outside the main thread signals are left alone.
    """
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, requests.ask) for number in numbers}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
