"""How many micrometres a level-0 pixel is: metadata, the user's word, or the objective power.

One rule for all readers. A value is used only if it is a number from 0.05 to 20 µm/px: a slide
scanned at 80x has about 0.1, a whole-slide overview some 10, and the 72 dpi that image libraries
write when nobody told them gives 352.8. The user's value wins over metadata; metadata wins over
the objective power, which is used only by flag.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wsiprep.core.errors import ImplausibleMppError, MissingMppError, NonSquareMppError
from wsiprep.core.types import MppSource
from wsiprep.core.units import MPP_AT_1X
from wsiprep.slide.config import SlideConfig

__all__ = ["MAX_MPP", "MIN_MPP", "RawResolution", "Resolution", "resolve"]

MIN_MPP = 0.05
MAX_MPP = 20.0
SQUARE_TOLERANCE = 0.01
OVERRIDE_TOLERANCE = 0.05
OBJECTIVE_TOLERANCE = 0.25

_STAGE = "slide"
_REMEDY = (
    "Give µm per level-0 pixel with --slide-mpp, or for each slide in the manifest column `mpp`."
)


@dataclass(frozen=True, slots=True)
class RawResolution:
    """What a file says about its scale, as found: text or numbers, not yet believed.

    Attributes:
        mpp_x: µm per level-0 pixel along x, or None where nothing is said.
        mpp_y: The same along y.
        objective: Objective power, e.g. 20 or "20x", or None.
        looked_for: Names of the properties that were looked for, for the error message.
    """

    mpp_x: object = None
    mpp_y: object = None
    objective: object = None
    looked_for: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """The scale that is used.

    Attributes:
        mpp: µm per level-0 pixel, geometric mean of x and y.
        source: Where it comes from.
        objective: Objective power, or None if the file gives no usable one.
        notes: Warnings for the user, one sentence each.
    """

    mpp: float
    source: MppSource
    objective: float | None
    notes: tuple[str, ...] = ()


def resolve(slide: str, raw: RawResolution, cfg: SlideConfig) -> Resolution:
    """Decide the scale of a slide.

    Where only one axis is given, the other is taken to be equal, with a note.

    Args:
        slide: Name for messages.
        raw: What the file says.
        cfg: The user's word.

    Raises:
        MissingMppError: nothing is said, and the user gives nothing.
        ImplausibleMppError: a value is no number, or lies outside 0.05 to 20.
        NonSquareMppError: x and y differ by more than 1 %.
    """
    objective = _objective(raw.objective)
    notes: list[str] = []
    source: MppSource
    if cfg.slide_mpp is not None:
        mpp, source = _plausible(slide, cfg.slide_mpp, "--slide-mpp or the manifest"), "override"
        notes += _override_notes(mpp, raw)
    elif raw.mpp_x is None and raw.mpp_y is None:
        mpp, source = _from_objective(slide, raw, objective, cfg), "objective"
        notes.append(
            f"The file gives no µm/px: {mpp:.4g} is 10 / {objective:g}, the objective power."
        )
    else:
        mpp, source = _from_metadata(slide, raw, notes), "metadata"
    if objective is not None and source != "objective":
        notes += _objective_notes(mpp, objective)
    return Resolution(mpp, source, objective, tuple(notes))


def _from_metadata(slide: str, raw: RawResolution, notes: list[str]) -> float:
    given = [v for v in (raw.mpp_x, raw.mpp_y) if v is not None]
    if len(given) == 1:
        notes.append("The file gives µm/px along one axis only; the other is taken to be equal.")
    x, y = (_plausible(slide, v, "the file") for v in (given[0], given[-1]))
    if max(x, y) / min(x, y) > 1 + SQUARE_TOLERANCE:
        raise NonSquareMppError(
            f"its pixels are not square: {x:.6g} µm wide, {y:.6g} µm high.",
            slide=slide,
            stage=_STAGE,
            hint=f"If the metadata is wrong: {_REMEDY}",
        )
    return math.sqrt(x * y)


def _from_objective(
    slide: str, raw: RawResolution, objective: float | None, cfg: SlideConfig
) -> float:
    if objective is not None and cfg.mpp_from_objective:
        return _plausible(slide, MPP_AT_1X / objective, "10 / objective power")
    hint = _REMEDY
    said = ""
    if objective is not None:
        said = f"; it does give an objective power of {objective:g}"
        hint += (
            f" --mpp-from-objective takes 10 / {objective:g} = {MPP_AT_1X / objective:.4g} instead."
        )
    looked = ", ".join(raw.looked_for) or "none known for this format"
    raise MissingMppError(
        f"the file does not say how many µm a pixel is (looked for: {looked}{said}).",
        slide=slide,
        stage=_STAGE,
        hint=hint,
    )


def _number(value: object) -> float | None:
    """A finite number from text or a number; None for anything else."""
    if not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _objective(value: object) -> float | None:
    """Objective power, or None where there is none that could be true."""
    if isinstance(value, str):
        value = value.strip().removesuffix("x").removesuffix("X")
    power = _number(value)
    return power if power is not None and 0.1 <= power <= 250 else None


def _plausible(slide: str, value: object, origin: str) -> float:
    number = _number(value)
    if number is not None and MIN_MPP <= number <= MAX_MPP:
        return number
    shown = repr(value) if number is None else f"{number:.6g}"
    why = "is no number" if number is None else f"lies outside {MIN_MPP:g} to {MAX_MPP:g}"
    if number is not None and 200 < number < 400:  # 72 and 96 dpi
        why += "; it looks like the default resolution of an image library, not of a scanner"
    raise ImplausibleMppError(
        f"{shown} µm/px from {origin} {why}.", slide=slide, stage=_STAGE, hint=_REMEDY
    )


def _override_notes(mpp: float, raw: RawResolution) -> list[str]:
    """A warning where the file says something else than the user."""
    given = [v for v in (raw.mpp_x, raw.mpp_y) if v is not None]
    numbers = [_number(v) for v in given]
    limit = 1 + OVERRIDE_TOLERANCE
    if all(n is not None and n > 0 and 1 / limit <= n / mpp <= limit for n in numbers):
        return []
    shown = [repr(v) if n is None else f"{n:.6g}" for v, n in zip(given, numbers, strict=True)]
    said = " x ".join(dict.fromkeys(shown))
    return [f"The file says {said} µm/px; {mpp:.6g} as given by the user is used."]


def _objective_notes(mpp: float, objective: float) -> list[str]:
    ratio = mpp * objective / MPP_AT_1X
    if 1 / (1 + OBJECTIVE_TOLERANCE) <= ratio <= 1 + OBJECTIVE_TOLERANCE:
        return []
    return [
        f"{mpp:.4g} µm/px and objective power {objective:g} disagree "
        f"(10 / {objective:g} = {MPP_AT_1X / objective:.4g}); the µm/px is used."
    ]
