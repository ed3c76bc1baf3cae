"""Where the time of encoding went, and what to turn to make it faster."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

__all__ = ["EncodeTimes", "Profile"]

Bound = Literal["reader", "encoder", "writer"]
BUSY = 0.7
"""A thread that works more than this share of the time has little left to give."""
ENOUGH_S = 2.0
"""Encoding that took less does not tell what bounds it: starting and publishing outweigh it."""


@dataclass(slots=True)
class EncodeTimes:
    """Seconds of encoding, publishing included, of one slide or of several added up.

    Three parties work side by side: threads that read tiles, the thread that hands them to the
    encoder, and one that writes features. `wait_s + encode_s + blocked_s` is nearly `seconds`;
    the times of the reading threads and of the writer overlap with it.

    Attributes:
        tiles: Patches encoded.
        seconds: Wall time.
        read_s: Reading threads, fetching compressed tiles.
        decode_s: Reading threads, decoding; on a GPU, the one thread that feeds its decoder.
        patch_s: Reading threads, reading from a reader that gives no stored tiles.
        cut_s: Reading threads, cutting and resizing patches.
        wait_s: The encoder waits for tiles.
        encode_s: The encoder computes.
        blocked_s: The encoder waits for the writer.
        write_s: The writer is at work.
        stored_tiles: Stored tiles decoded.
        bytes: Compressed bytes read.
        host_tiles: Stored tiles that a decoder on the GPU left to the CPU.
    """

    tiles: int = 0
    seconds: float = 0.0
    read_s: float = 0.0
    decode_s: float = 0.0
    patch_s: float = 0.0
    cut_s: float = 0.0
    wait_s: float = 0.0
    encode_s: float = 0.0
    blocked_s: float = 0.0
    write_s: float = 0.0
    stored_tiles: int = 0
    bytes: int = 0
    host_tiles: int = 0

    def published(self, seconds: float) -> None:
        """Publishing, which everybody waits for, is the writer's."""
        self.seconds += seconds
        self.write_s += seconds
        self.blocked_s += seconds

    def add(self, other: EncodeTimes) -> None:
        """Add another slide's."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


@dataclass(slots=True)
class Profile:
    """Times of a run, slide by slide, and what they say.

    Attributes:
        workers: Reading threads.
        cores: Cores this process may use.
        device: Where the encoders ran.
        slides: Times of each slide that was encoded, by its id.
        gpu_decode: Whether a decoder on the GPU was asked for.
        spare_bf16: Whether the encoders ran in float32 on a CPU that multiplies bfloat16.
    """

    workers: int
    cores: int
    device: str
    slides: dict[str, EncodeTimes] = field(default_factory=dict)
    gpu_decode: bool = False
    spare_bf16: bool = False

    @property
    def total(self) -> EncodeTimes:
        """All slides together."""
        total = EncodeTimes()
        for times in self.slides.values():
            total.add(times)
        return total

    def shares(self) -> dict[str, float]:
        """Shares of the time, 0 to 1.

        `read`, `decode`, `patch` (reading without stored tiles), `cut` and `idle` are of the
        reading threads' time and make 1; where a GPU decodes, `decode` and `cut` are of the time of
        the one thread that feeds it, and the others make 1. `wait`, `encode` and `blocked` are of
        the wall time as the encoder spends it; `write` is the writer's of the wall time.
        """
        t = self.total
        wall = max(t.seconds, 1e-9)
        threads = wall * self.workers
        feeding = wall if self.gpu_decode else threads
        reading = {"read": t.read_s / threads, "patch": t.patch_s / threads}
        decoding = {"decode": t.decode_s / feeding, "cut": t.cut_s / feeding}
        busy = sum(reading.values()) + (0 if self.gpu_decode else sum(decoding.values()))
        return {
            **reading,
            **decoding,
            "idle": max(0.0, 1 - busy),
            "wait": t.wait_s / wall,
            "encode": t.encode_s / wall,
            "blocked": t.blocked_s / wall,
            "write": t.write_s / wall,
        }

    def bound(self) -> Bound | None:
        """Who holds up the others: what the encoder spends most of its time on.

        None where nothing was encoded, or too little to say.
        """
        t = self.total
        if not t.tiles or t.seconds < ENOUGH_S:
            return None
        held_up: dict[Bound, float] = {
            "reader": t.wait_s,
            "encoder": t.encode_s,
            "writer": t.blocked_s,
        }
        return max(held_up, key=lambda name: held_up[name])

    def remedy(self) -> str:
        """What to turn, in a sentence; empty where nothing was encoded."""
        if not self.total.tiles:
            return ""
        bound = self.bound()
        if bound is None:
            return (
                f"Too little was encoded to say what it is bound by: that takes {ENOUGH_S:.0f} s "
                "of encoding."
            )
        if bound == "writer":
            return "Put --output on a faster disk, and move it from there when the run has ended."
        if bound == "encoder":
            if self.device == "cpu":
                bf16 = (
                    "pass --precision bf16 (1.2 to 2.6 times as fast where it was measured, "
                    "slightly other features), or "
                )
                return (
                    "The encoder is the limit of this machine: "
                    f"{bf16 if self.spare_bf16 else ''}use a GPU (--device cuda)."
                )
            return (
                "The GPU is busy, as it should be; --precision bf16 or fp16 and a larger "
                "--batch-size may help where they are not in use."
            )
        return self._reading_remedy()

    def _reading_remedy(self) -> str:
        t, share = self.total, self.shares()
        if self.gpu_decode and share["decode"] + share["cut"] > BUSY:
            return (
                "The one thread that decodes on the GPU and cuts patches there is the limit: "
                "compare with --decode cpu."
            )
        if t.read_s > t.decode_s + t.cut_s + t.patch_s:
            return (
                "The threads wait for the disk: copy the slides to a local one, or pass more "
                f"--workers (now {self.workers}; waiting costs no core)."
            )
        if self.workers < self.cores:
            return f"Pass more --workers: {self.workers} of {self.cores} cores read."
        if share["idle"] > 1 - BUSY:
            return "Too little was encoded to say more: threads were idle while others started."
        if t.patch_s > t.decode_s:
            return (
                "These slides are read patch by patch, without access to their stored tiles; "
                "give the job more cores."
            )
        more = f"All {self.cores} cores are decoding: give the job more of them."
        if self.device == "cuda" and not self.gpu_decode:
            return f"{more[:-1]}, or try --decode nvimgcodec (see docs/adr/0010)."
        return more

    def lines(self) -> list[str]:
        """What to print at the end of a run; nothing where nothing was encoded."""
        t, share = self.total, self.shares()
        if not t.tiles:
            return []
        percent = {name: f"{round(100 * value)} %" for name, value in share.items()}
        patch = f"patch by patch {percent['patch']}, " if t.patch_s else ""
        return [
            f"{t.tiles / max(t.seconds, 1e-9):,.0f} tiles/s while encoding {t.tiles:,} tiles. "
            f"Reading threads ({self.workers}): read {percent['read']}, "
            f"decode {percent['decode']}, {patch}cut {percent['cut']}, idle {percent['idle']}. "
            f"Encoder ({self.device}): wait {percent['wait']}, encode {percent['encode']}, "
            f"held up by the writer {percent['blocked']}. Writer: write {percent['write']}.",
            " ".join([*([f"{bound}-bound."] if (bound := self.bound()) else []), self.remedy()]),
        ]

    def canonical(self) -> dict[str, Any]:
        """Plain JSON types."""

        def plain(times: EncodeTimes) -> dict[str, Any]:
            values = {k: round(v, 6) for k, v in asdict(times).items()}
            return {**values, "tiles_per_s": round(times.tiles / max(times.seconds, 1e-9), 3)}

        return {
            "workers": self.workers,
            "cores": self.cores,
            "device": self.device,
            "total": plain(self.total),
            "shares": {name: round(value, 4) for name, value in self.shares().items()},
            "bound": self.bound(),
            "remedy": self.remedy(),
            "slides": {name: plain(times) for name, times in self.slides.items()},
        }
