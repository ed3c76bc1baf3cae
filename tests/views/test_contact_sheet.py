from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.views import SheetCell, draw_sheet, fit_picture
from wsiprep.views.contact_sheet import GAP_PX, LINE_PX, MAX_SIDE_PX, PLATE_RGB

RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)


def plain(rgb, h=100, w=100):
    return np.full((h, w, 3), rgb, np.uint8)


def like(sheet, rgb):
    return (sheet == np.array(rgb, np.uint8)).all(axis=2)


def box(where):
    rows, cols = np.nonzero(where)
    return rows.min(), cols.min(), rows.max() + 1 - rows.min(), cols.max() + 1 - cols.min()


def test_pictures_stand_in_reading_order():
    cells = [
        SheetCell(plain(RED), ("first", "second line")),
        SheetCell(plain(GREEN, 50, 100)),
        SheetCell(plain(BLUE, 400, 200), ("third",)),
    ]
    sheet = draw_sheet(cells, columns=2, cell_px=100)
    assert sheet.dtype == np.uint8
    top, left, high, wide = box(like(sheet, RED))
    assert (left, high, wide) == (GAP_PX, 100, 100)
    y, x, h, w = box(like(sheet, GREEN))
    assert (y, x, h, w) == (top + 25, left + 100 + GAP_PX, 50, 100), "beside it, in the middle"
    y, x, h, w = box(like(sheet, BLUE))
    assert (y, h, w) == (top + 100 + 2 * LINE_PX + GAP_PX, 100, 50), "below its caption"
    assert x == left + 25
    caption = sheet[top + 100 : top + 100 + 2 * LINE_PX]
    dark = (caption < 120).all(axis=2)
    assert dark[:LINE_PX, : left + 100].any()
    assert dark[LINE_PX:, : left + 100].any()
    assert not dark[:, left + 100 + GAP_PX :].any()
    assert like(sheet, PLATE_RGB).any()


def test_title_and_legend():
    legend = [("tissue lost", BLUE), ("glass kept", RED)]
    bare = draw_sheet([SheetCell(plain(GREEN))], columns=1, cell_px=400)
    sheet = draw_sheet(
        [SheetCell(plain(GREEN))], columns=1, cell_px=400, title="µm²", legend=legend
    )
    assert sheet.shape[0] == bare.shape[0] + 2 * LINE_PX
    blue, red = box(like(sheet, BLUE)), box(like(sheet, RED))
    assert blue[0] == red[0]
    assert blue[1] < red[1]
    narrow = draw_sheet([SheetCell(plain(GREEN))], columns=1, cell_px=50, legend=legend * 4)
    assert narrow.shape[0] > sheet.shape[0] - 400, "a long legend takes several rows"


def test_no_picture_says_so():
    sheet = draw_sheet([], columns=3)
    assert (sheet < 120).any()


def test_captions_are_cut_at_their_cell():
    cells = [SheetCell(plain(RED), ("w" * 300,)), SheetCell(plain(RED))]
    sheet = draw_sheet(cells, columns=2, cell_px=100)
    below = sheet[box(like(sheet, RED))[0] + 100 :]
    assert (below[:, : GAP_PX + 100] < 120).any()
    assert not (below[:, GAP_PX + 101 :] < 120).any()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), max_size=30),
    st.integers(1, 12),
    st.integers(48, 500),
)
def test_a_sheet_is_bounded(shapes, columns, cell_px):
    cells = [SheetCell(plain(RED, h, w), (f"{h} x {w}",)) for h, w in shapes]
    sheet = draw_sheet(cells, columns=columns, cell_px=cell_px, title="t")
    assert sheet.dtype == np.uint8
    assert max(sheet.shape[:2]) <= MAX_SIDE_PX


def test_cells_shrink_before_a_sheet_is_refused():
    cells = [SheetCell(plain(RED, 8, 8))] * 90
    sheet = draw_sheet(cells, columns=1, cell_px=420)
    assert 6000 < sheet.shape[0] <= MAX_SIDE_PX
    with pytest.raises(ValueError, match="too many"):
        draw_sheet(cells * 3, columns=1)


def test_what_is_no_picture_is_refused():
    for bad in (np.zeros((3, 3), np.uint8), np.zeros((3, 3, 3)), np.zeros((0, 3, 3), np.uint8)):
        with pytest.raises(ValueError, match="picture"):
            draw_sheet([SheetCell(bad)], columns=1)
    with pytest.raises(ValueError, match="column"):
        draw_sheet([], columns=0)


def test_fitted_pictures_are_copies():
    picture = plain(RED, 40, 80)
    same = fit_picture(picture, 80)
    assert same.shape == picture.shape
    assert not np.shares_memory(same, picture)
    assert fit_picture(picture, 20).shape == (10, 20, 3)
    assert fit_picture(plain(RED, 1, 900), 30).shape == (1, 30, 3)
