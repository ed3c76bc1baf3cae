"""The main job on real slides, where they are there."""

from __future__ import annotations

import numpy as np
import pytest

from wsiprep.core.config import build
from wsiprep.store.read import FeatureStore
from wsiprep.store.verify import verify_output
from wsiprep.tasks.config import PrepareConfig
from wsiprep.tasks.prepare import prepare


@pytest.fixture(scope="module")
def report(shared_data, tmp_path_factory):
    slides = shared_data / "slides"
    out = tmp_path_factory.mktemp("real")
    names = ("cmu-1-small-region.svs", "dicom_cmu1", "hamamatsu_test3-DAPI.ndpi")
    cfg = build(
        PrepareConfig,
        ("", {"slides": tuple(str(slides / n) for n in names), "output": out, "patch_size": 256}),
    )
    report = prepare(cfg)
    assert verify_output(out).findings == ()
    return report


def test_the_svs_becomes_a_feature_grid(report):
    row = report.rows[0]
    assert row.status == "ok"
    assert "level 0, read 256 px as it is to 256 px: 0.499 µm/px" in row.plan
    features = FeatureStore(row.store).features("lite0")
    assert features.shape == (12, 9, 1280)
    # Some 0.7 mm² of a section that runs down the middle: its cells, and no glass corner.
    assert 35 <= len(features) <= 60
    assert features.valid[5, 4]
    assert not features.valid[0, 0]
    assert not features.valid[8, 8]


def test_its_dicom_twin_agrees(report):
    """The twin was recompressed from the SVS, and its pyramid was not averaged but subsampled.

    Level 0 differs by JPEG noise (mean up to some 8 grey levels in dense tissue), the tissue
    thumbnail by grain: cells at the border of the tissue may differ. Patches that are not twins
    have a cosine of 0.54 in the median, so 0.85 still tells them apart with ease.
    """
    svs, dicom = (FeatureStore(row.store).features("lite0") for row in report.rows[:2])
    assert dicom.shape == svs.shape
    both = svs.valid & dicom.valid
    either = svs.valid | dicom.valid
    assert both.sum() >= 0.85 * either.sum()
    first, second = (
        f.window(0, 0, *f.shape[:2]).vectors[both].astype(np.float64) for f in (svs, dicom)
    )
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = (first * second).sum(axis=1) / lengths
    assert cosine.min() > 0.85
    assert np.median(cosine) > 0.93
    assert any("YCbCr" in note for note in report.rows[1].notes)


def test_fluorescence_is_no_tissue_and_says_why(report):
    row = report.rows[2]
    assert row.status == "empty"
    assert any("fluorescence" in note for note in row.notes)
    assert len(FeatureStore(row.store).grid()) == 0


def test_slides_that_cannot_be_used_say_so(shared_data, tmp_path):
    slides = shared_data / "slides"
    expected = {
        "osp_unopenable.tiff": "SlideOpenError",
        "osp_unreadable.svs": "SlideReadError",
        "highdicom_sm_control.dcm": "SlideOpenError",
        "li_grey10kx5k.tif": "ImplausibleMppError",
        "hs2p_test-mask.tif": "UpsamplingError",
    }
    cfg = build(
        PrepareConfig,
        ("", {"slides": tuple(str(slides / n) for n in expected), "output": tmp_path,
              "encoder": ("test",)}),
    )  # fmt: skip
    report = prepare(cfg)
    assert report.exit_code == 1
    assert [row.error for row in report.rows] == list(expected.values())
    assert all(row.reason and row.remedy for row in report.rows)
