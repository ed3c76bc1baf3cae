"""Large contrastive batches in the memory of small ones, with exactly the same gradient.

A contrastive loss needs the vectors of a whole batch at once, but not the activations behind them.
So: (1) every micro-batch goes forward without gradient, and its vectors are kept; (2) the loss of
all of them gives the gradient of each vector, and that of parameters that only the loss uses
(scale, bias, pooling); (3) every micro-batch goes forward again, with the random numbers that it
had, and its gradients go on from its vectors into the parameters. The memory is that of one
micro-batch and of the vectors, the price one more forward pass. Adding up the gradients of small
batches with a loss each is not the same: each would have the negatives of a small batch.

What a network changes going forward, such as the averages of batch normalisation, is changed twice.

Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
RepL4NLP 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Encoding", "cached_backward"]

Vectors = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """What makes one kind of vectors, and of what.

    Attributes:
        forward: A micro-batch to a tensor or a tuple of tensors, with as many rows as it pleases;
            the rows of all micro-batches are put one after another. Tensors that are not floating
            point are passed on as they are. It must give the same for the same input and the same
            state of torch's default generators.
        batches: The micro-batches, whatever `forward` takes; in memory, for they are used twice.
        modules: Networks that `forward` calls, `forward` itself where it is one and none is told.
            Where one is wrapped in DDP or FSDP, `forward` must call the wrapper, and the wrapper
            must be told: gradients are exchanged once, with its last micro-batch.
    """

    forward: Callable[[Any], Vectors]
    batches: Sequence[Any]
    modules: tuple[nn.Module, ...] = ()

    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that are known."""
        if not self.modules and isinstance(self.forward, nn.Module):
            return (self.forward,)
        return self.modules


def cached_backward(
    encodings: Sequence[Encoding],
    loss: Callable[..., Tensor],
    *,
    loss_parameters: Iterable[nn.Parameter] = (),
    scale: float = 1.0,
) -> Tensor:
    """Add the gradients of a loss over all micro-batches to `.grad`; then the optimiser may step.

    Args:
        encodings: The kinds of vectors, such as those of slides and those of texts.
        loss: Takes for each encoding what its `forward` gives, with the rows of all micro-batches,
            and gives a scalar; over processes a share, as the objectives of this package do. Called
            once. What it is to report besides, it may put aside itself.
        loss_parameters: Parameters that it uses itself. Over processes they must be told, for their
            gradients are averaged here; they should not be in a network wrapped in DDP. In one
            process they may be left out.
        scale: Of the gradients: of a `GradScaler`, or one over the number of such calls a step.

    Returns:
        The loss, a scalar without gradient and not scaled.

    Raises:
        ValueError: an encoding without micro-batches; over processes, a parameter that the loss
            uses and that is not among `loss_parameters`.
    """
    if any(len(encoding.batches) == 0 for encoding in encodings):
        raise ValueError("every encoding needs a micro-batch")
    looked = [[_look(encoding, batch) for batch in encoding.batches] for encoding in encodings]
    # Autocast keeps what it cast, and what it cast here has no gradient.
    torch.clear_autocast_cache()
    with torch.enable_grad():
        value = loss(*(_join([step.leaves for step in steps]) for steps in looked))
        if value.requires_grad:
            leaves = {
                id(leaf) for steps in looked for step in steps for leaf in _parts(step.leaves)
            }
            _backward_of_loss(value, scale, leaves, list(loss_parameters))
            _learn([step for steps in looked for step in steps])
    return value.detach()


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A micro-batch after the forward pass without gradient."""

    encoding: Encoding
    batch: Any
    random: _Random
    leaves: Vectors


def _look(encoding: Encoding, batch: Any) -> _Step:
    random = _Random.now(encoding.networks())
    with torch.no_grad():
        out = encoding.forward(batch)
    # Copies, for a network may give back what it was given.
    leaves = tuple(
        part.clone().requires_grad_() if part.is_floating_point() else part for part in _parts(out)
    )
    return _Step(encoding, batch, random, leaves[0] if isinstance(out, Tensor) else leaves)


def _join(vectors: Sequence[Vectors]) -> Vectors:
    """Rows of all micro-batches."""
    columns = [torch.cat(column) for column in zip(*map(_parts, vectors), strict=True)]
    return columns[0] if isinstance(vectors[0], Tensor) else tuple(columns)


def _parts(vectors: Vectors) -> tuple[Tensor, ...]:
    return (vectors,) if isinstance(vectors, Tensor) else tuple(vectors)


def _backward_of_loss(
    value: Tensor, scale: float, leaves: set[int], parameters: list[nn.Parameter]
) -> None:
    """Gradients of the vectors, and of what only the loss uses, averaged over processes."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        (value * scale).backward()  # type: ignore[no-untyped-call, unused-ignore]
        return
    known = leaves | {id(parameter) for parameter in parameters}
    strangers = [tuple(leaf.shape) for leaf in _leaves_of(value) if id(leaf) not in known]
    if strangers:
        raise ValueError(
            f"the loss uses parameters of shapes {strangers} that are not in loss_parameters"
        )
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    before = [parameter.grad for parameter in learned]
    for parameter in learned:
        parameter.grad = None
    (value * scale).backward()  # type: ignore[no-untyped-call, unused-ignore]
    for parameter, old in zip(learned, before, strict=True):
        # One that this process did not use may have been used by another.
        new = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(new)
        new /= dist.get_world_size()
        parameter.grad = new if old is None else old + new


def _leaves_of(value: Tensor) -> Iterator[Tensor]:
    """Tensors that `backward` of a value would give a gradient."""
    seen: set[Any] = set()
    open_nodes: list[Any] = [value.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        open_nodes.extend(following for following, _ in node.next_functions)


def _learn(steps: Sequence[_Step]) -> None:
    """Forward again with gradient, and backward from the vectors."""
    last = {
        id(network): index
        for index, step in enumerate(steps)
        for network in step.encoding.networks()
    }
    for index, step in enumerate(steps):
        with ExitStack() as waits:
            for network in step.encoding.networks():
                if last[id(network)] != index:
                    waits.enter_context(_no_exchange(network))
            with step.random.again():
                out = step.encoding.forward(step.batch)
            wanted = [
                (part, leaf.grad)
                for part, leaf in zip(_parts(out), _parts(step.leaves), strict=True)
                if part.requires_grad and leaf.grad is not None
            ]
            if wanted:
                torch.autograd.backward(
                    [part for part, _ in wanted], [gradient for _, gradient in wanted]
                )


@contextmanager
def _no_exchange(network: nn.Module) -> Iterator[None]:
    """Gradients stay in this process, where the network is one that exchanges them."""
    no_sync: Callable[[], AbstractContextManager[None]] | None = getattr(network, "no_sync", None)
    if no_sync is None:
        yield
        return
    with no_sync():
        yield


@dataclass(frozen=True, slots=True, eq=False)
class _Random:
    """State of torch's default generators, of the CPU and of the CUDA devices of networks."""

    cpu: Tensor
    cuda: dict[int, Tensor]

    @classmethod
    def now(cls, networks: Iterable[nn.Module]) -> _Random:
        """What it is."""
        devices: set[int] = set()
        if torch.cuda.is_available():
            devices = {torch.cuda.current_device()}
            for network in networks:
                devices |= {p.get_device() for p in network.parameters() if p.is_cuda}
        return cls(torch.get_rng_state(), {d: torch.cuda.get_rng_state(d) for d in devices})

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside, random numbers are those that came after `now`; outside, as if not used."""
        with torch.random.fork_rng(devices=sorted(self.cuda)):
            torch.set_rng_state(self.cpu)
            for device, state in self.cuda.items():
                torch.cuda.set_rng_state(state, device)
            yield
