"""The door: a path becomes an open `Slide`, and a failure becomes a reason with a remedy."""

from __future__ import annotations

import os
from pathlib import Path

from wsiprep.core.contracts import Slide, TiledSlide
from wsiprep.core.errors import (
    PluginUnavailableError,
    ResolutionError,
    SlideKindError,
    SlideOpenError,
)
from wsiprep.slide.catalog import looks_like_slide, readers, slide_id_of, slide_suffixes
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.diagnosis import diagnose

__all__ = [
    "AUTO_ORDER",
    "looks_like_slide",
    "open_slide",
    "readers",
    "slide_id_of",
    "slide_suffixes",
    "why_not_tiled",
]

_TILED = ("tiff", "ndpi", "dicom")
AUTO_ORDER = (*_TILED, "openslide", "tiffslide", "image")
"""Readers that `auto` tries, in this order; installed ones follow by name."""


def open_slide(
    path: str | os.PathLike[str], cfg: SlideConfig | None = None, *, slide_id: str | None = None
) -> Slide:
    """Open a slide.

    With `reader="auto"` the first reader that opens the file is taken; `info.reader_reason` tells
    which were tried before and what they said. A reader that opens the file but finds its scale
    missing or wrong ends the search: another one would not know better.

    Args:
        path: A slide file, or a folder of DICOM files.
        cfg: Reader and scale; the defaults of `SlideConfig` if None.
        slide_id: Name of the slide in outputs; `slide_id_of(path)` if None.

    Raises:
        SlideOpenError: the path is not there, or no reader opens it.
        SlideReadError: the scale is refused, and the pixels cannot be decoded either.
        ResolutionError: the scale is missing, implausible or not square.
        UnknownPluginError: `cfg.reader` is no reader.
        PluginUnavailableError: the reader asked for by name does not import.
    """
    cfg = SlideConfig() if cfg is None else cfg
    uri = os.fspath(path)
    uri = uri if "://" in uri else os.path.abspath(uri)
    slide_id = slide_id_of(uri) if slide_id is None else slide_id
    _check_there(uri, slide_id)
    return (_first if cfg.reader == "auto" else _by_name)(uri, cfg, slide_id)


_REFUSED = "does not read it"


def why_not_tiled(slide: Slide) -> str | None:
    """Why a slide is read without access to its stored tiles, where a reader of tiles refused it.

    None where it has access, where the reader was chosen by name, and where the file is of a kind
    that no reader of tiles is for.
    """
    said = slide.info.reader_reason.partition(" opened after ")[2].split("; ")
    why = [text for text in said if f" {_REFUSED}: " in text]
    if isinstance(slide, TiledSlide) or not why:
        return None
    return f"Slides read by {slide.info.reader}, patch by patch: {'; '.join(why)}."


def _first(uri: str, cfg: SlideConfig, slide_id: str) -> Slide:
    """The slide as opened by the first reader that opens it."""
    tried: list[str] = []
    for name in (*AUTO_ORDER, *(n for n in readers.names() if n not in AUTO_ORDER)):
        reason = f"{name}: opened" + (f" after {'; '.join(tried)}" if tried else " first")
        try:
            slide: Slide = readers.load(name).create(uri, cfg, slide_id=slide_id, reason=reason)
        except (SlideOpenError, PluginUnavailableError) as err:
            refused = name in _TILED and not isinstance(err, SlideKindError)
            verb = _REFUSED if refused else "said"
            tried.append(f"{name} {verb}: {err.message.rstrip('.')}")
        except ResolutionError as err:
            if tried:
                err.message = f"{err.message} (Opened by {name}; {'; '.join(tried)}.)"
                err.args = (err.message,)
            raise
        else:
            return slide
    raise _refusal(uri, slide_id, f"no reader opens it ({'; '.join(tried)}).")


def _by_name(uri: str, cfg: SlideConfig, slide_id: str) -> Slide:
    reader = readers.load(cfg.reader)
    reason = f"{cfg.reader}: chosen by name"
    try:
        slide: Slide = reader.create(uri, cfg, slide_id=slide_id, reason=reason)
    except SlideOpenError as err:
        message = f"reader {cfg.reader} does not open it: {err.message.rstrip('.')}."
        if err.hint is not None:
            raise SlideOpenError(message, slide=slide_id, stage="slide", hint=err.hint) from err
        raise _refusal(uri, slide_id, message) from err
    return slide


def _check_there(uri: str, slide_id: str) -> None:
    hint = None
    try:
        empty = not Path(uri).is_dir() and os.stat(uri).st_size == 0
        if not empty:
            return
        what, hint = f"the file {uri} is empty (0 bytes).", "Copy it again."
    except FileNotFoundError:
        what = f"there is no file or folder {uri}."
        if "://" in uri:
            hint = "Remote addresses are not read: copy the slide to a local disk."
        elif os.path.islink(uri):
            what = f"{uri} is a link to a file that is not there."
    except (OSError, ValueError) as err:
        what = f"{uri!r} cannot be read: {getattr(err, 'strerror', None) or err}."
    raise SlideOpenError(what, slide=slide_id, stage="slide", hint=hint)


def _refusal(uri: str, slide_id: str, message: str) -> SlideOpenError:
    """An error with the best guess at what the file is."""
    try:
        hint = diagnose(Path(uri))
    except OSError as err:
        hint = f"The file cannot be read: {err.strerror or err}."
    return SlideOpenError(message, slide=slide_id, stage="slide", hint=hint)
