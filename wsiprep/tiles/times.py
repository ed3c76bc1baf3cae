"""Where the time of a stream of tiles goes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

__all__ = ["ReadTimes"]


@dataclass(slots=True)
class ReadTimes:
    """Seconds of reading threads, which work side by side, and of the consumer that waits for them.

    Attributes:
        read_s: Fetching compressed tiles.
        decode_s: Decoding them.
        patch_s: Reading from a slide that gives no tiles: fetching and decoding in one.
        cut_s: Cutting patches from tiles and resizing them.
        wait_s: The consumer's, waiting for a batch.
        tiles: Tiles decoded; patches where a slide gives no tiles.
        bytes: Compressed bytes; 0 where a slide gives no tiles.
        host_tiles: Tiles left to the host by a decoder on a device.
    """

    read_s: float = 0.0
    decode_s: float = 0.0
    patch_s: float = 0.0
    cut_s: float = 0.0
    wait_s: float = 0.0
    tiles: int = 0
    bytes: int = 0
    host_tiles: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **spent: float) -> None:
        """Add what a thread measured, by the names of the attributes."""
        with self._lock:
            for name, value in spent.items():
                setattr(self, name, getattr(self, name) + value)
