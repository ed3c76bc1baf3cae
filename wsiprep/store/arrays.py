"""Arrays of a store, read so that damaged bytes are one error of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from wsiprep.core.errors import StoreCorruptError

T = TypeVar("T")

__all__ = ["array_of", "decoded", "load", "load_known"]


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a group, unread.

    Raises:
        StoreCorruptError: that is not an array.
    """
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise StoreCorruptError(f"{name} is not an array.", stage="store")
    return array


def load(group: zarr.Group, name: str, path: Path) -> NDArray[Any]:
    """The whole of an array; `path` is the store's, for messages.

    Raises:
        StoreCorruptError: it is not there, or does not decode.
    """
    return decoded(path, lambda: np.asarray(array_of(group, name)[...]))


def load_known(group: zarr.Group, names: tuple[str, ...], path: Path) -> dict[str, Any]:
    """Arrays that parts written in format 1 do not have, where they are."""
    return {name: load(group, name, path) for name in names if name in group}


def decoded(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives; what Zarr and its codecs raise on damaged bytes becomes one error of ours.

    Raises:
        StoreCorruptError: in place of theirs.
    """
    try:
        return read()
    except StoreCorruptError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as err:
        raise StoreCorruptError(
            f"stored content does not decode: {err}.",
            slide=path.stem,
            stage="store",
            hint="`wsiprep verify` says what to run again.",
        ) from err
