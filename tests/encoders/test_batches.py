"""Batches under way in threads."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch

from tests.encoders.means import CPU, SPEC, Mean, flat, means
from wsiprep.encoders.torch_encoder import TorchEncoder


def test_the_caller_goes_on_while_a_batch_is_computed() -> None:
    go = threading.Event()
    encoder = TorchEncoder(Mean(lambda *_: go.wait(20)), SPEC, CPU, threads=2)
    first, second = encoder.begin(flat(1, 2, 3)), encoder.begin(flat(4))
    assert not go.is_set()  # both calls came back, and nothing is computed yet
    go.set()
    np.testing.assert_allclose(second.result(), means(4), rtol=1e-6)
    np.testing.assert_allclose(first.result(), means(1, 2, 3), rtol=1e-6)


def test_a_thread_that_has_nothing_left_to_do_begins_the_next_batch() -> None:
    met = threading.Barrier(2)  # one patch of each batch, computed at the same time
    encoder = TorchEncoder(Mean(lambda *_: met.wait(20)), SPEC, CPU, threads=2)
    batches = [encoder.begin(flat(1)), encoder.begin(flat(2))]
    for value, batch in enumerate(batches, 1):
        np.testing.assert_allclose(batch.result(), means(value), rtol=1e-6)


def test_a_batch_that_is_dropped_is_not_computed_to_its_end() -> None:
    seen: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def before(first: int, _: int) -> None:
        seen.append(first)
        begun.set()
        go.wait(20)

    encoder = TorchEncoder(Mean(before), SPEC, CPU, threads=1)
    dropped = encoder.begin(flat(*range(1, 50)))
    begun.wait(20)
    del dropped
    gc.collect()
    go.set()
    encoder(flat(99))
    assert seen == [1, 99]


def test_threads_of_others_are_left_as_they_were() -> None:
    """What torch tells every thread to come is put back when an encoder is gone."""
    before = torch.get_num_threads()
    seen: list[int] = []
    encoder = TorchEncoder(Mean(), SPEC, CPU, threads=2)
    encoder.begin(flat(1, 2)).result()
    del encoder
    gc.collect()
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [before]


def test_an_error_ends_its_own_batch_and_no_other() -> None:
    seen: list[int] = []

    def before(first: int, _: int) -> None:
        seen.append(first)
        if first == 2:
            raise ValueError("not this one")

    encoder = TorchEncoder(Mean(before), SPEC, CPU, threads=1)
    bad, good = encoder.begin(flat(1, 2, 3, 4)), encoder.begin(flat(5))
    for _ in range(2):
        with pytest.raises(ValueError, match="not this one"):
            bad.result()
    np.testing.assert_allclose(good.result(), means(5), rtol=1e-6)
    assert seen == [1, 2, 5]
