"""What a dry run says, against the run."""

from __future__ import annotations

from tests.tasks.runs import BASE, run
from wsiprep.core.config import build
from wsiprep.tasks.config import PrepareConfig
from wsiprep.tasks.estimate import estimate


def test_a_dry_run_writes_nothing_and_counts_right(small_slide, tmp_path):
    values = {"slides": (str(small_slide), "gone.svs"), "output": tmp_path / "o", **BASE}
    result = estimate(build(PrepareConfig, ("test", values)))
    assert not (tmp_path / "o").exists()
    assert result.slides[1].error
    (row,) = run(PrepareConfig, small_slide, tmp_path / "o").rows
    assert result.slides[0].patches == row.patches
    assert result.slides[0].bytes == row.patches * 3 * 2
    assert result.slides[0].seconds > 0
