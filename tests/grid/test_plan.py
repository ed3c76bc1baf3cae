"""The reading plan: native, whole-number, fractional, refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import make_info
from wsiprep.core.errors import UpsamplingError
from wsiprep.grid.plan import make_plan


@pytest.mark.parametrize(
    ("slide_mpp", "downsamples", "asked", "level", "read_px", "rule"),
    [
        (0.499, (1.0,), 0.5, 0, 256, "native"),
        (0.2528, (1.0, 4.0, 16.0), 0.5, 0, 512, "whole"),
        (0.2528, (1.0, 2.0, 4.0), 0.5, 1, 256, "native"),
        (0.25, (1.0, 4.0, 16.0), 1.0, 1, 256, "native"),
        (0.25, (1.0, 4.0, 16.0), 2.0, 1, 512, "whole"),
        (0.25, (1.0, 4.00013, 16.0021), 1.0, 1, 256, "native"),
        (0.33, (1.0,), 0.5, 0, 388, "fractional"),
        (0.2528, (1.0, 4.0), 1.6, 1, 405, "fractional"),
    ],
)
def test_what_is_read(slide_mpp, downsamples, asked, level, read_px, rule):
    plan = make_plan(make_info(mpp=slide_mpp, downsamples=downsamples), asked, 256, tolerance=0.05)
    assert (plan.level, plan.read_px, plan.rule) == (level, read_px, rule)
    assert plan.mpp == pytest.approx(slide_mpp * downsamples[level] * read_px / 256)
    assert plan.side0_px == pytest.approx(read_px * downsamples[level])


def test_what_was_achieved_is_what_is_said():
    plan = make_plan(make_info(mpp=0.2528, downsamples=(1.0,)), 0.5, 256, tolerance=0.05)
    assert plan.mpp == pytest.approx(0.5056)
    assert "0.5056 µm/px (asked 0.5)" in plan.describe()
    assert "read 512 px area-averaged 2:1" in plan.describe()


def test_tolerance_zero_resamples():
    plan = make_plan(make_info(mpp=0.499, downsamples=(1.0,)), 0.5, 256, tolerance=0.0)
    assert plan.rule == "fractional"
    assert plan.read_px == 257


def test_upsampling_is_refused_with_the_way_out():
    info = make_info(mpp=0.5, downsamples=(1.0,))
    with pytest.raises(UpsamplingError, match=r"0\.25 µm/px was asked") as caught:
        make_plan(info, 0.25, 256, tolerance=0.05)
    assert "--mpp 0.5" in str(caught.value)
    assert "--allow-upsampling" in str(caught.value)
    plan = make_plan(info, 0.25, 256, tolerance=0.05, allow_upsampling=True)
    assert (plan.level, plan.read_px, plan.resize) == (0, 128, 0.5)


@settings(deadline=None, max_examples=300)
@given(
    slide_mpp=st.floats(0.1, 2.0),
    steps=st.lists(st.floats(1.5, 8.0), max_size=6),
    asked=st.floats(0.1, 20.0),
    patch=st.sampled_from([64, 224, 256, 512]),
    tolerance=st.sampled_from([0.0, 0.02, 0.05]),
)
def test_plans_keep_their_word(slide_mpp, steps, asked, patch, tolerance):
    downsamples = [1.0]
    for step in steps:
        downsamples.append(downsamples[-1] * step)
    info = make_info(mpp=slide_mpp, downsamples=tuple(downsamples))
    try:
        plan = make_plan(info, asked, patch, tolerance=tolerance)
    except UpsamplingError:
        assert asked < slide_mpp * (1 + 1e-9)
        assert abs(slide_mpp / asked - 1) > tolerance - 1e-9
        return
    level_mpp = slide_mpp * downsamples[plan.level]
    assert plan.mpp == pytest.approx(level_mpp * plan.read_px / patch)
    assert plan.side0_px == pytest.approx(patch * plan.mpp / slide_mpp)
    if plan.rule == "fractional":
        # Half a read pixel is all that rounding may cost.
        assert abs(plan.mpp - asked) <= level_mpp * 0.5 / patch * (1 + 1e-6)
        assert level_mpp <= asked
    else:
        assert plan.read_px % patch == 0
        assert abs(plan.mpp / asked - 1) <= tolerance + 1e-8
    assert plan.resize == pytest.approx(plan.read_px / patch)
