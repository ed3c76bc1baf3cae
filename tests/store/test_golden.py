"""The metadata of a small store, as it was when format 2 was fixed.

A difference here is a change of the format: raise `FORMAT`, or put it back.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.fakes import make_info
from tests.store.made import grid_of, tissue_of
from wsiprep.core.types import EncoderSpec
from wsiprep.store.claim import claim_store

GOLDEN = Path(__file__).parent / "golden_store.json"


def test_metadata_is_that_of_format_2(tmp_path):
    info = make_info(size0=(5120, 4864), downsamples=(1.0, 4.0))
    grid = grid_of(np.array([[0, 0], [3, 17], [18, 2]]), (19, 20))
    spec = EncoderSpec("golden:net", 4, 224, (0.5,) * 3, (0.25,) * 3, weights_sha256="ab")
    with claim_store(tmp_path, info) as store:
        store.put_tissue(tissue_of(info), "tissue-key", {"segmenter": "golden"})
        store.put_grid("g", grid, "grid-key", "tissue-key", {"mpp": 0.5})
        journal = store.journal("g", spec.name, "features-key", len(grid), 4, "float16")
        journal.append(0, np.ones((3, 4), np.float16), np.array([True, False, True]))
        store.put_features(
            "g", grid, spec, journal, "features-key", "grid-key", {"store_dtype": "float16"}, "fake"
        )
    root = tmp_path / "slide.zarr"
    found = {
        path.relative_to(root).as_posix(): json.loads(path.read_text())
        for path in sorted(root.rglob("zarr.json"))
    }
    for values in found.values():
        ours = values["attributes"].get("wsiprep", {})
        if "versions" in ours:
            ours["versions"] = sorted(ours["versions"])
        for unit in ours.get("units", {}).values():
            unit["files"] = sorted(unit["files"])  # lengths and hashes follow from the libraries
        values.pop("storage_transformers", None)  # written by some versions of Zarr, always empty
    assert found == json.loads(GOLDEN.read_text())
