"""What all readers share: clipping, white paper, errors, forks, thumbnails.

A reader is a module of this folder (its file name is its name) or an entry point of the group
`wsiprep.readers`. It defines

- `EXTENSIONS: tuple[str, ...]`, lower case with the dot, used when a folder is searched;
- `create(uri, cfg, *, slide_id, reason) -> Slide`, which opens the slide, or raises
  `SlideOpenError` if it is not its kind and a `ResolutionError` if it cannot be used for its scale.

`create` gathers `Facts` and calls `assemble` with a subclass of `BaseSlide`, which adds how a
handle is opened and how a box inside a level is read.
"""

from __future__ import annotations

import contextlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import ResolutionError, SlideReadError, UsageError, WsiprepError
from wsiprep.core.types import Box, Point, Size, SlideInfo
from wsiprep.slide.config import SlideConfig
from wsiprep.slide.facts import Facts, Source, slide_info
from wsiprep.slide.readers._thumbnail import area_average
from wsiprep.slide.resolution import Resolution, resolve

__all__ = ["BaseSlide", "assemble", "on_white", "one_line"]

WHITE = 255
DAMAGED = (
    "The file is damaged or incomplete there: compare its size and checksum with the original, "
    "or go on without that part: --on-bad-tile mask."
)
LEVEL_SLACK = 1.01
"""A level up to 1 % coarser than a thumbnail still serves it: pyramids are rounded to pixels."""
_PROBE_PX = 256
_PART_PX = 256
"""Side of the parts that a thumbnail can do without."""

_abandoned: list[Any] = []  # handles of a parent process; closing them here could harm it

S = TypeVar("S", bound="BaseSlide")


class BaseSlide(ABC):
    """An open slide, as `core.contracts.Slide` promises it.

    The level pixel of a level-0 coordinate is `round(origin0 / downsample)`, halves to even as
    `round` and `numpy.rint` do it.

    A handle is opened when first needed, and again after a failed read (some libraries refuse
    all work after an error), in another process, and after unpickling. A handle inherited by a
    fork is neither used nor closed.

    Args:
        info: What is known of the slide.
        native_levels: For each level of `info`, the index that the library knows it by.
    """

    survives_fork: ClassVar[bool] = False
    """Whether a handle may be used by a forked process (true of plain memory only)."""

    def __init__(self, info: SlideInfo, native_levels: tuple[int, ...]) -> None:
        self._info = info
        self._native_levels = native_levels
        self._handle: Any = None
        self._pid = os.getpid()
        self._closed = False

    @abstractmethod
    def _open_handle(self) -> Any:
        """Open the file anew; whatever it raises becomes a `SlideReadError`."""

    @abstractmethod
    def _close_handle(self, handle: Any) -> None:
        """Release what `_open_handle` returned."""

    @abstractmethod
    def _read_box(self, handle: Any, level: int, box: Box) -> NDArray[np.uint8]:
        """Pixels of a non-empty box that lies inside a level.

        Args:
            handle: As `_open_handle` returned it.
            level: Index into `info.level_sizes`.
            box: In pixels of that level.

        Returns:
            uint8 (box.height, box.width, 3) RGB, not shared with anything, alpha on white.
        """

    @property
    def info(self) -> SlideInfo:
        """Sizes, resolution, identity."""
        return self._info

    def read(self, origin0: Point, level: int, size: Size) -> NDArray[np.uint8]:
        """Read a region; see `core.contracts.Slide.read`."""
        self._check_level(level)
        scale, limit = self._info.downsamples[level], self._info.level_sizes[level]
        x, y = round(origin0.x / scale), round(origin0.y / scale)
        x0, x1 = max(x, 0), min(x + size.width, limit.width)
        y0, y1 = max(y, 0), min(y + size.height, limit.height)
        if x0 >= x1 or y0 >= y1:
            self._check_open()
            return np.full((size.height, size.width, 3), WHITE, np.uint8)
        inside = self._read_inside(level, Box(x0, y0, x1 - x0, y1 - y0))
        if inside.shape == (size.height, size.width, 3):
            return inside
        region = np.full((size.height, size.width, 3), WHITE, np.uint8)
        region[y0 - y : y1 - y, x0 - x : x1 - x] = inside
        return region

    def thumbnail(self, mpp: float, bad: set[str] | None = None) -> NDArray[np.uint8]:
        """The whole of level 0 at about `mpp` µm/px; see `core.contracts.Slide.thumbnail`.

        Averaged from the coarsest level that is fine enough. Memory is bounded as told in
        `_thumbnail.area_average`: about 150 MiB and sixteen times the result at most, even for a
        slide that has only level 0.

        Raises:
            SlideReadError: a part of that level cannot be decoded; with `bad`, there is nothing
                but white beside such parts.
            UsageError: `mpp` is not a positive number.
        """
        self._check_open()
        if not (mpp > 0 and math.isfinite(mpp)):
            raise UsageError(f"a thumbnail needs a positive µm/px, not {mpp}.")
        size0 = self._info.size0
        shrink = min(1.0, self._info.mpp / mpp)
        size = Size(max(1, round(size0.width * shrink)), max(1, round(size0.height * shrink)))
        level = max(
            i
            for i, scale in enumerate(self._info.downsamples)
            if i == 0 or scale * shrink <= LEVEL_SLACK
        )
        level_size = self._info.level_sizes[level]
        fits = Size(min(size.width, level_size.width), min(size.height, level_size.height))
        lost: set[str] | None = None if bad is None else set()
        picture = self._average(level, fits, lost)
        if bad is not None and lost:
            if picture.min() == WHITE:
                raise self._error(
                    f"nothing is left of level {level} without what cannot be decoded: {min(lost)}",
                    hint="The file is damaged; copy it again, or try another --reader.",
                )
            bad |= lost
        if fits != size:  # by a pixel or so, see LEVEL_SLACK
            import cv2

            picture = cv2.resize(
                picture, (size.width, size.height), interpolation=cv2.INTER_LINEAR
            ).astype(np.uint8, copy=False)
        return picture

    def _average(self, level: int, size: Size, bad: set[str] | None) -> NDArray[np.uint8]:
        """The whole of a level, averaged down to `size`; `bad` as of `thumbnail`."""
        level_size = self._info.level_sizes[level]
        return area_average(lambda box: self._read_sound(level, box, bad), level_size, size)

    def _read_sound(self, level: int, box: Box, bad: set[str] | None) -> NDArray[np.uint8]:
        """A box; with `bad`, what cannot be decoded is found by halves, noted there and white."""
        try:
            return self._read_inside(level, box)
        except SlideReadError as err:
            if bad is None:
                raise
            if max(box.width, box.height) <= _PART_PX:
                bad.add(err.message)
                return np.full((box.height, box.width, 3), WHITE, np.uint8)
        x, y, w, h = box.x, box.y, box.width, box.height
        if w >= h:
            halves = (Box(x, y, w // 2, h), Box(x + w // 2, y, w - w // 2, h))
        else:
            halves = (Box(x, y, w, h // 2), Box(x, y + h // 2, w, h - h // 2))
        return np.concatenate([self._read_sound(level, b, bad) for b in halves], int(w >= h))

    def reopen(self) -> Self:
        """A new, independent handle on the same slide, for another thread or process."""
        twin = self.__class__.__new__(self.__class__)
        twin.__setstate__({**self.__getstate__(), "_closed": False})
        return twin

    def close(self) -> None:
        """Release the handle; closing twice is allowed."""
        self._drop_handle()
        self._closed = True

    def adopt(self, handle: Any) -> None:
        """Use a handle that was opened by this process already."""
        self._drop_handle()
        self._handle, self._pid = handle, os.getpid()

    def probe(self) -> None:
        """Decode a little of level 0, at its corner and in its middle.

        Raises:
            SlideReadError: it cannot be decoded.
        """
        size0 = self._info.size0
        size = Size(min(_PROBE_PX, size0.width), min(_PROBE_PX, size0.height))
        for origin0 in (Point(0, 0), Point(size0.width // 2, size0.height // 2)):
            self.read(origin0, 0, size)

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        self._check_open()
        try:
            return self._read_box(self._live_handle(), level, box)
        except WsiprepError:
            raise
        except Exception as err:  # decoders raise whatever they like
            self._drop_handle()
            scale = self._info.downsamples[level]
            raise self._error(
                f"the region of {box.width} x {box.height} px of level {level} at level-0 origin "
                f"({round(box.x * scale)}, {round(box.y * scale)}) cannot be decoded "
                f"({self._info.reader}: {one_line(err)}).",
                hint=DAMAGED,
            ) from err

    def _error(self, message: str, hint: str | None = None) -> SlideReadError:
        return SlideReadError(message, slide=self._info.id, stage="slide", hint=hint)

    def _check_level(self, level: int) -> None:
        levels = len(self._info.level_sizes)
        if not 0 <= level < levels:
            raise self._error(f"there is no level {level}; it has {levels} (0 to {levels - 1}).")

    def _check_open(self) -> None:
        if self._closed:
            raise self._error("the slide is closed.", hint="Use `reopen()` for a new handle.")

    def _live_handle(self) -> Any:
        """The handle of this process, opened if there is none."""
        if not self.survives_fork and self._pid != os.getpid():
            self._drop_handle()
        if self._handle is None:
            self._handle = self._open_handle()
            self._pid = os.getpid()
        return self._handle

    def _drop_handle(self) -> None:
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if self._pid != os.getpid() and not self.survives_fork:
            _abandoned.append(handle)
        else:
            self._close_handle(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _pid=os.getpid())

    def __del__(self) -> None:
        # A constructor that failed leaves no handle; at interpreter exit libraries may be gone.
        if self.__dict__.get("_handle") is not None:
            with contextlib.suppress(Exception):
                self._drop_handle()

    def __repr__(self) -> str:
        state = (
            "closed" if self._closed else f"{self._info.size0.width} x {self._info.size0.height}"
        )
        return f"<{type(self).__name__} {self._info.id!r}, {state}>"


def assemble(
    make: Callable[[SlideInfo, tuple[int, ...]], S],
    handle: Any,
    source: Source,
    facts: Facts,
    cfg: SlideConfig,
) -> S:
    """A slide from an open handle and the facts found with it.

    Where the scale is refused, some pixels are decoded first: a file that is broken is called
    broken, not in want of µm/px. The handle belongs to the slide from here on: it is closed if the
    scale is refused.

    Raises:
        ResolutionError: the scale is missing, implausible or not square.
        SlideReadError: so it is, and the pixels cannot be decoded either.
        SlideOpenError: the facts make no slide.
    """
    try:
        resolution = resolve(source.slide_id, facts.raw, cfg)
    except ResolutionError:
        unscaled = Resolution(1.0, "override", None)  # pixels do not depend on it
        with make(*slide_info(source, facts, unscaled)) as slide:
            slide.adopt(handle)
            slide.probe()
        raise
    slide = make(*slide_info(source, facts, resolution))
    slide.adopt(handle)
    return slide


def on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite on white: colour * alpha + white * (1 - alpha), rounded to nearest.

    Args:
        rgba: uint8 (h, w, 4), colour not multiplied by alpha.

    Returns:
        uint8 (h, w, 3).
    """
    import cv2

    if rgba[..., 3].min() == WHITE:  # scanned area: nearly always
        return cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB).astype(np.uint8, copy=False)
    alpha = rgba[..., 3:].astype(np.uint32)
    blend = rgba[..., :3] * alpha + WHITE * (WHITE - alpha)
    return ((blend + WHITE // 2) // WHITE).astype(np.uint8)


def one_line(err: object) -> str:
    """The message of a foreign error or warning on one line, or its class where it says nothing."""
    text = " ".join(str(err).split()).rstrip(".!")
    return text if text else type(err).__name__
