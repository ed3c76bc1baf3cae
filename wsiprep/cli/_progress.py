"""Progress: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from wsiprep.core.report import Event, OnEvent, SlideOutcome

__all__ = ["lost_parts", "show_progress"]

COLOURS = {"ok": "green", "empty": "bold yellow", "skipped": "cyan", "failed": "bold red"}
LINE_SECONDS = 10.0
"""Between two progress lines of one slide, where there is no terminal."""


@contextmanager
def show_progress(console: Console) -> Iterator[OnEvent]:
    """Yield a listener for the events of a run."""
    if console.is_terminal:
        with _Bars(console) as bars:
            yield bars
    else:
        yield _Lines(console)


class _Speed(ProgressColumn):
    """Tiles per second of a slide's bar."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if task.fields.get("unit") != "tiles" or not speed:
            return Text("")
        return Text(f"{speed:,.1f} tiles/s", style="magenta")


class _Bars:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            _Speed(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
        )
        self._run = self._progress.add_task("slides", total=None, unit="slides", visible=False)
        self._slide = self._progress.add_task("", total=None, unit="tiles", visible=False)

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.update(self._slide, visible=False)
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        name = escape(event.slide)
        if event.kind == "run":
            self._progress.reset(self._run, total=event.total, visible=True)
        elif event.kind == "stage":
            self._progress.reset(
                self._slide,
                total=event.total or None,
                description=f"{name} [dim]{event.text}[/]",
                visible=True,
            )
        elif event.kind == "tiles":
            self._progress.advance(self._slide, event.done)
        elif event.kind == "plan":
            self._console.print(f"[dim]{name}: {escape(event.text)}[/]", highlight=False)
        elif event.kind == "note":
            self._console.print(f"[yellow]note[/] {escape(event.text)}", highlight=False)
        elif event.kind == "outcome":
            self._progress.update(self._slide, visible=False)
            self._progress.advance(self._run)
            if event.outcome is not None:
                self._console.print(_sentence(event.outcome), highlight=False)


class _Lines:
    """One line for each thing that happened, and now and then one for the tiles."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._slides = self._finished = 0
        self._total = self._done = 0
        self._began = self._last = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event.kind == "run":
            self._slides, self._finished = event.total, 0
            self._say(f"{event.total} slide{'s' if event.total != 1 else ''}")
        elif event.kind == "stage":
            self._total, self._done, self._began, self._last = event.total, 0, now, now
            tiles = f", {event.total:,} tiles" if event.total else ""
            self._say(f"{event.slide}: {event.text}{tiles}")
        elif event.kind == "tiles":
            self._done += event.done
            if now - self._last >= LINE_SECONDS:
                self._last = now
                speed = self._done / (now - self._began)
                left = (self._total - self._done) / speed
                self._say(
                    f"{event.slide}: {self._done}/{self._total} tiles, {speed:.1f} tiles/s, "
                    f"eta {left:.0f} s"
                )
        elif event.kind == "plan":
            self._say(f"{event.slide}: {event.text}")
        elif event.kind == "note":
            self._say(f"note: {event.text}")
        elif event.kind == "outcome" and event.outcome is not None:
            self._finished += 1
            place = f"[{self._finished}/{self._slides}] "
            self._console.print(escape(place) + _sentence(event.outcome), highlight=False)

    def _say(self, text: str) -> None:
        self._console.print(escape(text), highlight=False)


def lost_parts(row: SlideOutcome) -> list[str]:
    """What of a slide could not be read, and what came of it."""
    parts = []
    if row.bad_tiles:
        parts.append(f"unreadable patches masked: {row.bad_tiles:,}")
    if row.thumbnail_bad_tiles:
        parts.append(f"unreadable tiles white in the thumbnail: {row.thumbnail_bad_tiles:,}")
    return parts


def _sentence(row: SlideOutcome) -> str:
    parts = [f"[{COLOURS[row.status]}]{row.status}[/] {escape(row.slide)}"]
    if row.status == "ok" and row.patches:
        speed = f", {row.encoded / row.seconds:.1f} tiles/s" if row.encoded and row.seconds else ""
        parts.append(f"{row.patches} patches in {row.seconds:.1f} s{speed}")
    elif row.status == "ok" and row.tissue_mm2:
        parts.append(f"{row.tissue_mm2:.2f} mm² of tissue in {row.seconds:.1f} s")
    parts += [f"[yellow]{text}[/]" for text in lost_parts(row)]
    if row.reason:
        parts.append(escape(row.reason.rstrip(".")))
    if row.remedy:
        parts.append(escape(row.remedy))
    lines = [": ".join(parts[:1]) + (" " + "; ".join(parts[1:]) if parts[1:] else "")]
    lines += [f"  [yellow]note[/] {escape(note)}" for note in row.notes]
    return "\n".join(lines)
