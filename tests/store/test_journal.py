"""The journal: what is logged is there, what is torn is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiprep.store.journal import Journal, missing_spans


def vectors(start: int, stop: int, dim: int = 4) -> np.ndarray:
    return np.arange(start * dim, stop * dim, dtype=np.float32).reshape(-1, dim).astype(np.float16)


def fill(journal: Journal, start: int, stop: int, bad: tuple[int, ...] = ()) -> None:
    ok = np.ones(stop - start, bool)
    ok[[b - start for b in bad]] = False
    journal.append(start, vectors(start, stop), ok)


def test_rows_come_back(tmp_path):
    journal = Journal(tmp_path / "j", "key", 10, 4, "float16")
    fill(journal, 4, 10, bad=(5,))
    assert not journal.complete
    fill(journal, 0, 4)
    assert journal.complete
    journal.close()
    again = Journal(tmp_path / "j", "key", 10, 4, "float16")
    assert again.complete
    assert again.ok.tolist() == [i != 5 for i in range(10)]
    np.testing.assert_array_equal(again.read(), vectors(0, 10))
    again.close()


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_last_line_is_not_there(tmp_path, cut):
    journal = Journal(tmp_path / "j", "key", 10, 4, "float16")
    fill(journal, 0, 5)
    fill(journal, 5, 10)
    journal.close()
    log = tmp_path / "j" / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-cut])
    again = Journal(tmp_path / "j", "key", 10, 4, "float16")
    assert again.done.tolist() == [i < 5 for i in range(10)]
    fill(again, 5, 10)
    again.close()
    third = Journal(tmp_path / "j", "key", 10, 4, "float16")
    assert third.complete
    third.close()


def test_rows_that_do_not_match_their_crc_are_not_there(tmp_path):
    journal = Journal(tmp_path / "j", "key", 10, 4, "float16")
    fill(journal, 0, 5)
    fill(journal, 5, 10)
    journal.close()
    data = tmp_path / "j" / "rows.bin"
    content = bytearray(data.read_bytes())
    content[6 * 8] ^= 1
    data.write_bytes(content)
    again = Journal(tmp_path / "j", "key", 10, 4, "float16")
    assert again.done.tolist() == [i < 5 for i in range(10)]
    again.close()


@pytest.mark.parametrize(
    "args", [("other", 10, 4, "float16"), ("key", 11, 4, "float16"), ("key", 10, 4, "float32")]
)
def test_another_key_starts_afresh(tmp_path, args):
    journal = Journal(tmp_path / "j", "key", 10, 4, "float16")
    fill(journal, 0, 10)
    journal.close()
    again = Journal(tmp_path / "j", *args)
    assert not again.done.any()
    again.close()


def test_rows_that_do_not_fit_are_refused(tmp_path):
    journal = Journal(tmp_path / "j", "key", 4, 4, "float16")
    with pytest.raises(ValueError, match="do not fit"):
        journal.append(0, np.zeros((2, 5), np.float16), np.ones(2, bool))
    with pytest.raises(ValueError, match="do not fit"):
        journal.append(3, np.zeros((2, 4), np.float16), np.ones(2, bool))
    journal.close()


def test_no_rows_is_complete(tmp_path):
    journal = Journal(tmp_path / "j", "key", 0, 4, "float16")
    assert journal.complete
    assert journal.read().shape == (0, 4)
    journal.close()


@settings(deadline=None)
@given(
    rows=st.integers(0, 200),
    batch=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    share=st.floats(0, 1),
)
def test_missing_spans_are_what_is_missing_cut_at_the_same_places(rows, batch, seed, share):
    done = np.random.default_rng(seed).random(rows) < share
    spans = missing_spans([done], batch)
    covered = np.zeros(rows, int)
    for start, stop in spans:
        assert start < stop
        assert start // batch == (stop - 1) // batch
        covered[start:stop] += 1
    np.testing.assert_array_equal(covered, ~done)


def test_spans_of_several_encoders_are_their_union():
    first, second = np.ones(6, bool), np.ones(6, bool)
    first[1] = second[4] = False
    assert missing_spans([first, second], 10) == [(1, 2), (4, 5)]
    assert missing_spans([], 10) == []
