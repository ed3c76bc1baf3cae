"""Reading, encoding and writing side by side: in order, bounded, and no error lost."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from tests.fakes import ArraySlide, make_info
from wsiprep.core.contracts import AsyncEncoder
from wsiprep.core.errors import EncodingError, Interrupted, OutputError, SlideReadError
from wsiprep.core.profile import EncodeTimes
from wsiprep.core.types import Box, EncoderSpec, TissueMask
from wsiprep.encoders.config import EncoderConfig
from wsiprep.grid.build import make_grid
from wsiprep.grid.config import GridConfig
from wsiprep.store.journal import Journal, missing_spans
from wsiprep.tasks import fill as module
from wsiprep.tasks.fill import Work, fill
from wsiprep.tasks.interrupt import StopRequests

SPEC = EncoderSpec("mean", 3, None, (0, 0, 0), (1, 1, 1), weights="none")


class Plain:
    """Computes when it is called."""

    spec = SPEC

    def __init__(self):
        self.calls = 0

    def __call__(self, pixels):
        self.calls += 1
        return pixels.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)


class Asynchronous(Plain):
    """Computes when asked for the result; counts how many batches are begun and not finished."""

    def __init__(self):
        super().__init__()
        self.open = self.most = 0
        self.allocated = []

    def begin(self, pixels):
        assert any(np.shares_memory(pixels, given) for given in self.allocated)
        self.open += 1
        self.most = max(self.most, self.open)

        def result():
            self.open -= 1
            return self(pixels)

        return SimpleNamespace(result=result)

    def allocate(self, shape):
        self.allocated.append(np.empty(shape, np.uint8))
        return self.allocated[-1]


@pytest.fixture
def case(tmp_path):
    rng = np.random.default_rng(0)
    info = make_info(size0=(640, 512))
    pixels = rng.integers(0, 256, (512, 640, 3), np.uint8)
    mask = np.ones((8, 10), bool)
    tissue = TissueMask(mask, np.zeros_like(mask), 32.0, info.size0, "test")
    grid = make_grid(info, tissue, GridConfig(patch_size=64, min_tissue=0, mpp=0.5))
    journal = Journal(tmp_path / "journal", "key", len(grid), 3, "float32")
    events = []
    ctx = SimpleNamespace(
        workers=2, stop=StopRequests(), on_event=events.append, decoders={}, on_bad_tile="fail"
    )
    yield SimpleNamespace(
        slide=ArraySlide(pixels, info), grid=grid, journal=journal, ctx=ctx, events=events
    )
    journal.close()


def run(case, encoder, batch=8):
    spans = missing_spans([case.journal.done], batch)
    work = Work(encoder, "key", case.journal)
    times = EncodeTimes()
    fill(case.slide, case.grid, spans, [work], EncoderConfig(), case.ctx, times)
    return times


def wanted(case):
    patches = [
        case.slide.pixels[y : y + 64, x : x + 64].mean(axis=(0, 1), dtype=np.float64)
        for x, y in case.grid.origin0_px
    ]
    return np.array(patches, np.float32)


@pytest.mark.parametrize("kind", [Plain, Asynchronous])
def test_every_vector_is_in_its_row(case, kind):
    times = run(case, kind())
    np.testing.assert_array_equal(case.journal.read(), wanted(case))
    assert case.journal.complete
    assert times.tiles == sum(e.done for e in case.events) == len(case.grid)
    assert times.seconds >= times.wait_s
    assert not [t for t in threading.enumerate() if t.name.startswith("wsiprep-")]


def test_two_batches_are_begun_at_a_time(case):
    encoder = Asynchronous()
    assert isinstance(encoder, AsyncEncoder)
    run(case, encoder)
    assert encoder.most == module.BEGUN == 2
    assert encoder.calls == len(encoder.allocated) == 10


def test_a_fault_of_the_writer_ends_the_run_with_its_error(case, monkeypatch):
    honest, appended = Journal.append, []

    def append(self, start, vectors, ok):
        if start >= 24:
            raise OutputError("no space left")
        appended.append(start)
        honest(self, start, vectors, ok)

    monkeypatch.setattr(Journal, "append", append)
    with pytest.raises(OutputError, match="no space left"):
        run(case, Plain())
    assert appended == [0, 8, 16]
    assert case.journal.done.sum() == 24
    assert not [t for t in threading.enumerate() if t.name.startswith("wsiprep-")]


def test_a_fault_of_the_writer_at_the_very_end_is_not_lost(case, monkeypatch):
    honest = Journal.append

    def append(self, start, vectors, ok):
        if start == 72:
            raise OutputError("no space left")
        honest(self, start, vectors, ok)

    monkeypatch.setattr(Journal, "append", append)
    with pytest.raises(OutputError, match="no space left"):
        run(case, Plain())


def test_a_slow_writer_holds_up_the_encoder_and_nothing_piles_up(case, monkeypatch):
    honest, encoder, ahead = Journal.append, Plain(), []

    def append(self, start, vectors, ok):
        time.sleep(0.03)
        ahead.append(encoder.calls - start // 4)
        honest(self, start, vectors, ok)

    monkeypatch.setattr(Journal, "append", append)
    times = run(case, encoder, batch=4)
    assert max(ahead) <= module.UNWRITTEN + module.BEGUN + 1
    assert times.blocked_s > times.encode_s
    assert times.write_s >= 0.03 * 20


def test_a_stop_lets_what_was_begun_be_written(case):
    class Stopping(Asynchronous):
        def begin(self, pixels):
            if self.calls == 3:
                case.ctx.stop.ask(2, None)
            return super().begin(pixels)

    encoder = Stopping()
    with pytest.raises(Interrupted):
        run(case, encoder)
    assert encoder.open == 0
    assert case.journal.done.sum() == encoder.calls * 8 < len(case.grid)
    case.ctx.stop = StopRequests()
    run(case, Plain())
    np.testing.assert_array_equal(case.journal.read(), wanted(case))


def test_a_broken_tile_and_a_broken_encoder_end_it_too(case):
    class Wrong(Plain):
        def __call__(self, pixels):
            return super().__call__(pixels)[:, :2]

    with pytest.raises(EncodingError, match=r"\(8, 2\), expected \(8, 3\)"):
        run(case, Wrong())
    case.slide.broken = (Box(600, 500, 2, 2),)
    with pytest.raises(SlideReadError):
        run(case, Plain())
    assert 0 < case.journal.done.sum() < len(case.grid)
    assert not [t for t in threading.enumerate() if t.name.startswith("wsiprep-")]
