"""Memory comes back when nobody holds it, and never before."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from wsiprep.core.recycled import Recycled


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again():
    memory = Recycled()
    first = memory.allocate((4, 8, 8, 3))
    assert (first.shape, first.dtype, first.flags.writeable) == ((4, 8, 8, 3), np.uint8, True)
    assert first.flags.c_contiguous
    where = address(first)
    assert where % 32 == 8  # see core.tile_memory
    del first
    assert address(memory.allocate((4, 8, 8, 3))) == where


@pytest.mark.parametrize(
    "hold",
    [
        lambda a: a,
        lambda a: a[1:3],
        lambda a: a[2, :, ::-1].T,
        lambda a: a.reshape(-1)[5:6],
        lambda a: memoryview(a),
        lambda a: np.asarray(a[:2]).view(np.int8),
    ],
)
def test_what_is_held_is_left_alone(hold):
    memory = Recycled()
    array = memory.allocate((4, 8, 8, 3))
    array[...] = 7
    held = hold(array)
    del array
    gc.collect()
    others = [memory.allocate((4, 8, 8, 3)) for _ in range(3)]
    for other in others:
        other[...] = 0
    assert (np.asarray(held) == 7).all()


def test_a_tensor_holds_it_too():
    torch = pytest.importorskip("torch")
    memory = Recycled()
    held = torch.from_numpy(memory.allocate((2, 16, 16, 3)))[1]
    held[...] = 9
    memory.allocate((2, 16, 16, 3))[...] = 0
    assert bool((held == 9).all())


def test_smaller_ones_fit_and_larger_ones_replace():
    memory = Recycled()
    where = address(memory.allocate((4, 10)))
    assert address(memory.allocate((3, 10))) == where
    large = memory.allocate((9, 10))
    large[...] = 1
    del large
    small = memory.allocate((2, 2))
    assert memory.allocate((9, 10)).size == 90
    assert small.size == 4
    assert memory.allocate((0, 5)).shape == (0, 5)


def test_no_more_is_kept_than_was_held_at_once():
    memory = Recycled()
    for _ in range(20):
        held = [memory.allocate((100,)) for _ in range(3)]
        del held
    assert len(memory._free) == 3
    memory.clear()
    assert not memory._free


def test_many_threads():
    memory, wrong = Recycled(), []

    def work(number):
        for _ in range(300):
            array = memory.allocate((64, 64))
            array[...] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
