"""Slides shown to a segmenter together have the tissue that each would have alone."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.tissue import pictures as p
from wsiprep.core.errors import DeviceError
from wsiprep.store.read import FeatureStore
from wsiprep.tasks.config import SegmentConfig
from wsiprep.tasks.prepare import prepare
from wsiprep.tissue.segmenters import otsu

create = otsu.create


class Together:
    """The classical segmenter, three slides at a time; remembers how many it was shown."""

    batch = 3

    def __init__(self, cfg: otsu.Config, shown: list[int], broken_after: int = 1000) -> None:
        self.alone, self.shown, self.broken_after = create(cfg), shown, broken_after

    def segment(self, thumbnail, mpp):
        self.shown.append(1)
        return self.alone.segment(thumbnail, mpp)

    def segment_many(self, thumbnails, mpps):
        if len(self.shown) >= self.broken_after:
            raise DeviceError("out of memory.")
        self.shown.append(len(thumbnails))
        return [self.alone.segment(t, m) for t, m in zip(thumbnails, mpps, strict=True)]


@pytest.fixture
def shown(monkeypatch) -> list[int]:
    groups: list[int] = []
    monkeypatch.setattr(otsu, "create", lambda cfg: Together(cfg, groups))
    return groups


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("slides")
    paths = []
    for n in range(7):
        h, w = 200 + 20 * n, 300
        image = p.glass(h, w)
        p.stain(image, p.ellipse((h, w)))
        path = folder / f"s{n}.png"
        cv2.imwrite(str(path), p.finish(image)[..., ::-1])
        paths.append(str(path))
    return paths


def segment(slides: list[str], out: Path, **more):
    return prepare(
        SegmentConfig.of(
            slides=tuple(slides), output=out, slide_mpp=8.0, segmenter="otsu", overlay=False, **more
        )
    )  # fmt: skip


def masks(report) -> list[np.ndarray]:
    return [FeatureStore(row.store).tissue().mask for row in report.rows]


def test_they_are_shown_in_threes_and_found_as_alone(slides, tmp_path, shown, monkeypatch):
    together = segment(slides, tmp_path / "a")
    assert shown == [3, 3, 1]
    assert [row.status for row in together.rows] == ["ok"] * 7
    monkeypatch.setattr(otsu, "create", create)
    for one, other in zip(masks(together), masks(segment(slides, tmp_path / "b")), strict=True):
        np.testing.assert_array_equal(one, other)


def test_slides_that_cannot_be_read_fail_in_their_turn(slides, tmp_path, shown):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    report = segment([slides[0], str(bad), *slides[1:4]], tmp_path / "o")
    assert [row.status for row in report.rows] == ["ok", "failed", "ok", "ok", "ok"]
    assert shown == [2, 2], "one of the first three cannot be read"


def test_slides_that_have_their_tissue_are_not_shown_again(slides, tmp_path, shown):
    segment(slides[1:2], tmp_path / "o")
    shown.clear()
    report = segment(slides[:4], tmp_path / "o")
    assert [row.status for row in report.rows] == ["ok", "skipped", "ok", "ok"]
    assert sum(shown) == 3
    shown.clear()
    segment(slides[:4], tmp_path / "o", overwrite=True)
    assert shown == [3, 1]


def test_slides_with_settings_of_their_own_are_shown_apart(slides, tmp_path, shown):
    rows = [f"{slide},{16 if n % 2 else 8}" for n, slide in enumerate(slides[:4])]
    manifest = tmp_path / "slides.csv"
    manifest.write_text("\n".join(["path,tissue_mpp", *rows]))
    report = prepare(
        SegmentConfig.of(
            manifest=manifest, output=tmp_path / "o", slide_mpp=8.0, segmenter="otsu", overlay=False
        )
    )  # fmt: skip
    found = [FeatureStore(row.store).tissue() for row in report.rows]
    assert [round(mask.mpp) for mask in found] == [8, 16, 8, 16]
    assert all(mask.mask.any() for mask in found)


def test_one_slide_with_two_settings_is_seen_with_each(slides, tmp_path, shown):
    """Its row of 16 µm/px must not take what the slide before saw ahead of it at 8 µm/px."""
    rows = [(slides[0], "a", 8), (slides[1], "b", 16), (slides[1], "c", 8), (slides[1], "d", 8)]
    manifest = tmp_path / "slides.csv"
    lines = [f"{path},{name},{mpp}" for path, name, mpp in rows]
    manifest.write_text("\n".join(["path,slide_id,tissue_mpp", *lines]))
    report = prepare(
        SegmentConfig.of(
            manifest=manifest, output=tmp_path / "o", slide_mpp=8.0, segmenter="otsu", overlay=False
        )
    )  # fmt: skip
    assert [row.status for row in report.rows] == ["ok"] * 4
    found = [FeatureStore(row.store).tissue() for row in report.rows]
    assert [round(mask.mpp) for mask in found] == [8, 16, 8, 8]


def test_a_bug_met_ahead_costs_only_its_own_slide(slides, tmp_path, shown, monkeypatch):
    from wsiprep.slide.readers import image

    thumbnail = image.ImageSlide.thumbnail

    def broken(self, mpp, bad=None):
        if self.info.uri.endswith("s1.png"):
            raise ZeroDivisionError("a bug")
        return thumbnail(self, mpp, bad)

    monkeypatch.setattr(image.ImageSlide, "thumbnail", broken)
    report = segment(slides[:3], tmp_path / "o")
    assert [row.status for row in report.rows] == ["ok", "failed", "ok"]
    assert report.rows[1].error == "ZeroDivisionError"


def test_a_problem_of_the_device_ends_the_run_and_keeps_what_is_done(slides, tmp_path, monkeypatch):
    groups: list[int] = []
    monkeypatch.setattr(otsu, "create", lambda cfg: Together(cfg, groups, broken_after=1))
    report = segment(slides, tmp_path / "o")
    assert [row.status for row in report.rows] == ["ok", "ok", "ok", "failed"]
    assert isinstance(report.problem, DeviceError)


def test_a_segmenter_of_one_slide_is_shown_one(slides, tmp_path, monkeypatch):
    asked = deque[int]()

    class Alone:
        def segment(self, thumbnail, mpp):
            asked.append(1)
            return create(otsu.Config()).segment(thumbnail, mpp)

    monkeypatch.setattr(otsu, "create", lambda cfg: Alone())
    segment(slides[:2], tmp_path / "o")
    assert len(asked) == 2
