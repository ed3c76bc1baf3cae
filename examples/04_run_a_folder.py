# /// script
# requires-python = ">=3.11"
# dependencies = ["wsiprep"]
# ///
"""Run a folder of slides from Python; one slide is broken, and the second run resumes.

python 04_run_a_folder.py [FOLDER|SLIDE] [OUT]
"""

import sys
import tempfile
from pathlib import Path

from wsiprep.core.config import build
from wsiprep.core.report import Event
from wsiprep.core.types import Size
from wsiprep.synth import SyntheticSlide, write_slide
from wsiprep.tasks.config import PrepareConfig
from wsiprep.tasks.prepare import prepare


def show(event: Event) -> None:
    """Events are what the progress bars of `wsiprep run` are made of."""
    if event.kind == "plan":
        print(f"  {event.slide}: {event.text}")


def main(slides: Path, out: Path) -> None:
    # Names are those of the flags. Of several layers, e.g. ("lab.yaml", {...}), the last wins.
    settings = {"slides": (str(slides),), "output": out, "mpp": 0.5, "encoder": ("lite0",)}
    cfg = build(PrepareConfig, ("this script", settings))
    for attempt in ("first run", "again"):
        print(attempt)
        report = prepare(cfg, show)
        for row in report.rows:
            print(
                f"  {row.slide:12} {row.status:8} {row.encoded:3} of {row.patches} patches encoded"
            )
            if row.status in ("failed", "skipped"):
                print(f"    {row.reason} {row.remedy}".rstrip())
        print(f"  exit code {report.exit_code}, {report.seconds:.1f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        if len(sys.argv) > 1:
            slides = Path(sys.argv[1])
        else:
            slides = Path(scratch) / "slides"
            slides.mkdir()
            for seed in (1, 2):
                slide = SyntheticSlide(seed=seed, size=Size(2048, 1536))
                write_slide(slides / f"case_{seed}.svs", slide)
            (slides / "case_3.svs").touch()
        main(slides, Path(sys.argv[2]) if len(sys.argv) > 2 else Path(scratch) / "out")
