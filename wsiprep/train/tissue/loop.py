"""The loop that trains tissue segmenters."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from wsiprep import __version__
from wsiprep.core.errors import ConfigError, DeviceError, ManifestError
from wsiprep.core.report import OnNote, OnStep, TrainStep
from wsiprep.encoders.load import resolve_device
from wsiprep.store.disk import check_writable, output_errors, write_whole
from wsiprep.synth.thumbnails.stains import STAINS
from wsiprep.train.folder import check_folder
from wsiprep.train.tissue.config import TissueTraining
from wsiprep.train.tissue.data import Sample, Thumbnails, read_pairs, read_textures
from wsiprep.train.tissue.inputs import FILES, input_digests
from wsiprep.train.tissue.stains import read_stains
from wsiprep.train.tissue.state import State, what_decides
from wsiprep.train.tissue.student import Student
from wsiprep.train.tissue.validate import iou_scores, validation_sets, validation_sheet
from wsiprep.views.overlay import encode_jpeg

__all__ = ["Trained", "train_tissue"]

WARM_UP_STEPS = 200
SHEET = "validation.jpg"


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training left.

    Attributes:
        network: File of the network.
        use: Flags of `wsiprep segment` that use it.
        scores: IoU by `set/class` of the last validation.
        pictures: Contact sheets of what it finds.
    """

    network: Path
    use: str
    scores: dict[str, float]
    pictures: tuple[Path, ...]


def train_tissue(
    cfg: TissueTraining, on_step: OnStep = lambda _: None, on_note: OnNote = lambda _: None
) -> Trained:
    """Train, validate now and then, keep checkpoints, write the network and a contact sheet.

    A run that was stopped goes on from its last checkpoint with `resume`, and on a CPU ends with
    the network that it would have had undisturbed, to the bit. `on_note` is told what is not as
    one may think.

    Raises:
        ConfigError: the folder has a checkpoint, and neither `resume` nor `overwrite` is set;
            `resume` without a checkpoint, with other settings or files; `stains` cannot be
            used, or none is left; the loss is not finite.
        ManifestError: the real thumbnails cannot be used, or none can be trained on where all that
            is trained on is to be real.
        OutputError: the output folder cannot be written.
        WeightsError: the checkpoint to be tuned cannot be used.
        DeviceError: there is no such device, or it has no memory for a step.
    """
    own = read_stains(cfg.stains) if cfg.stains else {}
    stains = [name for name in (*STAINS, *own) if name not in cfg.leave_out]
    if unknown := set(cfg.leave_out) - {*STAINS, *own}:
        raise ConfigError(f"--leave-out: there is no stain {', '.join(sorted(unknown))}.")
    if not stains:
        raise ConfigError("--leave-out leaves no stain to draw.")
    check_folder(cfg.state_file, resume=cfg.resume, overwrite=cfg.overwrite)
    check_writable(cfg.output)
    pairs = read_pairs(cfg.data) if cfg.data else []
    textures = read_textures(cfg.textures) if cfg.textures else []
    torch.manual_seed(cfg.seed)
    with _room(cfg):
        student = _student(cfg)
    inputs = input_digests(cfg, pairs, textures, own)
    told = (1 << len(student.classes)) - 1
    pairs = [pair for pair in pairs if (pair.thumbnail.known & told).any()]
    real = [pair for pair in pairs if pair.split == "train"]
    if cfg.data and not real:
        _tell_none_real(cfg, student.classes, on_note)
    state = State(cfg, student.module, inputs)
    first, log = state.begin()

    training = Thumbnails(
        cfg.seed, cfg.steps * cfg.thumbnails_a_step, student.framing, stains,
        real, cfg.share_of_real, textures, own, cfg.more_ink,
    )  # fmt: skip
    validation = validation_sets(cfg, student, stains, pairs, own)
    scores: dict[str, float] = {}
    smooth, shown_at, began = None, first, time.perf_counter()
    batches = enumerate(_batches(training, cfg, first), start=first + 1)
    for step, batch in batches:
        rate = _rate(cfg, step)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        student.module.train()
        with _room(cfg):
            loss = student.loss(batch, step)
            state.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(state.tuned.values(), 1.0)
            state.optimiser.step()
        state.follow(step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigError(
                f"the loss is {value} at step {step}.", hint="Lower --learning-rate and try again."
            )
        smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
        validate = step % cfg.validate_every == 0 or step == cfg.steps
        if validate:
            with state.averaged():
                scores = {k: v for name, items in validation.items()
                          for k, v in iou_scores(name, student, items).items()}  # fmt: skip
            log.append({"step": step, "loss": round(smooth, 5), **scores})
            state.keep(step, log)
        if validate or step % 20 == 0:
            seconds = time.perf_counter() - began
            speed = (step - shown_at) * cfg.thumbnails_a_step / max(seconds, 1e-9)
            shown = scores if validate else None
            on_step(TrainStep(step, cfg.steps, smooth, rate, speed, "thumbnails", shown))
            shown_at, began = step, time.perf_counter()
    facts = {
        "wsiprep": __version__,
        "settings": _recorded(cfg),
        "textures": len(textures),
        "stains": {name: asdict(stain) for name, stain in own.items()},
        "pairs": [pair.name for pair in real],
    }
    with state.averaged(), output_errors(cfg.output):
        path, use = student.save(cfg.output, facts)
        sheet = validation_sheet(student, validation)
    write_whole(cfg.output / SHEET, encode_jpeg(sheet))
    last = {k: v for k, v in log[-1].items() if "/" in k} if log else {}
    return Trained(path, use, last, (cfg.output / SHEET,))


def _tell_none_real(cfg: TissueTraining, classes: Sequence[str], on_note: OnNote) -> None:
    """Say that there is nothing real to train on, though a table was given."""
    what = f"{cfg.data} has no row of split train with a mask of {' or '.join(classes)}"
    if cfg.share_of_real == 1:
        raise ManifestError(
            f"{what}, and only real thumbnails are to be trained on.",
            hint="Add masks, or train on drawn thumbnails alone with --real-share 0.",
        )
    if cfg.share_of_real > 0:
        on_note(f"{what}: only drawn thumbnails are trained on.")


def _student(cfg: TissueTraining) -> Student:
    device = resolve_device(cfg.device)
    if cfg.model == "sam":
        from wsiprep.train.tissue.sam import sam_student

        return sam_student(cfg, device)
    from wsiprep.train.tissue.net import NetStudent

    return NetStudent(device, cfg.crop_px, cfg.checkpoint, cfg.widths)


@contextmanager
def _room(cfg: TissueTraining) -> Iterator[None]:
    """Within it, too little memory of the device is an error that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as err:
        raise DeviceError(
            f"a step of {cfg.thumbnails_a_step} thumbnails does not fit into the memory of the"
            f" device ({cfg.device}).",
            hint="Lower --batch-size, free the device, or pass --device cpu.",
        ) from err


def _recorded(cfg: TissueTraining) -> dict[str, Any]:
    """Settings as they are kept with the network: of files the names alone."""
    given = {name: getattr(cfg, name) for name in FILES}
    return {**what_decides(cfg), **{k: path.name if path else None for k, path in given.items()}}


def _batches(data: Thumbnails, cfg: TissueTraining, first: int) -> Iterator[list[Sample]]:
    """Batches from step `first` on, drawn by other processes ahead of time."""
    size = cfg.thumbnails_a_step
    order = range(first * size, len(data))
    yield from DataLoader(
        data, size, sampler=order, num_workers=cfg.workers, collate_fn=list,
        # Spawned workers are children of this process, and end when it is killed.
        multiprocessing_context="spawn" if cfg.workers else None,
    )  # fmt: skip


def _rate(cfg: TissueTraining, step: int) -> float:
    """Learning rate: linear warm-up, then a cosine down to a hundredth."""
    warm = min(WARM_UP_STEPS, max(1, cfg.steps // 10))
    if step <= warm:
        return cfg.peak_rate * step / warm
    done = (step - warm) / max(1, cfg.steps - warm)
    return cfg.peak_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
