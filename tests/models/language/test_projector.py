from __future__ import annotations

import pytest
import torch

from tests.models.language import fakes  # noqa: F401 - one thread
from wsiprep.core.errors import ConfigError
from wsiprep.models.language import Projector, ProjectorConfig

KINDS = ("linear", "mlp2", "resampler")


def projector(kind: str, **more: object) -> Projector:
    sizes = {"queries": 3, "resampler_width": 16, "resampler_heads": 4}
    return Projector(ProjectorConfig.model_validate({"projector": kind, **sizes, **more}), 12, 20)


def bags() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))
    return tokens, torch.tensor([0, 4, 4, 9])


@pytest.mark.parametrize("kind", KINDS)
def test_bags_do_not_touch_each_other(kind: str) -> None:
    made, (tokens, starts) = projector(kind), bags()
    whole = made(tokens, starts)
    parts = whole.split()
    assert len(parts) == len(whole) == 3
    for index, part in enumerate(parts):
        bag = tokens[starts[index] : starts[index + 1]]
        alone = made(bag, torch.tensor([0, len(bag)])).embeds
        assert part.shape == (made.embeds_of(len(bag)), 20)
        torch.testing.assert_close(part, alone, atol=1e-5, rtol=1e-5)
        assert part.isfinite().all()


def test_only_the_resampler_is_blind_to_order_and_follows_content() -> None:
    tokens, starts = bags()
    made = projector("resampler")
    mixed = tokens.clone()
    mixed[4:] = tokens[4:].flip(0)
    first, second = made(tokens, starts).embeds, made(mixed, starts).embeds
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
    mixed[5] += 1
    assert (made(mixed, starts).embeds - first)[-3:].abs().max() > 1e-3
    assert not torch.equal(
        projector("mlp2")(tokens, starts).embeds, projector("mlp2")(tokens.flip(0), starts).embeds
    )


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_learn_and_seeds_repeat(kind: str) -> None:
    tokens, starts = bags()
    made = projector(kind, norm=True)
    made(tokens, starts).embeds.square().sum().backward()
    # A constant added to all keys changes no softmax, so biases of keys have no gradient.
    assert all(weight.grad is not None for weight in made.parameters())
    torch.manual_seed(9)
    again, other = projector(kind, norm=True), projector(kind, norm=True, seed=1)
    for one, two, three in zip(
        made.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(one, two)
        assert one.ndim == 1 or not torch.equal(one, three)


def test_the_norm_gives_rows_of_one_size() -> None:
    tokens, starts = bags()
    made = projector("linear", norm=True)(100 * tokens, starts).embeds
    torch.testing.assert_close(made.square().mean(dim=1), torch.ones(9), atol=1e-4, rtol=0)


def test_tokens_of_another_encoder_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(9, 11\); the projector takes \(M, 12\)"):
        projector("mlp2")(torch.zeros(9, 11), torch.tensor([0, 9]))
    with pytest.raises(ConfigError, match="5 heads do not divide"):
        projector("resampler", resampler_heads=5)
