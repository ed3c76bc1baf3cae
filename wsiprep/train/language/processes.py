"""One process or many: what a training knows of the others.

`torchrun` and `accelerate launch` start processes with the same environment; they are joined here.
Without them there is one.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wsiprep.core.errors import ConfigError
from wsiprep.train.language.sharding import any_spread, own_part

__all__ = ["Precision", "Processes", "join_processes", "leave_processes"]

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all.

    Attributes:
        rank: Its number.
        world: How many there are.
        device: Where it computes.
        precision: Of what autocast may round.
    """

    rank: int
    world: int
    device: torch.device
    precision: Precision = "fp32"

    @property
    def main(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        """Within it matrix products are of the precision asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()

    def share(self, modules: Iterable[nn.Module]) -> None:
        """Give all the weights and buffers of the first, but for what is spread over them."""
        if self.world > 1:
            for module in modules:
                for tensor in (*module.parameters(), *module.buffers()):
                    if not any_spread([tensor]):
                        dist.broadcast(tensor.detach(), 0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the mean over processes into every `.grad`; one that a process lacks counts as 0.

        All at once, after the last backward pass: gradient caching goes backward several times,
        and gradients need to be exchanged only once. Those of spread parameters are means already.
        """
        if self.world == 1:
            return
        learned = [p for p in parameters if p.requires_grad and not any_spread([p])]
        for dtype in dict.fromkeys(p.dtype for p in learned):
            of_kind = [p for p in learned if p.dtype == dtype]
            flat = torch.cat([
                (torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in of_kind
            ])  # fmt: skip
            dist.all_reduce(flat)
            flat /= self.world
            for p, mean in zip(
                of_kind, torch.split(flat, [p.numel() for p in of_kind]), strict=True
            ):
                p.grad = mean.view_as(p).clone()

    @torch.no_grad()
    def clip_gradients(self, parameters: Iterable[nn.Parameter], longest: float) -> Tensor:
        """Shorten the gradient over all parameters, taken as one vector, where it is longer.

        Args:
            parameters: Spread or not; those without a gradient count for nothing.
            longest: Length that is left.

        Returns:
            Its length before: float scalar, the same on every process.
        """
        learned = [p for p in parameters if p.grad is not None]
        if not any_spread(learned):
            return torch.nn.utils.clip_grad_norm_(learned, longest)
        whole, parts = (torch.zeros((), device=self.device) for _ in range(2))
        gradients = [(p, own_part(p.grad)) for p in learned if p.grad is not None]
        for p, gradient in gradients:
            square = torch.linalg.vector_norm(gradient, dtype=torch.float32).square()
            (parts if any_spread([p]) else whole).add_(square)
        dist.all_reduce(parts)
        length = (whole + parts).sqrt()
        shorter = (longest / (length + 1e-6)).clamp(max=1.0)  # as torch's own for one process
        for _, gradient in gradients:
            gradient.mul_(shorter.to(gradient.dtype))
        return length

    def most(self, value: int) -> int:
        """The greatest over processes."""
        if self.world == 1:
            return value
        found = torch.tensor(value, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def agree(self, said: str) -> bool:
        """Whether all processes say the same; the answer is the same on all."""
        number = int.from_bytes(sha256(said.encode()).digest()[:7], "big")
        return self.most(number) == -self.most(-number)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over processes of a scalar."""
        if self.world == 1:
            return value
        value = value.detach().clone()
        dist.all_reduce(value)
        return value / self.world


def join_processes(device: torch.device, precision: Precision = "fp32") -> Processes:
    """Join the others, where this process was started with them.

    Raises:
        ConfigError: the environment says there are others, but not how to reach them.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Processes(0, 1, device, precision)
    if not dist.is_initialized():
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (ValueError, RuntimeError) as err:
            raise ConfigError(
                f"the {world} processes of this training cannot be joined: {err}.",
                hint="Start them with torchrun or accelerate launch.",
            ) from err
    return Processes(dist.get_rank(), dist.get_world_size(), device, precision)


def leave_processes() -> None:
    """Part from the others after all work is done and no model is in use any more.

    The threads by which torch speaks with the others may still hold tensors when Python ends, and
    the process would abort then although its work is done; so they are ended here. Not to be
    called after a failure: the others may never answer what these threads still wait for. Does
    nothing where there are no others.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()  # a model in a reference cycle keeps the group, and with it the threads
        dist.destroy_process_group()
