"""Every error wsiprep raises on purpose, and the exit code each becomes.

WsiprepError(message, *, slide, stage, hint)
├── UsageError             2    the command line, the config file or the manifest is wrong
│   ├── ConfigError
│   ├── ManifestError
│   └── UnknownPluginError      (also LookupError)
├── EnvironmentProblem     3    the machine cannot do it: library, weights, device, disk
│   ├── PluginUnavailableError  (also ImportError)
│   ├── WeightsError
│   ├── DeviceError
│   └── OutputError             (also OSError) the output folder cannot be written
├── SlideError             1    this slide failed; the others go on
│   ├── SlideOpenError          (also OSError)
│   │   └── SlideKindError      the file is not of the reader's kind
│   ├── SlideReadError          (also OSError)
│   ├── ResolutionError
│   │   ├── MissingMppError
│   │   ├── ImplausibleMppError
│   │   ├── NonSquareMppError
│   │   └── UpsamplingError
│   ├── TissueInputError        the mask or GeoJSON given for this slide cannot be used
│   ├── MissingStageError       an earlier stage has not run for this slide
│   │   └── AmbiguousStageError it has run in several ways, and none is named
│   └── EncodingError           the encoder gave NaN, infinity or a wrong shape
├── StoreError             1    this slide's store; the other slides go on
│   ├── StoreMismatchError      made with other settings, or from another slide
│   ├── StoreCorruptError
│   └── StoreBusyError          another process is writing this slide
└── Interrupted            130  Ctrl-C or SIGTERM; run the same command again to resume

Codes of a whole run: 0 all done, 1 some slides failed, 2 usage, 3 environment,
130 interrupted, 70 a bug in wsiprep (anything not in this tree).
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AmbiguousStageError",
    "ConfigError",
    "DeviceError",
    "EncodingError",
    "EnvironmentProblem",
    "ImplausibleMppError",
    "Interrupted",
    "ManifestError",
    "MissingMppError",
    "MissingStageError",
    "NonSquareMppError",
    "OutputError",
    "PluginUnavailableError",
    "ResolutionError",
    "SlideError",
    "SlideKindError",
    "SlideOpenError",
    "SlideReadError",
    "StoreBusyError",
    "StoreCorruptError",
    "StoreError",
    "StoreMismatchError",
    "TissueInputError",
    "UnknownPluginError",
    "UpsamplingError",
    "UsageError",
    "WeightsError",
    "WsiprepError",
]


class WsiprepError(Exception):
    """Base of all expected errors: says what failed, for which slide, and what to do.

    Args:
        message: What failed, one sentence, without the remedy.
        slide: Slide id or path it concerns.
        stage: Stage it happened in (`slide`, `tissue`, `grid`, `tiles`, `encoder`, `store`).
        hint: The remedy: a flag, a command, a manifest column.
    """

    exit_code: ClassVar[int] = 70

    def __init__(
        self,
        message: str,
        *,
        slide: str | None = None,
        stage: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.slide = slide
        self.stage = stage
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.slide}: " if self.slide else ""
        return f"{where}{self.message}" + (f" {self.hint}" if self.hint else "")


class UsageError(WsiprepError):
    """The command line, the config file or the manifest asks for something impossible."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting has a wrong name or value; the message names the flag."""


class ManifestError(UsageError):
    """The manifest cannot be read, or a row of it cannot be used."""


class UnknownPluginError(UsageError, LookupError):
    """No reader, segmenter or encoder has that name."""


class EnvironmentProblem(WsiprepError):
    """This machine cannot do what was asked, whatever the slide."""

    exit_code = 3


class PluginUnavailableError(EnvironmentProblem, ImportError):
    """The plug-in exists, but a library that it needs does not import."""


class WeightsError(EnvironmentProblem):
    """Model weights are missing, cannot be fetched, or do not fit the model."""


class DeviceError(EnvironmentProblem):
    """The device asked for is not there, or has no memory for a single tile."""


class OutputError(EnvironmentProblem, OSError):
    """The output folder cannot be written: permissions, quota, or no space left."""


class SlideError(WsiprepError):
    """This slide failed; the run records it and goes on."""

    exit_code = 1


class SlideOpenError(SlideError, OSError):
    """No reader opens the file; the message lists each reader's reason."""


class SlideKindError(SlideOpenError):
    """The file is of another kind than the reader's, which says nothing against the file."""


class SlideReadError(SlideError, OSError):
    """A region could not be decoded."""


class ResolutionError(SlideError):
    """The resolution asked for cannot be had from this slide."""


class MissingMppError(ResolutionError):
    """The slide does not say how many micrometres a pixel is."""


class ImplausibleMppError(ResolutionError):
    """The slide's µm/px lies outside 0.05 to 20."""


class NonSquareMppError(ResolutionError):
    """The slide's µm/px differs between x and y by more than 1 %."""


class UpsamplingError(ResolutionError):
    """The resolution asked for is finer than the slide has."""


class TissueInputError(SlideError):
    """A mask or GeoJSON given by the user cannot be used for this slide."""


class MissingStageError(SlideError):
    """An earlier stage has not run for this slide; the hint is the command to run."""


class AmbiguousStageError(MissingStageError):
    """There are several grids, features or heat maps, and none is named; the hint lists them."""


class EncodingError(SlideError):
    """The encoder returned non-finite values or a wrong shape."""


class StoreError(WsiprepError):
    """This slide's store cannot be used; the run records it and goes on."""

    exit_code = 1


class StoreMismatchError(StoreError):
    """What is stored was made with other settings, or from another slide."""


class StoreCorruptError(StoreError):
    """What is stored is incomplete, or does not match its digests."""


class StoreBusyError(StoreError):
    """Another process is writing this slide at this moment."""


class Interrupted(WsiprepError):
    """The run was stopped by Ctrl-C or SIGTERM; finished work is kept."""

    exit_code = 130
