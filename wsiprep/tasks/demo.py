"""The whole pipeline on a synthetic slide, or on a slide of the user's own."""

from __future__ import annotations

from pathlib import Path

from wsiprep.core.report import Event, OnEvent, RunReport
from wsiprep.store.disk import check_writable, output_errors
from wsiprep.tasks.config import PrepareConfig
from wsiprep.tasks.prepare import prepare

__all__ = ["demo"]


def demo(slide: Path | None, output: Path, on_event: OnEvent = lambda _: None) -> RunReport:
    """Make a synthetic H&E slide unless one is given, and run everything on it.

    Args:
        slide: A slide, or None for the synthetic one, which is written to `output`.
        output: Folder for results.
        on_event: Told of progress.

    Raises:
        UsageError, EnvironmentProblem: as `prepare`.
    """
    if slide is None:
        from wsiprep.synth import SyntheticSlide, write_slide

        check_writable(output)
        slide = output / "synthetic_he.tiff"
        if not slide.is_file():
            on_event(Event("note", text=f"Making a synthetic H&E slide: {slide}"))
            with output_errors(output):
                output.mkdir(parents=True, exist_ok=True)
            write_slide(slide, SyntheticSlide())
    return prepare(PrepareConfig.of(slides=(str(slide),), output=output), on_event)
