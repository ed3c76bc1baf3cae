"""What changes while a tissue segmenter learns, and how it is kept to go on from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wsiprep.core.config import digest
from wsiprep.core.errors import ConfigError, OutputError
from wsiprep.store.disk import output_errors, write_whole
from wsiprep.train.tissue.config import TissueTraining
from wsiprep.train.tissue.inputs import FILES

__all__ = ["Rows", "State", "what_decides"]

AVERAGE_DECAY = 0.998
"""Of the moving average of weights, which is what is validated and kept."""
LEARNING = 2
"""Raised whenever the same settings and files would give another network."""
LOG = "training.csv"
Rows = list[dict[str, Any]]
"""Of the log: step, loss and scores of each validation."""
_Tensors = dict[str, Tensor]


def what_decides(cfg: TissueTraining) -> dict[str, Any]:
    """Settings that the network depends on, besides what is in files."""
    aside = {"output", "workers", "device", "resume", "overwrite", "validate_every", *FILES}
    return {k: v for k, v in cfg.canonical().items() if k not in aside}


class State:
    """A network that learns, its optimiser, and the moving average of its weights.

    Args:
        cfg: Settings.
        module: The network; what has `requires_grad` is trained.
        inputs: What is given in files, see `inputs.input_digests`.
    """

    def __init__(
        self, cfg: TissueTraining, module: nn.Module, inputs: Mapping[str, str | None]
    ) -> None:
        self._cfg, self._module, self._inputs = cfg, module, dict(inputs)
        self.tuned = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.tuned.values(), cfg.peak_rate, (0.9, 0.99), weight_decay=cfg.weight_decay
        )
        self._average = {name: value.detach().clone() for name, value in self._moving().items()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Let the average follow the weights; at the beginning over fewer steps."""
        decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
        moving = self._moving()
        for name, kept in self._average.items():
            kept.lerp_(moving[name], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the module has the averaged weights, and infers."""
        moving = self._moving()
        own = {name: value.detach().clone() for name, value in moving.items()}
        self._module.eval()
        with torch.no_grad():
            for name, value in moving.items():
                value.copy_(self._average[name])
            try:
                yield
            finally:
                for name, value in moving.items():
                    value.copy_(own[name])

    def begin(self) -> tuple[int, Rows]:
        """Make the folder, or go on in it: how many steps were taken before, and their log.

        Raises:
            ConfigError: the checkpoint was made with other settings, or from other files.
            OutputError: the folder cannot be written, or the checkpoint not be read.
        """
        if self._cfg.resume:
            return self._restore()
        with output_errors(self._cfg.output):
            self._cfg.output.mkdir(parents=True, exist_ok=True)
            # Nobody is to go on from what is being replaced.
            for path in (self._cfg.state_file, self._cfg.output / LOG):
                path.unlink(missing_ok=True)
        return 0, []

    def keep(self, step: int, log: Rows) -> None:
        """Write a checkpoint and the log; each is whole or not there.

        Raises:
            OutputError: they cannot be written.
        """
        state = {
            "key": digest(what_decides(self._cfg)), "inputs": self._inputs, "learning": LEARNING,
            "step": step, "log": log, "average": self._average,
            "moving": {name: v.detach() for name, v in self._moving().items()},
            "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        data = io.BytesIO()
        torch.save(state, data)
        write_whole(self._cfg.state_file, data.getvalue())
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in log for name in row))
        table = csv.DictWriter(text, names, lineterminator="\n")
        table.writeheader()
        table.writerows(log)
        write_whole(self._cfg.output / LOG, text.getvalue().encode())

    def _restore(self) -> tuple[int, Rows]:
        path = self._cfg.state_file
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError) as err:
            raise OutputError(f"checkpoint {path} cannot be read: {err}.") from err
        if state.get("learning") != LEARNING:
            raise ConfigError(
                f"checkpoint {path} is of another version of wsiprep, which learnt otherwise.",
                hint="Begin anew with --overwrite or another --output.",
            )
        differ = [
            name for name, given in self._inputs.items() if state["inputs"].get(name) != given
        ]
        if differ:
            flags = ", ".join(f"--{name}" for name in differ)
            raise ConfigError(
                f"checkpoint {path} was made with something else in {flags}.",
                hint="Pass the same, another --output, or --overwrite to begin anew.",
            )
        if state["key"] != digest(what_decides(self._cfg)):
            raise ConfigError(
                f"checkpoint {path} was made with other settings.",
                hint="Pass the same settings, another --output, or --overwrite to begin anew.",
            )
        with torch.no_grad():
            for name, value in self._moving().items():
                value.copy_(state["moving"][name])
                self._average[name].copy_(state["average"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        return int(state["step"]), list(state["log"])

    def _moving(self) -> _Tensors:
        """What training changes: tuned weights, and statistics of normalisation."""
        buffers = self._module.named_buffers()
        return {**self.tuned, **{name: b for name, b in buffers if b.is_floating_point()}}
