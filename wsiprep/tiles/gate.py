"""How many units may be under way at a time, where each of them needs much memory."""

from __future__ import annotations

import threading

__all__ = ["STOP_POLL_S", "Gate"]

STOP_POLL_S = 0.1
"""How long a thread that waits for others may take to notice that all is stopped."""


class Gate:
    """Lets a unit begin when few enough separate it from the first one that is not done.

    Units are numbered in the order in which threads take them, so that the first one that is not
    done is always let through, and nobody waits for a later one.

    Args:
        stopped: Set when nobody waits for the units any more.
    """

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped, self._first, self._done = stopped, 0, set[int]()
        self._changed = threading.Condition()

    def begin(self, unit: int, at_once: int) -> bool:
        """Wait until the unit is one of `at_once` in a row; False when all is stopped."""
        with self._changed:
            while unit >= self._first + at_once:
                # When all is stopped, a unit may have been cancelled before one that needs it.
                if self._stopped.is_set():
                    return False
                self._changed.wait(STOP_POLL_S)
        return True

    def end(self, unit: int) -> None:
        """The unit is done, or has failed."""
        with self._changed:
            self._done.add(unit)
            while self._first in self._done:
                self._done.remove(self._first)
                self._first += 1
            self._changed.notify_all()
