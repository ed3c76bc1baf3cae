"""PatchGastricADC22."""

from __future__ import annotations

import pytest

from tests.tasks.convert.made import converted, write_csv
from wsiprep.core.errors import ManifestError
from wsiprep.train.language.manifest import Sample


def test_captions_get_splits_by_slide(tmp_path):
    rows = [["id", "subtype", "text"], *[[f"{n:032x}", "Papillary", f"Tumour  {n}.\n"]
                                         for n in range(200)]]  # fmt: skip
    path = write_csv(tmp_path / "captions.csv", rows)
    done = converted("patchgastric", tmp_path / "m.jsonl", path, val_share=0.2, test_share=0.3)
    first = done.samples[0]
    assert first == Sample(
        "0" * 32,
        ("0" * 32,),
        caption="Tumour 0.",
        label="Papillary",
        task="caption",
        split=first.split,
    )
    counts = {name: n["slides"] for name, n in done.report["splits"].items()}
    assert sum(counts.values()) == 200
    assert 20 < counts["val"] < 60
    assert 40 < counts["test"] < 80
    rows[5][2] = " "
    write_csv(path, rows)
    with pytest.raises(ManifestError, match=r"captions\.csv, line 10: 'text' must be text"):
        converted("patchgastric", tmp_path / "m.jsonl", path)
