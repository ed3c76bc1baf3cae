"""Convolutions in whole numbers: what they compute, by whatever computes them."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from wsiprep.synth.thumbnails.draw import draw_scene
from wsiprep.synth.thumbnails.scene import sample_scene
from wsiprep.synth.thumbnails.stains import STAINS
from wsiprep.tissue import integers
from wsiprep.tissue.integers import Conv8, added, doubled, has_kernel, rounded
from wsiprep.tissue.network import (
    CLASSES,
    MULTIPLE,
    TissueNet,
    load_network,
    network_bytes,
    read_network,
)
from wsiprep.tissue.segmenters import net

pytestmark = pytest.mark.usefixtures("one_thread")

needs_kernel = pytest.mark.skipif(not has_kernel(), reason="torch has no convolution of uint8 here")


def drawn(seed, shape, *, last=True):
    x = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))
    return x.contiguous(memory_format=torch.channels_last) if last else x


def convolution(seed, inputs, outputs, kernel=3, stride=1, *, bias=True):
    torch.manual_seed(seed)
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


def counted(conv, x, unit, unit_out, zero):
    """The definition, in 64-bit integers up to the last scaling."""
    weight = conv.weight.detach().numpy()
    worth = np.abs(weight).max(axis=(1, 2, 3)) / np.float32(63)
    steps = np.rint(weight / worth[:, None, None, None]).astype(np.int64)
    k, s = conv.kernel_size[0], conv.stride[0]
    around = ((0, 0), (0, 0), (k // 2,) * 2, (k // 2,) * 2)
    values = np.pad(x.numpy().astype(np.int64) - zero, around)
    seen = np.lib.stride_tricks.sliding_window_view(values, (k, k), axis=(2, 3))[:, :, ::s, ::s]
    sums = np.einsum("bchwij,ocij->bohw", seen, steps)
    bias = 0 if conv.bias is None else conv.bias.detach().numpy().astype(np.float64)
    made = sums * (worth.astype(np.float64) * unit)[:, None, None] + np.reshape(bias, (-1, 1, 1))
    return made if unit_out is None else np.clip(np.rint(made / unit_out), 0, 255)


# -- convolutions -----------------------------------------------------------------------------


KINDS = {
    "seed": st.integers(0, 10**6),
    "inputs": st.sampled_from([1, 3, 4, 16, 33, 64]),
    "outputs": st.sampled_from([1, 4, 16, 31, 48]),
    "kernel": st.sampled_from([1, 3]),
    "stride": st.sampled_from([1, 2]),
    "size": st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 40)),
    "zero": st.sampled_from([0, 0, 7, 225]),
    "bias": st.booleans(),
    "floats": st.booleans(),
    "last": st.booleans(),
}


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=needs_kernel)])
@settings(max_examples=60, deadline=None)
@given(**KINDS)
def test_a_convolution_is_its_definition(
    native, seed, inputs, outputs, kernel, stride, size, zero, bias, floats, last
):
    conv = convolution(seed, inputs, outputs, kernel, stride, bias=bias)
    x = drawn(seed, (size[0], inputs, *size[1:]), last=last)
    unit_out = None if floats else 0.011
    made = Conv8(conv, 0.02, unit_out, zero=zero, native=native)(x)
    wanted = counted(conv, x, 0.02, unit_out, zero)
    assert made.shape == wanted.shape
    if floats:
        assert made.dtype == torch.float32
        np.testing.assert_allclose(made.numpy(), wanted, rtol=1e-4, atol=1e-4)
        return
    assert made.dtype == torch.uint8
    off = np.abs(made.numpy() - wanted)
    assert off.max() <= 1  # where it lies half way between two steps
    assert (off > 0).sum() <= 1 + 1e-3 * off.size


@needs_kernel
@settings(max_examples=60, deadline=None)
@given(unit=st.sampled_from([1.0, 2.0**-4]), **KINDS)
def test_with_units_that_are_powers_of_two_it_is_the_same_to_the_bit(
    unit, seed, inputs, outputs, kernel, stride, size, zero, bias, floats, last
):
    conv = convolution(seed, inputs, outputs, kernel, stride, bias=bias)
    x = drawn(seed, (size[0], inputs, *size[1:]), last=last)
    unit_out = None if floats else unit / 4
    native, plain = (
        Conv8(conv, unit, unit_out, zero=zero, native=native)(x) for native in (True, False)
    )
    assert native.dtype == plain.dtype
    assert torch.equal(native, plain)


@needs_kernel
def test_the_largest_sums_do_not_wrap():
    """As they would where two products were added in 16 bits, with weights of 8."""
    conv = nn.Conv2d(64, 8, 3, padding=1, bias=False)
    nn.init.constant_(conv.weight, 1.0)
    x = torch.full((1, 64, 6, 20), 255, dtype=torch.uint8)
    eight = Conv8(conv, 1 / 255, None)
    made = eight._in_integers(x, eight._packed)
    assert made[0, 0, 3, 3] == pytest.approx(64 * 9, rel=1e-5)
    assert torch.equal(made, eight(x))


def test_there_is_a_kernel_where_torch_is_known_to_have_one():
    if platform.machine() != "x86_64" or not torch.backends.mkldnn.is_available():
        pytest.skip("not known of this processor")
    assert has_kernel()


def test_looking_for_the_kernel_draws_nothing_by_lot():
    before = torch.random.get_rng_state()
    has_kernel.__wrapped__()
    assert torch.equal(torch.random.get_rng_state(), before)


def raising(*_):
    raise RuntimeError("no such operator")


@pytest.mark.parametrize(
    "other",
    [
        raising,
        lambda self, x, packed: self._in_floats(x) // 2,
        lambda self, x, packed: self._in_floats(x) + (x.shape[1] == 192),  # of one kind alone
        lambda self, x, packed: x,
    ],
)
def test_a_kernel_that_is_missing_or_wrong_is_not_used(monkeypatch, other):
    monkeypatch.setattr(Conv8, "_in_integers", other)
    if other is not raising:
        monkeypatch.setattr(Conv8, "_pack", lambda self: None)
    assert not has_kernel.__wrapped__()


# -- what is learnt with ----------------------------------------------------------------------


def test_rounded_weights_are_the_steps_and_learn_as_weights_do():
    weight = convolution(3, 5, 7).weight
    made = rounded(weight)
    (made * torch.arange(made.numel()).view_as(made)).sum().backward()
    torch.testing.assert_close(weight.grad.flatten(), torch.arange(float(made.numel())))
    worth = weight.detach().abs().amax((1, 2, 3), keepdim=True) / 63
    steps = (made / worth).detach()
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert (made - weight).abs().max() <= worth.max() / 2 + 1e-6
    torch.testing.assert_close(rounded(made.detach()), made.detach())


@pytest.mark.parametrize("native", [False, True])
def test_weights_that_are_all_nothing_stay_nothing(native):
    conv = nn.Conv2d(3, 2, 3, padding=1, bias=False)
    nn.init.zeros_(conv.weight)
    assert not rounded(conv.weight).any()
    assert not Conv8(conv, 1.0, 1.0, native=native)(drawn(0, (1, 3, 5, 20))).any()


def test_in_floats_it_is_exact_within_autocast_too():
    conv = Conv8(convolution(0, 16, 8), 1.0, None, native=False)
    x = drawn(0, (1, 16, 9, 9))
    wanted = conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(x), wanted)


# -- sums and enlargement ---------------------------------------------------------------------


@pytest.mark.parametrize("last", [True, False])
def test_sums_are_clipped(last):
    x, y = (drawn(seed, (2, 5, 6, 7), last=last) for seed in (1, 2))
    wanted = (x.int() + y.int()).clamp(max=255).to(torch.uint8)
    assert torch.equal(added(x, y), wanted)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("shape", [(1, 4, 3, 5), (2, 192, 1, 2)])
def test_doubled_is_the_nearest_enlargement(shape, last):
    x = drawn(1, shape, last=last)
    assert torch.equal(doubled(x), functional.interpolate(x, scale_factor=2.0, mode="nearest"))


# -- the whole network ------------------------------------------------------------------------


def thumbnails(count, base=61_000_000):
    for k in range(count):
        pixels = draw_scene(sample_scene(base + k, sorted(STAINS)), (256, 256)).pixels
        yield torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]


def answers(network, pictures):
    with torch.inference_mode():
        return torch.cat([network(x) for x in pictures])


def test_the_shipped_network_answers_in_integers_as_in_floats():
    pictures = list(thumbnails(24))
    path = net.Config().network_file()
    floats = answers(read_network(path)[0].eval(), pictures)
    whole = answers(load_network(path)[0], pictures)
    either = ((floats > 0) | (whole > 0)).sum((0, 2, 3))
    both = ((floats > 0) & (whole > 0)).sum((0, 2, 3))
    share = both / either
    assert share[CLASSES.index("tissue")] > 0.98
    assert share[CLASSES.index("pen")] > 0.98


@needs_kernel
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (3, 2), (5, 9), (17, 2)])
def test_without_the_kernel_the_answers_are_the_same_to_the_bit(monkeypatch, size):
    """oneDNN has other code for other shapes, and an error in some of it."""
    pictures = [drawn(7, (1, 3, *(n * MULTIPLE for n in size)))]
    if size == (5, 9):
        pictures += thumbnails(8)
    path = net.Config().network_file()
    native = [answers(load_network(path)[0], [x]) for x in pictures]
    monkeypatch.setattr(integers, "has_kernel", lambda: False)
    for x, wanted in zip(pictures, native, strict=True):
        assert torch.equal(answers(load_network(path)[0], [x]), wanted)


def test_an_untrained_network_goes_into_integers_too():
    torch.manual_seed(0)
    network = TissueNet((4, 4, 8, 8, 8)).eval()
    x = drawn(0, (2, 3, 2 * MULTIPLE, MULTIPLE), last=False)
    with torch.inference_mode():
        wanted = network(x)
        got = network.to_integers()(x)
    assert got.shape == wanted.shape == (2, 4, MULTIPLE, MULTIPLE // 2)
    assert got.dtype == torch.float32
    assert (got - wanted).abs().mean() < 0.1 * wanted.std() + 0.05


def test_a_network_without_activations_goes_into_integers():
    network = TissueNet((4, 4, 8, 8, 8))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
    x = drawn(0, (1, 3, MULTIPLE, MULTIPLE))
    assert torch.equal(answers(network.to_integers(), [x]), answers(network, [x]))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("part", ["down", "mix"])
def test_a_network_that_is_not_finite_is_refused_and_stays_as_it_is(part, value):
    network = TissueNet((4, 4, 8, 8, 8))
    conv = network.mix[1] if part == "mix" else network.down[1][0]
    nn.init.constant_(conv.norm.bias, value)
    before = network.down[0][0].conv.weight.detach().clone()
    with pytest.raises(ValueError, match="level 1 are not finite"):
        network.to_integers()
    assert torch.equal(network.down[0][0].conv.weight, before)


def test_in_integers_it_has_no_weights_to_save_or_to_change():
    network = TissueNet((4, 4, 8, 8, 8)).to_integers()
    for use in (network.to_integers, lambda: network_bytes(network, {})):
        with pytest.raises(ValueError, match="computes in whole numbers"):
            use()
