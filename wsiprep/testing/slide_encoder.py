"""What every slide encoder must do, as tests: inherit `SlideEncoderContract` and give it one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from wsiprep.core.types import CHUNK_CELLS

__all__ = ["SlideEncoderContract", "store_order"]


def store_order(cell: Tensor) -> Tensor:
    """Order of cells as stores keep them, chunk by chunk: int64 (N,) from int64 (N, 2)."""
    chunk = cell // CHUNK_CELLS
    order = torch.argsort(cell[:, 1], stable=True)
    for key in (cell[:, 0], chunk[:, 1], chunk[:, 0]):
        order = order[torch.argsort(key[order], stable=True)]
    return order


class SlideEncoderContract:
    """Tests of a slide encoder; a subclass named `Test...` overrides the fixture `encoder`.

    The subclass also gives `bag` and `pack`, those of `wsiprep.models`. The encoder should be
    small; the contract switches it between training and evaluation.
    """

    bag: ClassVar[Callable[[Tensor, Tensor, Tensor], Any]]
    """Makes a bag of features, cells and numbers of slides: `staticmethod(Bag)`."""
    pack: ClassVar[Callable[[Sequence[Any]], Any]]
    """Puts bags together: `staticmethod(pack)`."""
    tolerance: ClassVar[float] = 1e-5
    """What rounding may do to a number in other company."""
    feels: ClassVar[Literal["nothing", "regions", "cells"]] = "nothing"
    """What of the places of patches makes another slide: nothing, in which region a patch lies, or
    its very cell."""
    has_regions: ClassVar[bool] = True
    """Whether it encodes regions."""
    has_patches: ClassVar[bool] = False
    """Whether it makes a vector of every patch."""
    empty_tokens: ClassVar[int] = 0
    """Tokens of a bag without patches."""
    without_gradient: ClassVar[tuple[str, ...]] = ()
    """Ends of names of parameters whose gradient is zero by mathematics, as that of a key's bias
    under a softmax is."""

    @pytest.fixture
    def encoder(self) -> nn.Module:
        """The encoder under test."""
        raise NotImplementedError("override the fixture 'encoder'")

    def made(self, encoder: nn.Module, patches: int, seed: int, slides: int = 1) -> Any:
        """A bag of random patches on random cells of a lattice of 40 x 40."""
        generator = torch.Generator().manual_seed(seed)
        cells, numbers = [], []
        for slide in range(slides):
            picked = torch.randperm(1600, generator=generator)[: patches // slides]
            cell = torch.stack([picked // 40, picked % 40], dim=1)
            cells.append(cell[store_order(cell)])
            numbers.append(torch.full((len(cell),), slide))
        count = sum(len(cell) for cell in cells)
        width = int(encoder.input_dim)  # type: ignore[arg-type]
        features = torch.randn(count, width, generator=generator)
        return type(self).bag(features, torch.cat(cells), torch.cat(numbers))

    def batch(self, encoder: nn.Module) -> list[Any]:
        """Bags of many sizes: several regions, none, one patch, two slides."""
        sizes = ((70, 1), (0, 1), (1, 1), (250, 1), (5, 1), (60, 2))
        return [self.made(encoder, n, seed, slides) for seed, (n, slides) in enumerate(sizes)]

    def close(self, given: Tensor, wanted: Tensor) -> bool:
        """Same shape, and numbers within `tolerance`."""
        return given.shape == wanted.shape and bool(
            torch.allclose(given, wanted, rtol=self.tolerance, atol=self.tolerance)
        )

    def test_shapes(self, encoder: nn.Module) -> None:
        """Everything has the shape that `SlideOut` says, and is finite."""
        bags = type(self).pack(self.batch(encoder))
        out = encoder.eval()(bags)
        dim = int(encoder.dim)  # type: ignore[arg-type]
        assert out.slide.shape == (len(bags), dim)
        assert out.tokens.shape[1] == dim
        assert out.token_starts.shape == (len(bags) + 1,)
        assert out.token_starts[0] == 0
        assert out.token_starts[-1] == len(out.tokens)
        assert (out.region is not None) == self.has_regions
        if out.region is not None:
            assert out.region.shape == (len(bags.region_bag), dim)
            assert torch.isfinite(out.region).all()
        assert (out.patch is not None) == self.has_patches
        if out.patch is not None:
            assert out.patch.shape == (len(bags.features), dim)
            assert torch.isfinite(out.patch).all()
        assert torch.isfinite(out.slide).all()
        assert torch.isfinite(out.tokens).all()

    def test_attention_sums_to_one(self, encoder: nn.Module) -> None:
        """Weights of the patches of a bag are at least 0 and sum to 1."""
        bags = type(self).pack(self.batch(encoder))
        found = encoder.eval()(bags).attention
        if found is None:
            pytest.skip("it tells no attention")
        assert found.shape == (len(bags.features),)
        assert (found >= 0).all()
        for a, b in pairwise(bags.starts.tolist()):
            if b > a:
                assert abs(float(found[a:b].sum()) - 1) < 1e-5

    def test_company_does_not_matter(self, encoder: nn.Module) -> None:
        """A bag gives in a batch what it gives alone."""
        made = self.batch(encoder)
        bags = type(self).pack(made)
        out = encoder.eval()(bags)
        for number, bag in enumerate(made):
            alone = encoder(type(self).pack([bag]))
            assert self.close(alone.slide[0], out.slide[number])
            first, last = out.token_starts[number : number + 2].tolist()
            assert self.close(alone.tokens, out.tokens[first:last])
            if out.region is not None:
                assert self.close(alone.region, out.region[bags.region_bag == number])
            first, last = bags.starts[number : number + 2].tolist()
            if out.attention is not None:
                assert self.close(alone.attention, out.attention[first:last])
            if out.patch is not None:
                assert self.close(alone.patch, out.patch[first:last])

    def test_vectors_of_patches_are_in_place(self, encoder: nn.Module) -> None:
        """The vector of a patch feels that patch more than any other, and no other bag."""
        bags = type(self).pack([self.made(encoder, 70, 1), self.made(encoder, 90, 2)])
        bags = replace(bags, features=bags.features.requires_grad_())
        found = encoder.eval()(bags).patch
        if found is None:
            pytest.skip("it makes no vectors of patches")
        torch.manual_seed(3)
        push = torch.randn(found.shape[1], 8)
        for row in (0, 33, 69, 70, 101, 159):
            felt = torch.zeros(len(bags.features))
            for one in (found[row] @ push).unbind():
                (pull,) = torch.autograd.grad(one, bags.features, retain_graph=True)
                felt += pull.square().sum(1)
            assert int(felt.argmax()) == row
            first, last = (0, 70) if row < 70 else (70, 160)
            assert felt[:first].sum() + felt[last:].sum() == 0

    def test_no_patches(self, encoder: nn.Module) -> None:
        """A bag without patches gives a vector, the same each time, and no region."""
        out = encoder.eval()(type(self).pack([self.made(encoder, 0, 0)] * 2))
        assert torch.isfinite(out.slide).all()
        assert self.close(out.slide[0], out.slide[1])
        assert out.region is None or len(out.region) == 0
        assert (out.token_starts[1:] - out.token_starts[:-1]).tolist() == [self.empty_tokens] * 2
        assert out.attention is None or len(out.attention) == 0
        assert out.patch is None or len(out.patch) == 0

    def test_nan_stays_in_its_bag(self, encoder: nn.Module) -> None:
        """A bag full of NaN spoils itself and no other; nor do its gradients reach them."""
        good, bad = self.made(encoder, 70, 1), self.made(encoder, 90, 2)
        bad.features.fill_(torch.nan)
        bags = type(self).pack([bad, good, bad])
        bags = replace(bags, features=bags.features.clone().requires_grad_())
        out = encoder.eval()(bags)
        clean = encoder(type(self).pack([good]))
        assert self.close(out.slide[1], clean.slide[0])
        assert torch.isnan(out.slide[0]).any()
        first, last = out.token_starts[1:3].tolist()
        assert self.close(out.tokens[first:last], clean.tokens)
        if out.region is not None:
            assert self.close(out.region[bags.region_bag == 1], clean.region)
        a, b = bags.starts[1:3].tolist()
        if out.patch is not None:
            assert self.close(out.patch[a:b], clean.patch)
        out.slide[1].square().sum().backward()
        assert torch.isfinite(bags.features.grad[a:b]).all()

    def test_unused_memory_does_not_matter(self, encoder: nn.Module) -> None:
        """Features that are a view into a larger array of NaN give what their copy gives."""
        good = self.made(encoder, 70, 1)
        wide = torch.full((200, 2 * good.features.shape[1]), torch.nan)
        view = wide[50:120, : good.features.shape[1]]
        view.copy_(good.features)
        bags = type(self).pack([good])
        out, other = encoder.eval()(bags), encoder(replace(bags, features=view))
        assert self.close(other.slide, out.slide)
        assert self.close(other.tokens, out.tokens)
        if out.patch is not None:
            assert self.close(other.patch, out.patch)

    def test_gradients_reach_everything(self, encoder: nn.Module) -> None:
        """Slides, regions, patches and tokens together move every parameter, and every patch."""
        torch.manual_seed(3)
        bags = type(self).pack([self.made(encoder, 70, 1), self.made(encoder, 9, 2)])
        bags = replace(bags, features=bags.features.requires_grad_())
        out = encoder.train()(bags)
        parts = [x for x in (out.slide, out.region, out.patch, out.tokens) if x is not None]
        sum((x * torch.randn_like(x)).sum() for x in parts).backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            if not name.endswith(self.without_gradient) or not self.without_gradient:
                assert parameter.grad.abs().max() > 0, name
        assert (bags.features.grad.abs().amax(1) > 0).all()

    def test_evaluation_is_deterministic(self, encoder: nn.Module) -> None:
        """Twice the same bits, and no random number is drawn."""
        bags = type(self).pack(self.batch(encoder))
        encoder.eval()
        state = torch.get_rng_state()
        one = encoder(bags)
        assert torch.equal(torch.get_rng_state(), state)
        two = encoder(bags)
        assert torch.equal(one.slide, two.slide)
        assert torch.equal(one.tokens, two.tokens)

    def test_training_is_deterministic(self, encoder: nn.Module) -> None:
        """With the same random numbers, training gives twice the same bits."""
        bags = type(self).pack(self.batch(encoder))
        encoder.train()
        found = []
        for _ in range(2):
            torch.manual_seed(5)
            found.append(encoder(bags).slide)
        assert torch.equal(*found)

    def test_places(self, encoder: nn.Module) -> None:
        """Patches that change places make another slide, or the same, as documented."""
        bag = self.made(encoder, 120, 4)
        chunk = bag.cell // CHUNK_CELLS
        region = chunk[:, 0] * 1000 + chunk[:, 1]
        back = torch.arange(len(region)).flip(0)
        inside = back[torch.argsort(region[back], stable=True)]
        inside = inside[torch.argsort(torch.argsort(region, stable=True), stable=True)]
        encoder.eval()
        one, two, three = (
            encoder(type(self).pack([type(self).bag(features, bag.cell, bag.slide)])).slide
            for features in (bag.features, bag.features[inside], bag.features[back])
        )
        assert self.close(one, two) == (self.feels != "cells")
        assert self.close(one, three) == (self.feels == "nothing")

    def test_wrong_width_is_refused(self, encoder: nn.Module) -> None:
        """Features of another width are an error that names both."""
        bag = self.made(encoder, 9, 1)
        width = bag.features.shape[1]
        wide = type(self).bag(torch.zeros(9, width + 1), bag.cell, bag.slide)
        with pytest.raises(ValueError, match=str(width + 1)):
            encoder(type(self).pack([wide]))
